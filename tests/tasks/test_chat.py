"""Prompts in a chat template: rendered once, begun once, with spans where they were."""

import json
from dataclasses import replace

import pytest

from pipeline.core.errors import PromptError
from pipeline.core.prompts import PromptPair
from pipeline.models.tokens import tokenise
from pipeline.tasks import FileTask, Ioi
from pipeline.tasks.chat import in_chat
from tests.tokenizers import tokenizer

# Two of its words are in the prompt too, and it writes the token for the beginning, as most do.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}He said {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}She said{% endif %}"
)
PAIR = PromptPair(
    "Then Mary went to the store",
    "Then John went to the store",
    (" Mary",),
    (" John",),
    source="mine.jsonl:3",
    spans={"who": "Mary", "where": (22, 27)},
)


@pytest.fixture
def chatting():
    made = tokenizer("byte", "first")
    before, made.chat_template = made.chat_template, TEMPLATE
    yield made
    made.chat_template = before


def test_a_prompt_is_rendered_with_one_token_for_the_beginning_and_the_answer_after_the_models_turn(chatting):
    pair = in_chat(PAIR, chatting)
    assert pair.clean == "<s>He said Then Mary went to the store She said"
    (read,) = tokenise([pair], chatting)
    assert read.clean.count(chatting.bos_token_id) == 1
    assert chatting.decode(list(read.clean)) == pair.clean
    whole = chatting(pair.clean + " Mary", add_special_tokens=False)["input_ids"]
    assert (*read.clean, *read.answers) == tuple(whole)


def test_spans_mean_the_same_words_within_the_template(chatting):
    pair = replace(PAIR, spans=PAIR.spans | {"said": (0, 4)})
    (read,) = tokenise([in_chat(pair, chatting)], chatting)
    said = {name: chatting.decode(list(read.clean[a:b])).strip() for name, (a, b) in read.spans.items()}
    assert said == {"who": "Mary", "where": "store", "said": "Then"}


@pytest.mark.parametrize(
    ("change", "template", "message"),
    [
        ({}, None, r"mine\.jsonl:3: chat: true, and the model's tokenizer has no chat template; leave chat out"),
        ({"clean": (1, 2), "corrupted": (1, 3), "spans": {}}, TEMPLATE, r"this prompt is token ids; render it, or"),
        ({"spans": {"who": "t"}}, TEMPLATE, r"the span 'who', 't', occurs 4 times in the clean prompt"),
        ({}, "{{ messages[0].content.upper() }}", r"the chat template changes this prompt's words"),
        ({}, "{{ raise_exception('no users') }}", r"the chat template cannot render this prompt \(no users\)"),
    ],
)  # fmt: skip
def test_what_no_template_can_render_is_named_with_the_mend(chatting, change, template, message):
    chatting.chat_template = template
    with pytest.raises(PromptError, match=message) as caught:
        in_chat(replace(PAIR, **change), chatting)
    assert "\n" not in str(caught.value)


def test_chat_is_written_down_only_where_it_is_asked_for():
    """What is written out is in run keys."""
    assert "chat" not in Ioi().model_dump(mode="json")
    assert "chat" not in FileTask(path="p.jsonl").model_dump(mode="json")
    assert Ioi(chat=True).model_dump(mode="json")["chat"] is True
    assert Ioi(chat=True).id == "ioi-chat"


def test_a_plan_renders_the_prompts_of_a_task_that_asks_for_it(chatting, tmp_path):
    from pipeline.schedule.make import told

    row = {"clean": PAIR.clean, "corrupted": PAIR.corrupted, "answers": [" Mary"], "wrong_answers": [" John"]}
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(row))
    task = FileTask(path=str(path), chat=True)
    (pair,) = told(task, "pairs", chatting, 0)
    assert pair.clean == in_chat(PAIR, chatting).clean
