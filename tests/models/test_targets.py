"""Answers of several tokens, at a span, and to the corrupted prompt: in tokens, in files, and as a plain forward sees
them."""

import json
from dataclasses import replace

import pytest
import torch

from pipeline import load_model
from pipeline.core.errors import PromptError
from pipeline.core.prompts import PromptPair
from pipeline.metrics import get_metric
from pipeline.models.tokens import tokenise
from pipeline.store.run.tables import prompts_of, prompts_table
from pipeline.tasks import FileTask
from tests.tokenizers import tokenizer

PAIR = PromptPair(
    "Then Mary went to the store",
    "Then John went to the store",
    (" said Mary",),
    (" said John", " and"),
    source="mine.jsonl:3",
    spans={"who": "Mary", "where": "store"},
    target="sequence",
)


def ids_of(made, text):
    return tuple(made(text)["input_ids"])


@pytest.mark.parametrize("kind", ["byte", "bpe always", "words"])
def test_all_tokens_of_an_answer_are_those_that_the_tokenizer_writes_behind_the_prompt(kind):
    made = tokenizer(kind)
    (token,) = tokenise([PAIR], made)
    for given, found in (
        (PAIR.answers, token.sequences.answers),
        (PAIR.wrong_answers, token.sequences.wrong_answers),
    ):
        assert [(*token.clean, *tokens) for tokens in found] == [
            ids_of(made, PAIR.clean + text) for text in given
        ]
    assert token.answers == (token.sequences.answers[0][0],)
    forced = token.sequences.forced
    assert len(forced) == len(set(forced)) == token.length - len(token.clean)
    assert all(len(tokens) == 1 or tokens[:-1] in forced[:i] for i, tokens in enumerate(forced))


def test_the_first_difference_is_one_token_behind_what_all_answers_have_in_common():
    made = tokenizer("words")
    pair = replace(PAIR, target="first_difference", wrong_answers=(" said John",))
    (token,) = tokenise([pair], made)
    assert (*token.clean, *token.answers) == ids_of(made, PAIR.clean + " said Mary")
    assert (*token.clean, *token.wrong_answers) == ids_of(made, PAIR.clean + " said John")
    assert token.corrupted == ids_of(made, PAIR.corrupted + " said")
    assert token.sequences is None
    (alone,) = tokenise([replace(pair, wrong_answers=())], made)
    assert (*alone.clean, *alone.answers) == ids_of(made, PAIR.clean + " said")


def test_an_answer_may_be_read_behind_a_span():
    made = tokenizer("words")
    pair = replace(PAIR, target="token", read="who", answers=(" went",), wrong_answers=(" and",))
    (token,) = tokenise([pair], made)
    assert token.clean[: token.read + 1] == ids_of(made, "Then Mary")
    assert (*token.clean[: token.read + 1], *token.answers) == ids_of(made, "Then Mary went")
    (end,) = tokenise([replace(pair, read="where")], made)
    assert end.read is None


@pytest.mark.parametrize("target", ["sequence", "first_difference"])
def test_several_tokens_behind_a_span_are_read_of_prompts_that_end_there(target):
    made = tokenizer("words")
    pair = replace(PAIR, target=target, wrong_answers=(" said John",))
    (ended,) = tokenise(
        [replace(pair, clean="Then Mary", corrupted="Then John", spans={"who": "Mary"})], made
    )
    (token,) = tokenise([replace(pair, read="who")], made)
    assert replace(token, pair=ended.pair) == ended
    assert token.pair.clean == PAIR.clean, "what people read is the whole prompt"


def test_several_ids_behind_a_span_are_read_of_prompts_that_end_there():
    given = PromptPair((3, 4, 5, 2), (3, 6, 5, 2), ((7, 8), 9), ((7, 4),), target="sequence")
    spans = {"early": (0, 2), "here": (1, 3), "over": (2, 4), "late": (3, 4)}
    (token,) = tokenise([replace(given, spans=spans, read="here")], None)
    ended = replace(given, clean=(3, 4, 5), corrupted=(3, 6, 5), spans=spans | {"over": (2, 3)})
    del ended.spans["late"]
    assert token == tokenise([ended], None)[0]


def test_answers_to_the_corrupted_prompt_are_the_wrong_ones_where_none_are_given():
    made = tokenizer("words")
    pair = replace(PAIR, target="token", answers=(" Mary",), wrong_answers=(), corrupted_answers=(" John",))
    (token,) = tokenise([pair], made, needs_wrong=True)
    assert token.wrong_answers == token.corrupted_answers == ids_of(made, PAIR.corrupted + " John")[-1:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "token"}, "the answer ' said Mary' is 2 tokens after this prompt"),
        ({"read": "whom"}, "read: whom is no span of this prompt; it has who, where"),
        ({"answers": (" said", " said Mary")}, "begins the answer .* and its probability holds the other's"),
        ({"wrong_answers": (" said Mary",)}, "are both an answer and a wrong answer; keep them in one"),
        (
            {"target": "first_difference", "wrong_answers": (" said",)},
            "is what another begins with, so that no token of it differs; give another",
        ),
        (
            {"corrupted_answers": (" store",), "wrong_answers": (" and",)},
            "corrupted_answers and other wrong_answers are not read in one run; leave wrong_answers out",
        ),
        ({"answers": ((3, 10**6),)}, "token id 1000000 is outside of the model's vocabulary"),
    ],
)
def test_what_cannot_be_read_is_one_line(change, message):
    with pytest.raises(PromptError, match=rf"^mine\.jsonl:3: .*{message}") as error:
        tokenise([replace(PAIR, **change)], tokenizer("words"), vocab_size=1000)
    assert "\n" not in str(error.value)


