"""The bundled models: what is planted is what acts, and what was trained does its tasks."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.core.errors import ModelError
from pipeline.core.graph import Graph
from pipeline.models.tokens import tokenise
from pipeline.models.toy import known_circuit, toy_path
from pipeline.models.toys import plant
from pipeline.tasks import GreaterThan, Induction, Ioi
from tests.oracles.acdc import naive_acdc
from tests.oracles.attribution import eap_ig
from tests.oracles.dense import Dense
from tests.slowly import slow

PLANTED, TRAINED = "toy:planted", "toy:trained"
GRAPH = Graph(plant.N_LAYERS, plant.N_HEADS, plant.N_HEADS)


class Bench:
    """The planted model in float64 on induction prompts, with edges to choose."""

    def __init__(self, corruption="exchange", count=24):
        self.hf = AutoModelForCausalLM.from_pretrained(
            toy_path(PLANTED), dtype=torch.float64, attn_implementation="eager"
        )
        self.dense = Dense(self.hf, GRAPH)
        tokenizer = AutoTokenizer.from_pretrained(toy_path(PLANTED))
        pairs = tokenise(Induction(count=count, corruption=corruption).pairs(tokenizer, 0), tokenizer)
        self.clean, self.corrupted = (
            torch.tensor([getattr(pair, side) for pair in pairs]) for side in ("clean", "corrupted")
        )
        self.right = torch.tensor([pair.answers for pair in pairs])
        self.wrong = torch.tensor([pair.wrong_answers for pair in pairs])
        self.ablated = self.dense.forward(self.corrupted).outputs

    def logit_diff(self, logits):
        last = logits[:, -1]
        return (last.gather(1, self.right) - last.gather(1, self.wrong))[:, 0]

    def with_edges(self, kept):
        """The logit difference of every prompt when the other edges carry their corrupted values."""
        return self.logit_diff(self.dense.forward(self.clean, kept=kept, ablated=self.ablated).logits)

    def effects(self, edges=range(GRAPH.n_edges)):
        """How much each edge alone changes each prompt's logit difference, [edge, prompt]."""
        full = self.with_edges(np.ones(GRAPH.n_edges, dtype=bool))
        return np.stack([(full - self.with_edges(np.arange(GRAPH.n_edges) != e)).numpy() for e in edges])


@pytest.fixture(scope="module")
def bench():
    return Bench()


@pytest.fixture(scope="module")
def known():
    return GRAPH.mask(known_circuit(PLANTED))


def test_the_planted_model_solves_induction_and_the_corrupted_prompt_flips_it(bench):
    assert torch.allclose(bench.hf(bench.clean).logits, bench.dense.forward(bench.clean).logits, rtol=1e-10)
    assert bench.logit_diff(bench.hf(bench.clean).logits).min() > 4
    assert bench.logit_diff(bench.hf(bench.corrupted).logits).max() < -4


def test_exactly_the_planted_edges_have_an_effect(known):
    effects = Bench(count=4).effects()
    assert (effects[known] > 1).all()  # each is needed, for every prompt
    assert np.abs(effects[~known]).max() < 1e-9


@pytest.mark.parametrize(("corruption", "step"), [("answer", 5), *slow(("answer", 1), ("break", 1))])
def test_other_corruptions_act_through_planted_edges_alone(corruption, step, known):
    few = Bench(corruption, count=4)
    assert np.abs(few.effects(np.flatnonzero(known))).max() > 1
    assert np.abs(few.effects(np.flatnonzero(~known)[::step])).max() < 1e-9


def test_the_planted_edges_alone_behave_as_the_model(bench, known):
    full = bench.with_edges(np.ones(GRAPH.n_edges, dtype=bool))
    assert torch.allclose(bench.with_edges(known), full, rtol=0, atol=1e-9)


