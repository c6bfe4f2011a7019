"""Models whose circuit is known: compiled programs, and the planted toy. Precision and recall are 1."""

import json

import numpy as np
import pytest

from pipeline import load_model, read_pairs
from pipeline.methods import Acdc, EapIg, EdgePatching
from pipeline.models.toy import known_circuit
from pipeline.tasks import Induction

MODELS = ("planted", "hist", "prevtoken", "reverse", "xproportion")


@pytest.fixture(scope="module", params=[(name, dtype) for name in MODELS for dtype in ("float32", "float64")])
def known(request):
    """A model, its prompts as a batch, and a boolean per edge: what matters."""
    name, dtype = request.param
    if name == "planted":
        model = load_model("toy:planted", dtype=dtype)
        batch = model.batch(Induction(count=32).pairs(model.tokenizer, 0))
        return model, batch, model.graph.mask(known_circuit("toy:planted"))
    folder = request.getfixturevalue("shared_data") / "models" / f"tracr-{name}"
    truth = json.loads((folder / "circuit.json").read_text())
    model = load_model(str(folder), dtype=dtype)
    attention = "causal" if truth["causal"] else "bidirectional"
    batch = model.batch(read_pairs(str(folder / "prompts.jsonl")), attention=attention)
    return model, batch, model.graph.mask(list(truth["single_edge_patch_max_effect_on_output"]))


@pytest.mark.parametrize(
    ("threshold", "rule"), [(1e-5, "absolute"), (1e-3, "absolute"), (1e-2, "absolute"), (1e-3, "signed")]
)
def test_acdc_keeps_exactly_the_edges_that_matter(known, threshold, rule):
    model, batch, truth = known
    found = Acdc(threshold=threshold, rule=rule).score(model, [batch], metric="logit_diff")
    np.testing.assert_array_equal(found.kept, truth)


def test_edge_patching_finds_exactly_the_edges_that_matter(known):
    model, batch, truth = known
    found = EdgePatching().score(model, [batch], metric="logit_diff", per_prompt=True)
    np.testing.assert_array_equal(np.abs(found.per_prompt).max(0) > 1e-6, truth)


def test_the_best_edges_of_eap_ig_are_the_planted_ones():
    model = load_model("toy:planted")
    batch = model.batch(Induction(count=32).pairs(model.tokenizer, 0))
    truth = model.graph.mask(known_circuit("toy:planted"))
    score = np.abs(EapIg().score(model, [batch], metric="logit_diff").score)
    assert score[truth].min() > 1e4 * score[~truth].max()
