"""Answers of other prompts: the same prompts and the same answers, none of them where it was."""

from collections import Counter

import numpy as np
import pytest

from pipeline import discover, open_run
from pipeline.config import related
from pipeline.core.errors import ConfigError, PromptError
from pipeline.evaluation.resamples import bootstrap, overlap_of
from pipeline.report.compared import compared
from pipeline.report.essentials import essentials
from pipeline.schedule import make_plan
from pipeline.tasks import Ioi
from tests.runs import toy_config


def told(task, tokenizer, seed=0):
    return [pair for pairs, _ in task.told(tokenizer, seed) for pair in pairs]


def test_every_prompt_has_the_answers_of_another_one(byte_level):
    own, other = (told(Ioi(count=40, answers=answers), byte_level) for answers in ("own", "shuffled"))
    assert [(pair.clean, pair.corrupted) for pair in own] == [(pair.clean, pair.corrupted) for pair in other]
    given = [(pair.answers, pair.wrong_answers) for pair in other]
    assert Counter(given) == Counter((pair.answers, pair.wrong_answers) for pair in own)
    same = sum(pair.answers == pair_.answers for pair, pair_ in zip(own, other, strict=True))
    assert same < 10  # by chance alone, of names that come more than once
    assert other == told(Ioi(count=40, answers="shuffled"), byte_level)
    assert other != told(Ioi(count=40, answers="shuffled"), byte_level, seed=1)
    with pytest.raises(PromptError, match="needs two prompts"):
        told(Ioi(count=1, answers="shuffled"), byte_level)


def test_it_has_an_id_of_its_own_and_leaves_other_runs_as_they_were(tmp_path):
    plain = toy_config(tmp_path)
    assert Ioi(answers="shuffled").id == "ioi-shuffled"
    assert "answers" not in plain.to_yaml()
    shuffled = toy_config(tmp_path, tasks=[{"name": "induction", "count": 12, "answers": "shuffled"}])
    assert make_plan(shuffled).run_key != make_plan(plain).run_key


def test_what_a_method_finds_in_null_data_stands_beside_what_it_finds(tmp_path):
    tasks = [
        {"name": "induction", "count": 32},
        {"name": "induction", "count": 32, "answers": "shuffled"},
        {"name": "induction", "count": 32, "answers": "shuffled", "held_out_of": "induction", "as": "null"},
    ]
    also = ["sufficiency", {"name": "stability", "votes": 0}, "null_data"]
    evaluate = {"edge_fractions": [0.05, 0.1, 1.0], "also": also}
    config = toy_config(
        tmp_path,
        tasks=tasks,
        methods=["eap"],
        shards={"prompts": 32},
        evaluate=evaluate,
        store={"prompt_scores": True},
    )
    run = open_run(discover(config, local=True, quiet=True).path)
    (row,) = compared(run)
    assert (row["task"], row["other_task"]) == ("induction", "induction-shuffled")
    assert row["overlaps"][0]["null"] < 0.1
    own, null = (run.baseline(task).set_index("metric").loc["logit_diff"] for task in ("induction", "null"))
    effect = (own["clean"] - own["corrupted"]).mean()
    assert abs((null["clean"] - null["corrupted"]).mean()) < 0.2 * abs(effect)  # there is no behaviour
    found = run.evaluations()
    assert set(found["task"]) == {"null", "induction-shuffled"}  # the circuits that others have, on null data
    assert np.isfinite(found[found["quantity"] == "discovery"]["value"]).all()
    # as stable as the circuits of as many edges that null data give, and the card says how far beyond that it is
    mine = found[found["task"] == "null"].set_index(["evaluation", "circuit", "quantity"])["value"]
    size = int(mine["sufficiency", "circuit", "n_edges"])
    rows = run.prompt_scores("eap", "induction-shuffled").to_numpy(dtype=np.float64)
    overlap = overlap_of(bootstrap(run.graph, rows, size, "absolute", 100, 0), 0)
    assert mine["null_data", "null", "jaccard"] == overlap.mean
    assert list(found[found["evaluation"] == "null_data"]["task"].unique()) == ["null"]
    cards = {card["prompts"]: card["judgements"][-1] for card in essentials(run)["verdicts"]}
    assert cards["null"]["value"] == mine["stability", "circuit", "jaccard"] - 1.5 * overlap.mean
    assert cards["null"]["answer"] in ("yes", "no", "undecided")
    assert (cards["induction-shuffled"]["answer"], cards["induction-shuffled"]["value"]) == (
        "not asked",
        None,
    )


def test_null_data_of_a_task_says_what_the_task_says(tmp_path):
    def null_of(*changed, **own):
        others = [{"name": "induction", "count": 12, "answers": "shuffled", **one} for one in changed]
        tasks = [{"name": "induction", "count": 12, **own}, *others]
        return related.null_of("induction", toy_config(tmp_path, tasks=tasks).task_ids)

    assert null_of({}) == "induction-shuffled"
    assert null_of({"as": "null"}, held_out=4) == "null"
    assert null_of({"count": 24}) is None  # more prompts are more stable
    assert null_of({"seed": 1}) is None
    assert null_of() is None
    assert related.null_of("induction", toy_config(tmp_path).task_ids) is None


def test_prompts_that_are_added_would_change_the_answers_of_others(tmp_path):
    with pytest.raises(ConfigError, match="are shuffled over all"):
        toy_config(
            tmp_path,
            tasks=[{"name": "induction", "count": 4, "answers": "shuffled"}],
            methods=["eap"],
            store={"prompt_scores": True},
            until={"stability": 0.8, "max_prompts": 8},
        )
