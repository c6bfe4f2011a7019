"""What every behaviour keeps, with tokenizers of four kinds: equal lengths, answers in context, spans, clear lines."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.core.errors import PromptError
from pipeline.models.tokens import tokenise
from pipeline.tasks import TASKS, Induction, Ioi
from pipeline.tasks.acronym import Acronym
from pipeline.tasks.addition import Addition
from pipeline.tasks.capital import Capital
from pipeline.tasks.coloured_objects import ColouredObjects
from pipeline.tasks.countries import CAPITALS
from pipeline.tasks.docstring import Docstring
from pipeline.tasks.entity_binding import EntityBinding
from pipeline.tasks.factual_recall import FACTS, FactualRecall
from pipeline.tasks.gender_pronoun import GenderPronoun
from pipeline.tasks.label_copy import LabelCopy
from pipeline.tasks.multiple_choice import MultipleChoice
from pipeline.tasks.people import MEN, WOMEN
from pipeline.tasks.relations import Antonym, MonthNext
from pipeline.tasks.subject_verb import NOUNS, SubjectVerb
from pipeline.tasks.successor import SERIES, Successor
from pipeline.tasks.translation import Translation
from pipeline.tasks.upper_case import UpperCase
from pipeline.tasks.verbatim import PASSAGES, Verbatim
from tests.tasks.kinds import FRAMED, KINDS, tokenizer
from tests.tokenizers import tokenizer as of_letters

SEEDS = st.integers(min_value=0, max_value=2**40)
# Options beside the defaults, each in one case at least.
OPTIONS = {
    Capital: ({"shots": 0}, {"corruption": "shuffled"}),
    UpperCase: ({"letters": "first"},),
    Translation: ({"into": "spanish"}, {"into": "german", "shots": 1}),
    SubjectVerb: ({"attractor": "opposite"}, {"attractor": "same"}),
    Docstring: ({"corruption": "random_doc"}, {"corruption": "random_answer"}),
    MultipleChoice: ({"corruption": "letters"},),
    ColouredObjects: ({"corruption": "colours"},),
    EntityBinding: ({"corruption": "asked"}, {"bindings": 5}),
    LabelCopy: ({"corruption": "items"}, {"corruption": "asked", "items": 4}),
    Acronym: ({"corruption": "letters"},),
    Successor: ({"given": 1},),
    Addition: ({"carry": "with"}, {"digits": 2, "carry": "mixed"}, {"shots": 0, "carry": "mixed"}),
}
CASES = [(task, options) for task in FRAMED for options in ({}, *OPTIONS.get(task, ()))]
# A case of each in turn: all of them with every kind are for the slow tests.
FEW = [(KINDS[i % 3], *case) for i, case in enumerate(CASES)]
ALL = [(kind, *case) for case in CASES for kind in KINDS]


def ids(made, text):
    return made(text)["input_ids"]


def check(kind, task, options, seed, count):
    """The tokenizer alone says whether lengths are equal and what an answer's token is."""
    made = tokenizer(kind)
    pairs = task(count=count, **options).pairs(made, seed)
    assert len(pairs) == count
    for pair in pairs:
        clean, corrupted = ids(made, pair.clean), ids(made, pair.corrupted)
        assert len(clean) == len(corrupted)
        assert clean != corrupted
        assert made.unk_token_id is None or made.unk_token_id not in clean + corrupted
        tokens = []
        for answer in (*pair.answers, *pair.wrong_answers):
            *before, token = ids(made, pair.clean + answer)
            assert before == clean
            assert token != made.unk_token_id
            tokens.append(token)
        assert len(set(tokens)) == len(pair.answers) + len(pair.wrong_answers) == len(tokens) > 1
    for pair, read in zip(pairs, tokenise(pairs, made), strict=True):
        first, end = read.spans["end"]
        assert first < end == read.length or pair.clean[-1].isspace()
        inside = {token for a, b in read.spans.values() for token in range(a, b)}
        changed = {i for i, (a, b) in enumerate(zip(read.clean, read.corrupted, strict=True)) if a != b}
        assert changed <= inside  # what is exchanged is named
        assert all(isinstance(piece, tuple) for piece in pair.spans.values())


@pytest.mark.parametrize(("kind", "task", "options"), FEW, ids=str)
def test_pairs_are_as_many_as_asked_equally_long_and_answered_by_one_token(kind, task, options):
    check(kind, task, options, seed=7, count=6)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "task", "options"), ALL, ids=str)
