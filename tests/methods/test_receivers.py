"""Edge patching of chosen receivers: their edges as in a run of all, the others not measured."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import RunConfig, discover, load_model
from pipeline.methods import EdgePatching
from pipeline.schedule import make_plan, work_table
from pipeline.tasks import Induction
from tests.runs import toy_mapping

CHOSEN = ("a1.h0<q>", "a2.h*<k>", "m0", "logits")


@pytest.fixture(scope="module")
def model():
    return load_model("toy:trained", dtype="float64")


@pytest.fixture(scope="module")
def batches(model):
    return model.batch(Induction(count=5).pairs(model.tokenizer, seed=0)).split(3)


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_chosen_edges_are_as_in_a_run_of_all_and_the_others_are_not_measured(model, batches, direction):
    every = EdgePatching(direction=direction).score(model, batches, per_prompt=True)
    some = EdgePatching(direction=direction, receivers=CHOSEN).score(model, batches, per_prompt=True)
    ends = [name.partition("->")[2] for name in model.graph.edge_names]
    keys = [f"a2.h{head}<k>" for head in range(4)]
    chosen = np.asarray([end in ("m0", "logits", "a1.h0<q>", *keys) for end in ends])
    assert chosen.sum() == 6 + 4 * 11 + 5 + 16, "senders before: 6, 11, 5 and all 16"
    for name in ("score", "std", "per_prompt"):
        ours, whole = getattr(some, name), getattr(every, name)
        np.testing.assert_allclose(ours[..., chosen], whole[..., chosen], rtol=0, atol=1e-12)
        assert np.isnan(ours[..., ~chosen]).all()
    assert (some.n_prompts == np.where(chosen, 5, 0)).all()


def test_only_what_is_measured_is_counted(model, batches):
    before = model.counters.evaluations
    EdgePatching(receivers=CHOSEN).score(model, batches)
    measured = 6 + 4 * 11 + 5 + 16
    assert model.counters.evaluations - before == 5 * measured
    assert EdgePatching(receivers=CHOSEN).cost(model.graph, [13] * 5).evaluations == 5 * measured
    assert EdgePatching().cost(model.graph, [13] * 5).evaluations == 5 * model.graph.n_edges


def test_in_a_run_what_is_not_measured_is_null_everywhere(tmp_path):
    mapping = toy_mapping(
        tmp_path,
        methods=[{"name": "edge_patching", "receivers": "logits"}],
        store={"prompt_scores": True},
        aggregate={"bootstrap": 40},
    )
    config = RunConfig.from_mapping(mapping)
    plan = make_plan(config)
    into_logits = plan.graph.edges_into(plan.graph.logits_receiver)
    n = into_logits.stop - into_logits.start
    row = next(row for row in work_table(plan) if row["method"] == "edge_patching-logits")
    assert (row["evaluations"], row["rows"]) == (12 * n, 3 * plan.graph.n_edges)
    run = discover(config, local=True, quiet=True)
    assert run.is_complete
    frame = run.scores()
    others = frame[~frame["edge_id"].between(into_logits.start, into_logits.stop - 1)]
    assert len(others) == plan.graph.n_edges - n
    assert others[["score", "score_sem", "ci_low", "boot_low", "rank"]].isna().all(axis=None)
    assert (others["n_prompts"] == 0).all()
    measured = frame[frame["n_prompts"] > 0]
    assert len(measured) == n
    assert measured["score"].notna().all()
    for kind in ("scores", "aggregate", "prompt_scores"):
        for file in (run.path / kind).rglob("*.parquet"):
            column = pq.read_table(file)["scores" if kind == "prompt_scores" else "score"]
            values = column.combine_chunks().flatten() if kind == "prompt_scores" else column
            assert values.null_count > 0, "null, and no zero"
            assert not np.isnan(values.drop_null().to_numpy()).any()
    curve = run.faithfulness()
    assert curve["n_edges"].max() <= n


def test_runs_of_all_receivers_are_what_they_were(tmp_path):
    config = RunConfig.from_mapping(toy_mapping(tmp_path, methods=["edge_patching"]))
    assert "receivers" not in config.identity()["methods"]["edge_patching"]
    assert "receivers:" not in config.to_yaml()
