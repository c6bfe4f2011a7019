"""Tables of others: columns that the config names, and the conventions of collections, with rows of our own making."""

import csv
import json

import pytest
from pydantic import ValidationError

from pipeline.core.errors import PromptError
from pipeline.tasks import FileTask, read_pairs
from pipeline.tasks.presets import PRESETS

PROMPT, OTHER = "Then, Mary and John went. John gave it to", "Then, Mary and John went. Mary gave it to"
IOI = {
    "prompt": PROMPT,
    "choices": ["Mary", "John"],
    "answerKey": 0,
    "metadata": {"object": "it"},
    "s2_io_flip_counterfactual": {"prompt": OTHER, "choices": ["Mary", "John"], "answerKey": 1},
    "abc_counterfactual": {
        "prompt": "Then, Ann and Bob went. Tom gave it to",
        "choices": [],
        "answerKey": None,
    },
}
MCQA = {
    "prompt": "A pen is red. What color is it?\nA. red\nB. blue\nAnswer:",
    "choices": {"label": ["A", "B"], "text": ["red", "blue"]},
    "answerKey": 0,
    "symbol_counterfactual": {
        "prompt": "A pen is red. What color is it?\nX. red\nY. blue\nAnswer:",
        "choices": {"label": ["X", "Y"], "text": ["red", "blue"]},
        "answerKey": 0,
    },
}
SUM = {
    "prompt": "The sum of 13 and 25 is ",
    "label": 38,
    "operator": "+",
    "random_counterfactual": {"prompt": "The sum of 44 and 11 is ", "label": 55},
}
PAIR = {"clean": "The keys", "corrupted": "The key"}
# Rows, what reads them, and answers and wrong answers counted by hand.
ROWS = {
    "mib_ioi": (IOI, (" Mary",), (" John",)),
    "mib_mcqa": (MCQA, (" A",), (" X",)),
    "mib_arc": (MCQA, (" A",), (" X",)),
    "mib_arithmetic": (SUM, ("38",), ("55",)),
    "eap_ig_ioi": (PAIR | {"correct_idx": 5, "incorrect_idx": 7}, (5,), (7,)),
    "eap_ig_greater_than": (PAIR | {"label": 97}, ("98", "99"), tuple(f"{y:02d}" for y in range(98))),
    "eap_ig_greater_than_idx": (
        PAIR | {"correct_idx": 97},
        ("98", "99"),
        tuple(f"{y:02d}" for y in range(98)),
    ),
    "eap_ig_hypernymy": (PAIR | {"answers_idx": "[5, 6]", "corrupted_answers_idx": "[7, 8]"}, (5, 6), (7, 8)),
    "eap_ig_fact_retrieval": (PAIR | {"country_idx": 5, "corrupted_country_idx": 7}, (5,), (7,)),
    "eap_ig_country_capital": (PAIR | {"capital_idx": 5, "corrupted_capital_idx": 7}, (5,), (7,)),
    "eap_ig_gender": (PAIR | {"clean_answer_idx": 5, "corrupted_answer_idx": 7}, (5,), (7,)),
    "eap_ig_sva": (PAIR | {"plural": 1}, (" are", " were", " have"), (" is", " was", " has")),
    "auto_circuit": (
        {"clean": "The keys", "corrupt": "The key", "answers": [" are"], "wrong_answers": [" is"]},
        (" are",),
        (" is",),
    ),
}


def write_jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path, *rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        plain = (str, int)
        writer.writerows(
            {key: value if isinstance(value, plain) else json.dumps(value) for key, value in row.items()}
            for row in rows
        )
    return path


def write_parquet(path, *rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def write_json(path, *rows):
    path.write_text(json.dumps({"prompts": rows, "word_idxs": {"end": 3}}))
    return path


WRITERS = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet, "json": write_json}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("preset", ROWS)
def test_a_preset_reads_the_rows_of_its_collection_from_every_format(tmp_path, kind, preset):
    row, answers, wrong = ROWS[preset]
    path = WRITERS[kind](tmp_path / f"rows.{kind}", row, row)
    pairs = read_pairs(path, preset=preset)
    assert len(pairs) == 2
    for pair in pairs:
        assert pair.clean == row.get("clean", row.get("prompt"))
        assert isinstance(pair.corrupted, str)
        assert pair.clean != pair.corrupted
        assert (pair.answers, pair.wrong_answers) == (answers, wrong)
    assert FileTask(path=str(path), preset=preset).pairs(None, 0) == pairs


def test_every_preset_is_tested_here():
    assert set(ROWS) == set(PRESETS)


def test_another_counterfactual_is_taken_by_its_name_and_other_columns_are_notes(tmp_path):
    path = write_jsonl(tmp_path / "ioi.jsonl", IOI)
    (pair,) = read_pairs(path, preset="mib_ioi", corrupted_field="abc_counterfactual")
    assert pair.corrupted == IOI["abc_counterfactual"]["prompt"]
    assert pair.notes["metadata"] == {"object": "it"}
    with pytest.raises(
        PromptError, match=r"ioi\.jsonl:1: there is no column 'xyz'; name another corrupted_field"
    ):
        read_pairs(path, preset="mib_ioi", corrupted_field="xyz")