def test_pairs_are_equally_long_and_answered_by_one_token_with_every_tokenizer(kind, task, options):
    @settings(max_examples=2)
    @given(seed=SEEDS)
    def drawn(seed):
        check(kind, task, options, seed, count=25)

    drawn()


@pytest.mark.parametrize("task", [task for task in FRAMED if task is not Addition])
def test_a_tokenizer_of_letters_writes_no_behaviour_and_one_line_says_so(task):
    with pytest.raises(PromptError) as caught:
        task().pairs(tokenizer("letters"), 0)
    line = str(caught.value)
    assert "\n" not in line
    assert re.match(
        rf"task {task().name}: this tokenizer writes \d+ of \d+ words of the list '\w+' as one token", line
    )
    assert "give your own pairs with {name: file, path: ...}" in line


def test_a_tokenizer_of_letters_writes_sums_digit_by_digit():
    for options in ({}, {"carry": "with"}, {"digits": 2}):
        check("letters", Addition, options, seed=1, count=3)


def test_every_behaviour_cites_its_paper_and_a_metric_of_ours():
    from pipeline.metrics import METRICS

    for task in TASKS[1:]:
        assert task.paper
        assert task.measure in METRICS
        assert "orrupt" in task.__doc__
        assert "pans:" in task.__doc__ + task.__mro__[1].__doc__


def test_the_ids_of_behaviours_are_fixed():
    names = [task.model_fields["name"].default for task in TASKS]
    assert names == [
        *(
            "file",
            "ioi",
            "induction",
            "greater_than",
            "docstring",
            "subject_verb",
            "gender_pronoun",
            "capital",
        ),
        *(
            "country_language",
            "month_next",
            "animal_young",
            "antonym",
            "past_tense",
            "upper_case",
            "translation",
        ),
        *("addition", "factual_recall", "multiple_choice", "coloured_objects", "successor", "verbatim"),
        *("label_copy", "acronym", "entity_binding"),
    ]
    assert [task().id for task in FRAMED] == names[4:]
    assert Capital(shots=0).id == "capital-0"


def pairs_of(task, count=25):
    return task.model_copy(update={"count": count}).pairs(tokenizer("byte level"), 3)


def word(text):
    return text.strip()


def said(pair, name):
    first, end = pair.spans[name]
    return pair.clean[first:end]


def test_a_relation_asks_for_what_its_table_says_and_swaps_the_subject():
    table = dict(CAPITALS)
    for pair in pairs_of(Capital(shots=3)):
        assert table[said(pair, "subject")] == word(pair.answers[0])
        assert all(table[said(pair, f"x{i}")] == said(pair, f"y{i}") for i in range(3))
        (other,) = (country for country, city in table.items() if city == word(pair.wrong_answers[0]))
        first, end = pair.spans["subject"]
        assert pair.corrupted == pair.clean[:first] + other + pair.clean[end:]
        shown = {said(pair, f"y{i}") for i in range(3)}
        assert not shown & {word(pair.answers[0]), word(pair.wrong_answers[0])}


def test_shuffled_shots_keep_the_question_and_no_shot_its_answer():
    for pair in pairs_of(Antonym(corruption="shuffled", shots=4)):
        first = pair.spans["subject"][0]
        right, wrong = (re.findall(r"of (\w+) is (\w+)\.", text) for text in (pair.clean, pair.corrupted))
        assert [x for x, _ in right] == [x for x, _ in wrong]
        assert Counter(y for _, y in right) == Counter(y for _, y in wrong)
        assert all(a != b for (_, a), (_, b) in zip(right, wrong, strict=True))
        assert pair.clean[first:] == pair.corrupted[-len(pair.clean[first:]) :]


def test_shuffling_fewer_than_two_shots_is_refused_with_the_mend():
    with pytest.raises(ValidationError, match="use shots: 2 or more"):
        Antonym(corruption="shuffled", shots=1)


def test_more_shots_than_pairs_are_refused_with_the_most_that_there_are():
    with pytest.raises(PromptError, match=r"task month_next: .*; use shots: 10 or less, or give your own"):
        MonthNext(shots=11).pairs(tokenizer("byte level"), 0)
    assert MonthNext(shots=10, count=3).pairs(tokenizer("byte level"), 0)


