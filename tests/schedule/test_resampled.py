"""A method that decides is stable where it keeps the same of resampled prompts: searched like any other, judged by
nothing else."""

import numpy as np
import pytest

from pipeline import discover, load_model, open_run
from pipeline.core.errors import ConfigError
from pipeline.methods import Acdc
from pipeline.report.essentials import essentials
from tests.runs import toy_config

ACDC = {"name": "acdc", "threshold": 0.01}
CONFIG = {
    "methods": [{**ACDC, "resamples": 3}],
    "evaluate": {"also": ["sufficiency", {"name": "stability", "resamples": 20}]},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return discover(toy_config(tmp_path_factory.mktemp("resampled"), **CONFIG), local=True, quiet=True)


def found(run):
    frame = run.evaluations().query("evaluation == 'stability'")
    assert set(frame["method"]) == {"acdc"}
    return dict(zip(frame["quantity"], frame["value"], strict=True))


def kept(method, model, pairs):
    return method.score(model, [model.batch(pairs)]).kept


def test_what_is_kept_of_resamples_is_compared_pair_by_pair(run):
    model, pairs = load_model("toy:planted"), run.prompts("induction")
    sets = [set(np.flatnonzero(kept(Acdc(**ACDC, resample=k), model, pairs))) for k in (1, 2, 3)]
    overlaps = [len(a & b) / len(a | b) for i, a in enumerate(sets) for b in sets[:i]]
    values = found(run)
    assert values["jaccard"] == pytest.approx(np.mean(overlaps))
    assert values["always"] == len(set.intersection(*sets))
    assert values["ever"] == len(set.union(*sets))
    size = np.mean([len(one) for one in sets])
    assert values["null"] == pytest.approx(size / (2 * run.graph.n_edges - size))


def test_no_circuit_of_a_resample_is_run(run):
    assert set(run.faithfulness()["method"]) == {"acdc"}
    assert set(run.evaluations()["method"]) == {"acdc"}


def test_a_resample_is_shown_beside_the_others_and_not_by_itself(run):
    facts = essentials(run)
    assert [one["method"] for one in facts["results"]] == ["acdc"]
    (overlap,) = facts["overlap"]
    assert len(overlap["pairs"]) == 6


@pytest.mark.slow
def test_a_run_extended_by_resamples_searches_nothing_else_again(run, tmp_path):
    alone = discover(toy_config(tmp_path, **CONFIG | {"methods": [ACDC]}), local=True, quiet=True)
    assert found(alone)["jaccard"] is None or np.isnan(found(alone)["jaccard"])
    before = alone.scores("acdc")
    events = []
    more = discover(
        toy_config(tmp_path, **CONFIG), local=True, quiet=True, extend=alone.path, on_event=events.append
    )
    searched = {event.text.split(":")[0] for event in events if event.kind == "step" and "/" in event.text}
    assert searched == {f"induction/acdc-resample-{k}" for k in (1, 2, 3)}
    assert more.scores("acdc").equals(before)
    assert found(open_run(more.path)) == found(run)


def test_resamples_are_of_all_prompts_of_a_task(tmp_path):
    with pytest.raises(ConfigError, match="leave scope: shard out"):
        toy_config(tmp_path, methods=[{**ACDC, "resamples": 2, "scope": "shard"}])
    with pytest.raises(ConfigError, match="not both"):
        toy_config(tmp_path, methods=[{**ACDC, "resamples": 2, "resample": 1}])