def test_what_the_distractors_compute_is_not_nothing(bench):
    """Each distractor writes something, and something else for the corrupted prompts."""
    clean = bench.dense.forward(bench.clean).outputs
    assert (clean.abs().amax((1, 2, 3)) > 0.01).all()
    assert ((clean - bench.ablated).abs().amax((1, 2, 3)) > 0.01).all()


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [1e-5, 1e-3, 1e-2])
def test_acdc_keeps_exactly_the_planted_edges(known, threshold):
    few = Bench(count=4)
    kept, _ = naive_acdc(lambda kept: -float(few.with_edges(kept).mean()), GRAPH, threshold, "absolute")
    assert (kept == known).all()


def test_eap_ig_ranks_the_planted_edges_first(bench, known):
    scores = eap_ig(
        bench.dense, bench.clean, bench.corrupted, None, bench.ablated,
        lambda logits: -bench.logit_diff(logits), steps=5, rule="left",
    ).mean(0)  # fmt: skip
    assert scores[known].min() > 0.1
    assert np.abs(scores[~known]).max() < 1e-9


def test_the_shipped_planted_weights_are_those_that_the_code_writes():
    shipped = load_file(toy_path(PLANTED) / "model.safetensors")
    written = plant.planted_weights()
    assert shipped.keys() == written.keys()
    assert all(torch.equal(shipped[name], written[name]) for name in shipped)
    facts = json.loads((toy_path(PLANTED) / "circuit.json").read_text(encoding="utf-8"))
    assert tuple(facts["edges"]) == known_circuit(PLANTED) == tuple(plant.known_edges())
    assert facts["n_edges_total"] == GRAPH.n_edges


@pytest.mark.parametrize("task", [Ioi, *slow(Induction, GreaterThan)])
def test_the_trained_model_solves_each_task_on_fresh_prompts(task):
    """The training script draws its prompts from task seeds from 1000 on."""
    tokenizer = AutoTokenizer.from_pretrained(toy_path(TRAINED))
    model = AutoModelForCausalLM.from_pretrained(toy_path(TRAINED))
    pairs = tokenise(task(count=500).pairs(tokenizer, seed=12345), tokenizer, needs_wrong=True)
    by_length = {}
    for pair in pairs:
        by_length.setdefault(pair.length, []).append(pair)
    solved = 0
    for same in by_length.values():
        with torch.no_grad():
            logits = model(torch.tensor([pair.clean for pair in same])).logits[:, -1]
        for row, pair in zip(logits, same, strict=True):
            solved += bool(row[list(pair.answers)].max() > row[list(pair.wrong_answers)].max())
    assert solved >= 0.99 * len(pairs)


def test_the_trained_model_knows_that_the_year_matters():
    """It does not answer 99 to everything: after 17 40 it finds 41 as likely as 99, and 01 to 40 unlikely."""
    tokenizer = AutoTokenizer.from_pretrained(toy_path(TRAINED))
    model = AutoModelForCausalLM.from_pretrained(toy_path(TRAINED))
    for pair in tokenise(GreaterThan(count=20).pairs(tokenizer, 3), tokenizer):
        with torch.no_grad():
            p = model(torch.tensor([pair.clean])).logits[0, -1].softmax(-1)
        right = p[list(pair.answers)]
        assert right.sum() > 0.9
        assert right.max() < 3 / len(pair.answers)


@pytest.mark.parametrize(("name", "bytes_"), [(PLANTED, 1_000_000), (TRAINED, 4_000_000)])
def test_bundled_models_are_small_stock_folders(name, bytes_):
    folder = toy_path(name)
    assert sum(file.stat().st_size for file in folder.iterdir()) < bytes_
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["GPT2LMHeadModel"]
    assert not list(folder.glob("*.py"))


def test_unknown_names_and_circuits_are_refused():
    with pytest.raises(
        ModelError, match="no bundled model 'toy:plant'; there are toy:planted and toy:trained"
    ):
        toy_path("toy:plant")
    with pytest.raises(ModelError, match="the circuit of toy:trained is not known"):
        known_circuit(TRAINED)
