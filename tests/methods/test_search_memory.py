"""What planning says of the memory that a search needs, against the tensors that it holds."""

import pytest

import pipeline.engine.recorded
from pipeline.methods import Acdc
from pipeline.methods.work import Work
from pipeline.models import footprint

KINDS = {
    "gpt2": {"layers": 3, "heads": 3, "width": 12},
    "llama": {"layers": 3, "heads": 4, "kv_heads": 2, "width": 16},
    "olmo2": {},
    "gemma2": {},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fits", [True, False], ids=["all-positions", "answers-only"])
def test_the_recorded_runs_of_a_search_take_about_what_is_planned(kind, fits, settings, monkeypatch):
    setting = settings(kind, **KINDS[kind])
    if not fits:
        for module in (footprint, pipeline.engine.recorded):
            monkeypatch.setattr(module, "DELTA_BYTES", 0)
    part = Acdc().part(Work(setting.model, [setting.batch], "kl_divergence", "corrupted"))
    taken = sum(recorded.n_bytes() for recorded in part.batches)
    shapes = footprint.Footprint(setting.model.config, setting.graph, "float64")
    planned = shapes.searched([(setting.batch.n_prompts, setting.batch.length)])
    assert 0.5 * taken < planned < 2 * taken