def test_continuations_beyond_a_window_are_refused():
    branching = replace(PAIR, wrong_answers=(" gave John",))
    with pytest.raises(PromptError, match="exact up to 6 tokens, and there are 7; shorten it, or set target"):
        tokenise([branching], tokenizer("words"), max_branched=6)
    tokenise([branching], tokenizer("words"), max_branched=7)
    tokenise([PAIR], tokenizer("words"), max_branched=6)  # one token behind the prompt continues both


@pytest.mark.parametrize(
    "pair",
    [
        PAIR,
        replace(PAIR, target="first_difference", wrong_answers=(" said John",)),
        replace(PAIR, read="who"),
        replace(PAIR, read="who", target="first_difference", wrong_answers=(" said John",)),
        PromptPair(
            (3, 4, 5), (3, 6, 5), ((7, 8),), ((7, 4),), spans={"a": (0, 2)}, read="a", target="sequence"
        ),
        replace(
            PAIR,
            read="who",
            target="token",
            answers=(" went",),
            wrong_answers=(),
            corrupted_answers=(" and",),
        ),
        PromptPair((3, 4, 5), (3, 6, 5), ((7, 8), 9), ((7, 4),), target="sequence"),
        PromptPair((3, 4, 5), (3, 6, 5), ((7, 8),), ((7, 4),), target="first_difference"),
    ],
)
def test_prompts_come_back_from_the_table_as_they_were(pair):
    tokens = tokenise(
        [pair, replace(PAIR, target="token", answers=(" Mary",), wrong_answers=())], tokenizer("words")
    )
    table = prompts_table({"mine": [tokens]})
    assert prompts_of(table) == tokens
    assert [found.pair.answers for found in prompts_of(table)] == [token.pair.answers for token in tokens]
    assert "targets" not in prompts_table({"mine": [tokens[1:]]}).column_names


def test_files_hold_answers_of_several_tokens_and_those_to_the_corrupted_prompt(tmp_path):
    path = tmp_path / "mine.jsonl"
    row = {"clean": [3, 4], "corrupted": [3, 5], "answers": [[6, 7], 8], "corrupted_answers": [[6, 9]]}
    path.write_text(json.dumps(row) + "\n")
    ((pairs, _),) = FileTask(path=str(path), target="sequence").told(None, 0)
    (token,) = tokenise(pairs, None)
    assert token.sequences.answers == ((6, 7), (8,))
    assert token.sequences.wrong_answers == ((6, 9),)
    csv = tmp_path / "mine.csv"
    csv.write_text('clean,corrupted,answers,corrupted_answers\n"[3, 4]","[3, 5]","[[6, 7], 8]","[[6, 9]]"\n')
    ((same, _),) = FileTask(path=str(csv), target="sequence").told(None, 0)
    assert replace(same[0], source="") == replace(pairs[0], source="")


@pytest.mark.parametrize("target", ["sequence", "token"])
def test_a_text_is_measured_as_a_plain_forward_of_prompt_and_answer(target):
    model = load_model("toy:trained", dtype="float64")
    # in one order, and none a part of another: a span is words that occur once
    known = sorted(word for word in model.tokenizer.get_vocab() if word.isalpha() and len(word) > 4)[:6]
    a, b, c, d, e, f = known
    pair = PromptPair(
        f"{a} {b} {c}", f"{a} {d} {c}", (f" {e} {f}",), (f" {f} {e}", f" {d}"), target="sequence"
    )
    if target == "token":
        pair = replace(
            pair, target="token", spans={"here": b}, read="here", answers=(f" {e}",), wrong_answers=(f" {f}",)
        )
    batch = model.batch([pair])
    found = model.objective(get_metric("prob"), batch)(model.answer_hidden(batch, "corrupted"))
    before, behind = (pair.corrupted, pair.answers[0]) if target == "sequence" else (f"{a} {d}", f" {e}")
    ids = model.tokenizer(before + behind, return_tensors="pt")["input_ids"]
    n = len(model.tokenizer(behind.strip(), add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        log_probs = model.hf(ids).logits[0].double().log_softmax(-1)
    expected = sum(log_probs[-n - 1 + i, ids[0, -n + i]] for i in range(n)).exp()
    assert abs(float(found[0]) - float(expected)) <= 1e-12