def test_factual_recall_marks_a_subject_of_several_tokens_and_swaps_one_of_as_many():
    facts = {x: y for fact in FACTS for x, y in fact.known}
    made = tokenizer("byte level")
    lengths = set()
    for pair in pairs_of(FactualRecall()):
        (read,) = tokenise([pair], made)
        assert facts[said(pair, "subject")] == word(pair.answers[0])
        first, end = read.spans["subject"]
        lengths.add(end - first)
        assert made.decode(read.clean[first:end]).strip() == said(pair, "subject")
        assert facts[made.decode(read.corrupted[first:end]).strip()] == word(pair.wrong_answers[0])
    assert len(lengths) > 1


def test_the_verb_agrees_with_the_subject_whatever_stands_between():
    plural = {p for _, p in NOUNS}
    for attractor in ("none", "opposite", "same"):
        for pair in pairs_of(SubjectVerb(attractor=attractor)):
            many = said(pair, "subject") in plural
            assert set(pair.answers) == ({" are", " were", " have"} if many else {" is", " was", " has"})
            if attractor != "none":
                assert (said(pair, "attractor") in plural) == (many if attractor == "same" else not many)


def test_the_pronoun_is_that_of_the_name():
    for pair in pairs_of(GenderPronoun()):
        assert (
            (said(pair, "name") in WOMEN) == (pair.answers == (" she",)) == (pair.wrong_answers == (" he",))
        )
        assert said(pair, "name") in (*WOMEN, *MEN)


def test_sums_are_right_and_carry_as_asked():
    """Digits are tokens here: the answer is a sum, its last digit after the first, or its first digit."""
    for digits, carry in ((1, "without"), (1, "with"), (2, "without"), (2, "with"), (2, "mixed")):
        carried = set()
        for pair in pairs_of(Addition(digits=digits, carry=carry)):
            *shots, (a, b, shown) = re.findall(r"(\d+) \+ (\d+) = (\d*)", pair.clean)
            assert all(int(x) + int(y) == int(z) for x, y, z in shots)
            assert str(int(a) + int(b)).startswith(shown + pair.answers[0])
            assert digits == 2 or shown + pair.answers[0] == str(int(a) + int(b))
            other = re.findall(r"\+ (\d+) =", pair.corrupted)[-1]
            assert str(int(a) + int(other)).startswith(shown + pair.wrong_answers[0])
            carried |= {int(a[-1]) + int(x[-1]) > 9 for x in (b, other)}
        assert carried == {"without": {False}, "with": {True}, "mixed": {False, True}}[carry]


def test_a_sum_that_is_one_token_is_the_answer():
    made = tokenizer("words")
    for pair in Addition(carry="with", count=30).pairs(made, 0):
        a, b = re.findall(r"(\d+) \+ (\d+) =", pair.clean)[-1]
        assert pair.answers == (f" {int(a) + int(b)}",)
        assert int(a) + int(b) > 9


def test_a_series_goes_on_by_one():
    for pair in pairs_of(Successor()):
        run = [said(pair, f"i{i}") for i in range(3)] + [word(pair.answers[0])]
        (series,) = (s for s in SERIES if run[0] in s)
        start = series.index(run[0])
        assert run == list(series[start : start + 4])


def test_the_chosen_letter_stands_before_the_told_colour():
    for corruption in ("position", "letters"):
        for pair in pairs_of(MultipleChoice(corruption=corruption)):
            clean, corrupted = (
                dict(re.findall(r"(\w)\. (\w+)", text)) for text in (pair.clean, pair.corrupted)
            )
            assert clean[word(pair.answers[0])] == said(pair, "fact")
            assert corrupted[word(pair.wrong_answers[0])] == said(pair, "fact")


def test_what_is_asked_for_is_what_the_prompt_has_bound():
    for corruption in ("swap", "asked"):
        for pair in pairs_of(EntityBinding(corruption=corruption)):
            for text, answer in ((pair.clean, pair.answers), (pair.corrupted, pair.wrong_answers)):
                told = dict(re.findall(r"the (\w+) is in the (\w+)", text))
                assert told[re.search(r"The (\w+) is in the$", text)[1]] == word(answer[0])
    for pair in pairs_of(ColouredObjects()):
        for text, answer in ((pair.clean, pair.answers), (pair.corrupted, pair.wrong_answers)):
            told = {thing: colour for colour, thing in re.findall(r"a (\w+) (\w+)", text)}
            assert told[re.search(r"color of the (\w+) is$", text)[1]] == word(answer[0])
    for corruption in ("labels", "items", "asked"):
        for pair in pairs_of(LabelCopy(corruption=corruption, items=3)):
            for text, answer in ((pair.clean, pair.answers), (pair.corrupted, pair.wrong_answers)):
                told = dict(re.findall(r"The (\w+) is (\w+)\.", text))
                assert told[re.search(r"The (\w+) is$", text)[1]] == word(answer[0])


