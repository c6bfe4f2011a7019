"""Runs whose answers have several tokens: planned, computed by every method, resumed without the file, and checked."""

import json
from contextlib import closing

import pytest

from pipeline.checking import check
from pipeline.core.errors import ConfigError, PromptError
from pipeline.schedule import make_plan
from pipeline.schedule.conduct import conduct
from pipeline.schedule.pools import open_pool
from pipeline.schedule.preparing import resume
from tests.listening import go
from tests.runs import content, score_files, toy_config

ROWS = [
    {"clean": [1, 2, 3, 1], "corrupted": [1, 2, 3, 4], "answers": [[2, 3]], "wrong_answers": [[3, 4], 5]},
    {
        "clean": [5, 6, 7, 5],
        "corrupted": [5, 6, 7, 8],
        "answers": [[6, 7], [7, 7]],
        "wrong_answers": [[8, 7]],
    },
    {"clean": [5, 6, 9, 5], "corrupted": [5, 6, 9, 8], "answers": [6], "corrupted_answers": [9]},
]
METHODS = [{"name": name} for name in ("eap", "eap_ig", "edge_patching", "node_patching")]


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return toy_config(
        tmp_path,
        tasks=[{"name": "file", "path": str(path), "target": "sequence"}],
        methods=[*METHODS, {"name": "acdc", "threshold": 0.01}],
        shards={"prompts": 2},
    )


@pytest.mark.slow
def test_every_method_runs_and_a_run_goes_on_without_the_file(config, tmp_path):
    run, _ = go(config)
    assert run.status()["complete"]
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["identity"]["tasks"]["mine"]["target"] == "sequence"
    assert len(run.faithfulness()) > 0
    before = content(run.path / "aggregate")
    for path in score_files(run.path)[::2]:
        path.unlink()
    (tmp_path / "mine.jsonl").unlink()
    with closing(resume(run.path)) as session:
        assert session.plan.run_key == manifest["run_key"]
        assert session.plan.tokens["mine"][1].sequences.answers == ((6, 7), (7, 7))
        with closing(open_pool(session, local=True)) as pool:
            conduct(session, pool)
    assert content(run.path / "aggregate") == before


def test_the_tokens_of_answers_are_shown_and_tried(config):
    facts = check(config)["tasks"]["mine"]
    assert len(facts["first"]["answers"][0].split("|")) == 2
    assert facts["prompts"] == 3
    assert facts["refused"] == []
    assert facts["corrupted_accuracy"] in (0.0, 1.0)


def test_what_is_measured_is_part_of_the_run_and_nothing_else_changes(config):
    plain = [{"name": "file", "path": config.tasks[0].path, "limit": 1}]
    with pytest.raises(PromptError, match="2 tokens; give one, or set target: sequence"):
        make_plan(config.model_copy(update={"tasks": toy_config(config.output, tasks=plain).tasks}))
    first = toy_config(config.output, tasks=[plain[0] | {"target": "first_difference"}])
    assert make_plan(first).run_key != make_plan(config).run_key
    assert "target" not in json.dumps(toy_config(config.output, tasks=plain).identity())


def test_what_cannot_be_computed_exactly_is_one_line(config):
    for change, message in (
        ({"methods": [{"name": "logit_lens"}]}, "logit_lens reads one position at a time"),
        ({"ablation": "mean_positional"}, "mean_positional needs"),
    ):
        mapping = config.to_mapping() | change
        with pytest.raises(ConfigError, match=message) as error:
            make_plan(type(config).from_mapping(mapping))
        assert "\n" not in str(error.value)
