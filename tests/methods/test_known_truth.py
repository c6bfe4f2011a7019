"""Models whose circuit is known: compiled programs, and the planted toy. Precision and recall are 1."""

import json

import numpy as np
import pytest

from pipeline import load_model, read_pairs
from pipeline.methods import Acdc, EdgePatching

PROGRAMS = ("hist", "prevtoken", "reverse", "xproportion")


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request, shared_data):
    """A compiled model, its prompts as a batch, and the edges that matter."""
    folder = shared_data / "models" / f"tracr-{request.param}"
    truth = json.loads((folder / "circuit.json").read_text())
    model = load_model(str(folder), dtype="float64")
    attention = "causal" if truth["causal"] else "bidirectional"
    batch = model.batch(read_pairs(str(folder / "prompts.jsonl")), attention=attention)
    return model, batch, set(truth["single_edge_patch_max_effect_on_output"])


@pytest.mark.parametrize("rule", ["absolute", "signed"])
@pytest.mark.parametrize("threshold", [1e-5, 1e-3, 1e-2])
def test_acdc_keeps_exactly_the_edges_of_the_program(program, threshold, rule):
    model, batch, truth = program
    found = Acdc(threshold=threshold, rule=rule).score(model, [batch], metric="logit_diff")
    assert {model.graph.edge_names[e] for e in np.flatnonzero(found.kept)} == truth


def test_edge_patching_finds_exactly_the_edges_of_the_program(program):
    model, batch, truth = program
    found = EdgePatching().score(model, [batch], metric="logit_diff", per_prompt=True)
    effect = np.abs(found.per_prompt).max(0)
    assert {model.graph.edge_names[e] for e in np.flatnonzero(effect > 1e-6)} == truth
