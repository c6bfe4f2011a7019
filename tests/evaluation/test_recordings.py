"""Circuits of several calls from one recorded run: the same values to the last bit, and no pass of the model."""

import numpy as np
import pytest

from pipeline import discover, load_model, make_plan
from pipeline.evaluation import Recordings, circuit_values, faithfulness
from pipeline.schedule import evaluation
from pipeline.tasks import Ioi
from tests.runs import content, toy_config


@pytest.fixture(scope="module")
def setting():
    model = load_model("toy:trained")
    batches = [model.batch(Ioi(count=3, seed=seed).pairs(model.tokenizer, seed=seed)) for seed in (0, 1)]
    masks = np.random.default_rng(0).random((5, model.graph.n_edges)) < 0.2
    return model, batches, masks


def passes(model, *args):
    """The values, and how many forward passes they took."""
    before = model.counters.forward_passes
    return circuit_values(model, *args), model.counters.forward_passes - before


@pytest.mark.parametrize("ablation", ["corrupted", "zero"])
def test_later_circuits_need_no_pass_and_have_the_values_of_their_own_call(setting, ablation):
    model, batches, masks = setting
    recordings = Recordings()
    for some, metric in ((masks[:2], "logit_diff"), (masks[2:], "logit_diff"), (masks[:1], "kl_divergence")):
        alone, needed = passes(model, batches, some, metric, ablation)
        shared, taken = passes(model, batches, some, metric, ablation, None, recordings)
        assert shared.tobytes() == alone.tobytes()
        assert taken == (needed if len(some) == 2 else 0)
        assert needed == 6 * (2 if ablation == "corrupted" else 1)


def test_what_takes_more_than_one_call_holds_is_recorded_anew(setting, monkeypatch):
    model, batches, masks = setting
    alone, needed = passes(model, batches, masks)
    monkeypatch.setattr(faithfulness, "_BATCH_BYTES", 1 << 14)
    recordings = Recordings()
    for _ in range(2):
        found, taken = passes(model, batches, masks, "logit_diff", "corrupted", None, recordings)
        assert taken == needed
        assert found == pytest.approx(alone, abs=1e-5)


@pytest.mark.slow
def test_the_evaluations_of_a_shard_record_its_runs_once(tmp_path, monkeypatch):
    """In this process a run of one shard stays with it: of five evaluations four take no pass. The bytes are those of
    evaluations that record for themselves."""
    also = [{"name": "chance", "draws": 3}, {"name": "minimality", "edges": 3}, "sufficiency", "necessity"]
    config = {
        "model": {"name": "toy:trained"},
        "tasks": [{"name": "ioi", "count": 4}],
        "methods": ["eap"],
        "evaluate": {"edge_fractions": [0.1], "also": also},
    }
    recorded, kept = [], {}
    real = faithfulness.record

    def counting(model, batch, *args):
        recorded.append(batch.n_prompts)
        return real(model, batch, *args)

    monkeypatch.setattr(faithfulness, "record", counting)
    for name in ("shared", "alone"):
        if name == "alone":
            monkeypatch.setattr("pipeline.workers.execute.Recordings", lambda: None)
        recorded.clear()
        run = discover(toy_config(tmp_path / name, **config), local=True, quiet=True)
        kept[name] = content(run.path / "evaluations"), run.evaluations(), sum(recorded)
    assert kept["shared"][0] == kept["alone"][0]
    assert kept["shared"][1].equals(kept["alone"][1])
    assert (kept["shared"][2], kept["alone"][2]) == (4, 5 * 4)
    costs = evaluation(make_plan(toy_config(tmp_path, **config)))
    assert sum(cost.forward_passes for cost in costs.values()) == 2 * 2 * 4  # each of two phases records
