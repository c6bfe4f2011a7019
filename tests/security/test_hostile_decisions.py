"""Decisions of a search that somebody else has written: what does not go on from the run is made again."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from pipeline import load_scores
from pipeline.core.items import digest
from tests.runs import toy_mapping
from tests.security.hostile import call
from tests.slowly import slow


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    """A complete run of a pooled search; to be copied."""
    folder = tmp_path_factory.mktemp("searched")
    changes = {"tasks": [{"name": "induction", "count": 2}], "methods": [{"name": "acdc", "threshold": 0.01}]}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(toy_mapping(folder / "results", **changes)))
    assert main(["run", str(config), "--local"]) == 0
    (run,) = (folder / "results").iterdir()
    return run


def no_step(step):
    return {"receiver": "../../x"}


def words_for_numbers(step):
    step["decided"][0]["values"] = ["<script>"]
    return step


def other_senders(step):
    step["decided"][0]["senders"] = [10**9] * len(step["decided"][0]["senders"])
    return step


def fewer_prompts(step):
    step["decided"][0]["values"] = []
    return step


def a_state_that_is_none(step):
    step["decided"][0]["state"] = 77
    return step


def a_number_without_an_end(step):
    step["decided"][0]["delta"][0] = 1e999
    return step


def no_decision(step):
    return {**step, "decided": []}


@pytest.mark.parametrize(
    "forge",
    [
        no_step,
        other_senders,
        a_number_without_an_end,
        *slow(words_for_numbers, fewer_prompts, a_state_that_is_none, no_decision),
    ],
)
def test_decisions_that_do_not_go_on_are_made_again(circuits, searched, place, forge):
    """Sealed like ours: the digest over a record is no secret."""
    run = Path(shutil.copytree(searched, place.path / "run"))
    before = load_scores(run)
    for path in run.glob("decisions/**/step-*.json"):
        record = json.loads(path.read_text())
        step = forge(record["step"])
        text = json.dumps({**record, "step": step, "sha256": "?"})
        if "Infinity" not in text:
            text = json.dumps({**record, "step": step, "sha256": digest(step)})
        path.write_text(text.replace("Infinity", "1e999"))
    (scores,) = run.glob("scores/**/*.parquet")
    scores.unlink()
    said = call(circuits, "resume", run)
    assert said.code == 0, said.err
    assert "Traceback" not in said.err
    assert load_scores(run).equals(before)
