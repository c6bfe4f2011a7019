"""Pairs that begin alike, as all do that begin with a BOS: every method against the oracles."""

import json

import numpy as np
import pytest

from pipeline import load_model
from pipeline.core.prompts import PromptPair
from pipeline.evaluation import circuit_values
from pipeline.methods import EdgePatching
from tests.agreement import Agreement, Question
from tests.exactness import PADDINGS, relative_error
from tests.oracles import models

SMALL = {"heads": 2, "kv_heads": 1, "width": 16}  # its root, which Gemma multiplies by, is exact in float32


def agreed(setting_of, kind, **options):
    setting = setting_of(kind, **SMALL, **options)
    found = dict(Agreement(setting, Question(batch_size=2)).differences())
    assert {name: error for name, error in found.items() if error > 1e-10} == {}


def test_every_method_with_grouped_keys_and_values_is_that_of_the_oracles(setting_of):
    agreed(setting_of, "llama", kv="kv_head", padding="left", shared=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("padding", "shared"), [("left", 1), pytest.param("right", 3, marks=pytest.mark.long)]
)
@pytest.mark.parametrize(("kind", "kv"), models.SHAPES)
def test_every_method_of_every_family_is_that_of_the_oracles(setting_of, kind, kv, padding, shared):
    agreed(setting_of, kind, kv=kv, padding=padding, shared=shared)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("shared", [0, 1, 3])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("kind", "kv"), models.SHAPES)
def test_no_length_of_what_is_shared_and_no_padding_matters(setting_of, kind, kv, padding, shared):
    agreed(setting_of, kind, kv=kv, padding=padding, shared=shared)


@pytest.mark.slow
def test_grouped_edges_of_a_real_model_are_circuits_without_them(shared_data):
    model = load_model(str(shared_data / "models" / "stories260K"), kv="kv_head", dtype="float64")
    lines = (shared_data / "prompts" / "pronoun.jsonl").read_text().splitlines()[:4]
    rows = [json.loads(line) for line in lines]
    pairs = [
        PromptPair(row["clean"], row["corrupted"], tuple(row["answers"]), tuple(row["wrong_answers"]))
        for row in rows
    ]
    batch = model.batch(pairs)
    assert (batch.clean[:, 0] == batch.corrupted[:, 0]).all()
    found = EdgePatching().score(model, [batch]).score
    edges = np.random.default_rng(0).choice(model.graph.n_edges, 12, replace=False)
    without = np.arange(model.graph.n_edges) != edges[:, None]
    full, _, *values = circuit_values(model, [batch], without, "logit_diff").mean(1)
    # The model rounds its norms to float32: two ways to one number part by that.
    assert relative_error(found[edges], full - np.array(values)) <= 1e-4
