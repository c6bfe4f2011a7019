"""What a search recorded of a network of twelve layers is what full forwards give, with the edges that were gone then.

In float64: the trained network against the oracle, and the same embedded in the shape of GPT-2 small, which is the
model of the bench, against the executor. What is too much to do again is drawn at random.
"""

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel

from pipeline import load_model
from pipeline.ablations import record
from pipeline.core.wiring import wire
from pipeline.engine.circuit_run import run_circuits
from pipeline.engine.emptied import Emptied
from pipeline.engine.patchable import patchable
from pipeline.methods import Acdc
from pipeline.metrics import get_metric
from tests.benchmarks.models import gpt2_small_shaped, ioi_like
from tests.oracles import metrics
from tests.oracles.acdc import visits
from tests.oracles.dense import Dense

pytestmark = [pytest.mark.slow, pytest.mark.long]

PROMPTS = ioi_like(4)
TOLERANCE = 1e-9


def moments(graph, found):
    """(edges in the order of their tests, the kept set before the first of them) of every receiver that was tested."""
    now = np.ones(graph.n_edges, dtype=bool)
    for receiver, senders in visits(graph):
        edges = int(graph.first_edge[receiver]) + np.asarray(senders)
        tested = found.n_prompts[edges] > 0
        assert tested.all() or not tested.any()
        if tested.any():
            yield edges, now.copy()
        now[edges] = found.kept[edges]


def assert_recorded(harm, found, threshold, edges, kept):
    """One forward per edge decides as the search did, by the same numbers. Their largest difference."""
    before, differences = harm(kept), []
    for edge in edges:
        kept[edge] = False
        after = harm(kept)
        differences.append(abs(found.score[edge] - (after - before)))
        assert differences[-1] <= TOLERANCE
        kept[edge] = not after - before < threshold
        assert kept[edge] == found.kept[edge]
        before = before if kept[edge] else after
    return len(edges), max(differences)


def recorded_of_some(harm, graph, found, threshold, n):
    """The same for n neighbours of each of six receivers at random."""
    generator = np.random.default_rng(0)
    every = [moment for moment in moments(graph, found) if len(moment[0]) >= n]
    for index in generator.choice(len(every), 6, replace=False):
        edges, kept = every[index]
        start = int(generator.integers(len(edges) - n + 1))
        kept[edges[:start]] = found.kept[edges[:start]]
        yield assert_recorded(harm, found, threshold, edges[start : start + n], kept)


def say(what, checked):
    counts, differences = zip(*checked, strict=True)
    print(
        f"{what}: {sum(counts)} tests of {len(counts)} receivers, largest difference {max(differences):.1e}"
    )


def test_every_test_on_a_trained_network_is_a_forward_of_the_oracle(shared_data):
    folder = shared_data / "models" / "bench-12l-d192"
    model = load_model(str(folder), dtype="float64")
    results = Acdc().sweep(model, [model.batch_from_ids(**PROMPTS)], (0.01, 0.1))
    dense = Dense(GPT2LMHeadModel.from_pretrained(folder).double().eval(), model.graph, float32_norms=False)
    clean, corrupted = (dense.forward(PROMPTS[name]) for name in ("clean", "corrupted"))
    last = [PROMPTS["clean"].shape[1] - 1] * len(PROMPTS["clean"])
    answers, wrong = (PROMPTS[name].tolist() for name in ("answers", "wrong_answers"))
    reference = metrics.at_answers(clean.logits, last)

    @torch.no_grad()
    def harm(kept):
        rows = metrics.at_answers(dense.forward(PROMPTS["clean"], None, kept, corrupted.outputs).logits, last)
        return float(metrics.metric_values("kl_divergence", rows, answers, wrong, reference).mean())

    for found in results.values():
        assert 0 < found.facts["kept_edges"] < found.facts["tests"] < model.graph.n_edges
        assert harm(found.kept) == pytest.approx(found.facts["final_metric"], rel=0, abs=TOLERANCE)
    every = [
        assert_recorded(harm, results[0.1], 0.1, edges, kept)
        for edges, kept in moments(model.graph, results[0.1])
    ]
    say("threshold 0.1", every)
    assert sum(count for count, _ in every) == results[0.1].facts["tests"]
    say("threshold 0.01", recorded_of_some(harm, model.graph, results[0.01], 0.01, n=24))


@pytest.mark.usefixtures("shared_data")
def test_tests_on_the_model_of_the_bench_are_forwards_of_the_executor():
    hf, weights = gpt2_small_shaped()
    assert "trained" in weights
    model = patchable(hf.double())
    batch = model.batch_from_ids(**PROMPTS)
    found = Acdc(threshold=0.1).score(model, [batch])
    runs = record(model, batch, "corrupted")
    executor = model.executor(runs.clean, runs.answer_pos)
    hidden = executor.answer_hidden(runs.clean)
    objective = model.objective(get_metric("kl_divergence"), batch, hidden)

    emptied = Emptied.of(model.parts, model.graph, executor, runs.clean, runs.values)

    def harm(kept):
        hidden = run_circuits(emptied, wire(model.graph, model.coupled, kept[None], mute=True))[0]
        return float(objective(hidden).mean())

    say("GPT-2 small's shape, threshold 0.1", recorded_of_some(harm, model.graph, found, 0.1, n=8))