def test_columns_name_fields_and_pieces_of_fields_and_the_rest_is_kept(tmp_path):
    row = {
        "prompt": "The keys",
        "label": "a note",
        "targets": {"right": [" are", " were"], "wrong": [" is"]},
        "cf.x": [{"prompt": "The key"}],
    }
    columns = {
        "clean": "prompt",
        "corrupted": "cf.x.0.prompt",
        "answers": "targets.right",
        "wrong_answers": "targets.wrong",
    }
    for kind in ("jsonl", "csv", "parquet", "json"):
        path = WRITERS[kind](tmp_path / f"rows.{kind}", row)
        (pair,) = read_pairs(path, columns=columns)
        assert (pair.clean, pair.corrupted) == ("The keys", "The key")
        assert (pair.answers, pair.wrong_answers) == ((" are", " were"), (" is",))
        assert pair.notes == {"label": "a note"}


def test_fields_that_columns_do_not_name_are_found_as_ever(tmp_path):
    row = {"prompt": "The keys", "corrupt": "The key", "answers": " are", "wrong_answers": " is"}
    (pair,) = read_pairs(write_jsonl(tmp_path / "rows.jsonl", row), columns={"clean": "prompt"})
    assert (pair.corrupted, pair.answers, pair.wrong_answers) == ("The key", (" are",), (" is",))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"clean": "prompts"}, r"rows\.jsonl:1: columns: clean: there is no column 'prompts'; name one of prompt, cf"),
        ({"clean": "prompt", "corrupted": "cf.text"}, r"no 'text' in 'cf\.text', which has prompt; write another path"),
        ({"clean": "prompt.0"}, r"no '0' in 'prompt\.0', which has 'The keys'; write another path"),
        ({"prompt": "clean"}, r"columns: unknown field 'prompt'; known: answers, clean, corrupted"),
    ],
)  # fmt: skip
def test_a_mapping_that_does_not_fit_is_named_with_the_line_and_what_there_is(tmp_path, columns, message):
    path = write_jsonl(tmp_path / "rows.jsonl", {"prompt": "The keys", "cf": {"prompt": "The key"}})
    with pytest.raises(PromptError, match=message) as caught:
        read_pairs(path, columns=columns)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("preset", [name for name in ROWS if name not in ("auto_circuit", "eap_ig_ioi")])
def test_a_refused_file_says_which_preset_would_read_it(tmp_path, preset):
    row = ROWS[preset][0]
    with pytest.raises(PromptError) as caught:
        read_pairs(write_jsonl(tmp_path / "rows.jsonl", row))
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/rows.jsonl:1: ")
    assert "\n" not in line
    offered = line.rpartition("or read it with preset: ")[2]
    assert read_pairs(tmp_path / "rows.jsonl", preset=offered) == read_pairs(
        tmp_path / "rows.jsonl", preset=preset
    )


def test_a_refused_file_that_no_preset_reads_asks_for_a_mapping(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", {"question": "a", "alternative": "b", "solution": "c"})
    with pytest.raises(PromptError, match=r"or say which column is which with columns: \{clean: NAME, "):
        read_pairs(path)


@pytest.mark.parametrize(
    ("preset", "change", "message"),
    [
        ("eap_ig_greater_than", {"label": 99}, r"'label' is '99'; greater-than needs a year's last two digits"),
        ("eap_ig_sva", {"plural": 2}, r"'plural' is '2'; write 1 for a plural subject, else 0"),
        ("mib_ioi", {"answerKey": 4}, r"'answerKey' is '4', which is none of the choices \['Mary', 'John'\]"),
        ("mib_ioi", {"s2_io_flip_counterfactual": None}, r"'s2_io_flip_counterfactual' holds no counterfactual"),
    ],
)  # fmt: skip
def test_a_row_that_breaks_its_convention_is_named(tmp_path, preset, change, message):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS[preset][0], ROWS[preset][0] | change)
    with pytest.raises(PromptError, match=rf"rows\.jsonl:2: {message}"):
        read_pairs(path, preset=preset)


def test_a_preset_for_other_columns_names_the_one_that_is_missing_and_the_preset_that_fits(tmp_path):
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS["eap_ig_sva"][0])
    with pytest.raises(PromptError, match=r"there is no column 'label'; or read it with preset: eap_ig_sva"):
        read_pairs(path, preset="eap_ig_greater_than")


def test_unknown_presets_and_two_ways_at_once_are_refused_in_configs_and_in_python(tmp_path):
    with pytest.raises(ValidationError, match="did you mean 'mib_ioi'"):
        FileTask(path="p.jsonl", preset="mib-ioi")
    with pytest.raises(ValidationError, match="keep one"):
        FileTask(path="p.jsonl", preset="mib_ioi", columns={"clean": "prompt"})
    with pytest.raises(PromptError, match="did you mean 'mib_ioi'"):
        read_pairs(write_jsonl(tmp_path / "rows.jsonl", IOI), preset="mib_ioy")


def test_a_task_without_mapping_is_written_as_ever():
    """What is written out is in run keys."""
    assert set(FileTask(path="p.jsonl").model_dump(mode="json")) == {
        *("name", "as_", "attention", "path", "limit", "corrupted_field")
    }
    asked = FileTask(path="p.jsonl", columns={"clean": "prompt"})
    assert FileTask(**asked.model_dump(mode="json", by_alias=True)) == asked


def test_files_of_eap_ig_are_read_as_they_are(shared_data):
    folder = shared_data / "prompts" / "external"
    ioi = read_pairs(folder / "eap_ig_ioi_llama.csv", preset="eap_ig_ioi", corrupted_field="corrupted_hard")
    assert (ioi[0].answers, ioi[0].wrong_answers) == ((47764,), (26757,))
    assert ioi[0].corrupted.startswith("Then, Aaron and Amber were working at the house. Amber")
    years = read_pairs(folder / "eap_ig_greater_than_data.csv", preset="eap_ig_greater_than")
    assert years[0].answers == tuple(str(y) for y in range(53, 100))
    assert len(years[0].wrong_answers) == 53