def test_the_letter_is_that_of_the_third_word():
    for pair in pairs_of(Acronym()):
        one, two, three = (said(pair, f"w{i}") for i in (1, 2, 3))
        assert pair.clean == f"The {one} {two} {three} ({one[0]}.{two[0]}."
        assert pair.answers == (three[0],)
        assert re.search(r" (\w)\w* \(", pair.corrupted)[1] == pair.wrong_answers[0]


def test_the_third_parameter_is_documented_third():
    for pair in pairs_of(Docstring()):
        names = re.search(r"\(self, (.*)\)", pair.clean)[1].split(", ")
        documented = re.findall(r":param (\w+):", pair.clean)
        assert [*documented, word(pair.answers[0])] == names[:3]
        other = re.search(r"\(self, (.*)\)", pair.corrupted)[1].split(", ")
        assert not {*names} & {*other, *re.findall(r":param (\w+):", pair.corrupted)}


def test_a_passage_is_whole_in_clean_and_perturbed_in_corrupted():
    passages = {re.sub(r"[\[\]]", "", passage) for passage in PASSAGES}
    for pair in pairs_of(Verbatim()):
        assert pair.clean + pair.answers[0] in passages
        assert not any(passage.startswith(pair.corrupted) for passage in passages)


def test_random_names_repeat_as_the_names_do():
    made = tokenizer("byte level")
    for pair in Ioi(corruption="random_names", count=20).pairs(made, 0):
        changed = [
            (a, b)
            for a, b in zip(*(re.findall(r"\w+", t) for t in (pair.clean, pair.corrupted)), strict=True)
            if a != b
        ]
        assert len(changed) == 3
        assert len(dict(changed)) == len({b for _, b in changed}) == 2
        assert not {a for a, _ in changed} & {b for _, b in changed}


def test_s2_flip_is_another_word_for_the_exchange_of_names():
    assert Ioi(corruption="s2_flip") == Ioi(corruption="s2_io_flip")
    assert Ioi(corruption="s2_flip").id == "ioi-s2_io_flip"


@pytest.mark.parametrize("corruption", ["exchange", "answer", "break"])
def test_a_longer_stretch_may_be_repeated_for_induction(corruption):
    made = tokenizer("byte level")
    for pair in Induction(length=12, repeated=5, corruption=corruption, count=30).pairs(made, 0):
        words, other = pair.clean.split(" "), pair.corrupted.split(" ")
        assert len(words) == len(other) == 17
        start = words.index(words[12])
        assert words[start : start + 5] == words[12:]
        assert [f" {words[start + 5]}"] == list(pair.answers)
        assert said(pair, "end") == words[-1]
        if corruption == "exchange":
            at = other.index(other[12])
            assert other[at : at + 5] == other[12:]
            assert [f" {other[at + 5]}"] == list(pair.wrong_answers)


def test_options_that_came_later_are_written_down_only_where_they_are_set():
    """What is written out is in run keys."""
    assert "repeated" not in Induction().model_dump(mode="json")
    assert Induction(repeated=3).model_dump(mode="json")["repeated"] == 3
    assert Induction(repeated=3).id == "induction-3"
    with pytest.raises(ValidationError, match="use length: 12 or more"):
        Induction(repeated=8)


def test_answers_may_be_several_tokens_where_all_of_them_are_measured():
    made = of_letters("byte")  # knows hardly any of the words
    with pytest.raises(PromptError, match="and 2 are needed"):
        Capital(count=20).pairs(made, 0)
    ((pairs, _),) = Capital(count=20, target="sequence").told(made, 0)
    for token in tokenise(pairs, made, needs_wrong=True):
        for answer, found in zip(token.pair.answers, token.sequences.answers, strict=True):
            assert ids(made, token.pair.clean + answer) == [*token.clean, *found]
            assert len(found) > 1
