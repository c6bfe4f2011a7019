"""A prompt is scored as the stock model treats it alone, whatever the lengths of its neighbours in a batch.

In models whose rotary embedding changes with the longest prompt of a call, and `dynamic` also with those before.
"""

import copy

import numpy as np
import pytest
import torch

from pipeline.ablations import collect_statistics
from pipeline.engine.patchable import patchable
from pipeline.engine.recording import run_base
from pipeline.methods import Acdc, Eap, EapIg, EdgePatching, NodePatching, PathPatching
from tests.exactness import assert_same_circuit, make_setting, recomputed_logits, relative_error
from tests.oracles import acdc, attribution, metrics, models
from tests.oracles.dense import position_ids
from tests.oracles.float64 import float64_throughout

LIMIT = 4
LENGTHS = [6, 3, 4, 5]
SHAPE = {"heads": 2, "kv_heads": 1, "width": 8}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10.0,
    "short_factor": [1.0, 1.3],
    "long_factor": [2.0, 5.0],
    "partial_rotary_factor": 1.0,
}
ROPES = {
    "longrope": ("phi3", {"rope_parameters": LONGROPE, "original_max_position_embeddings": LIMIT}),
    "dynamic": (
        "llama",
        {
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10.0, "factor": 4.0},
            "max_position_embeddings": LIMIT,
        },
    ),
}


@pytest.fixture(autouse=True)
def _nothing_leaves_float64():
    with float64_throughout():
        yield


SLOW = pytest.mark.slow
CASES = [
    ("longrope", "left"),
    ("dynamic", "right"),
    pytest.param(("longrope", "right"), marks=SLOW),
    pytest.param(("dynamic", "left"), marks=SLOW),
]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def stock(case):
    kind, changed = ROPES[case[0]]
    return models.build(kind, changed=changed, **SHAPE)


@pytest.fixture(scope="module")
def setting(stock, case):
    with float64_throughout():
        return make_setting(stock, patchable(copy.deepcopy(stock)), case[1], LENGTHS)


def alone(stock, p, ids):
    """Stock logits at the answers, prompt by prompt, each from a model that has seen no longer one; [b, V]."""
    rows = []
    for row, length in sorted(enumerate(p.lengths), key=lambda pair: pair[1]):
        prompt = ids[row, p.real[row]][None]
        stock(torch.ones_like(prompt[:, :1]))  # `dynamic` remembers what it met
        rows.append((row, stock(prompt).logits[0, length - 1]))
    return torch.stack([logits for _, logits in sorted(rows, key=lambda pair: pair[0])])


def test_the_stock_model_treats_a_short_prompt_otherwise_beside_a_long_one(setting, stock):
    p = setting.prompts
    together = stock(p.clean, attention_mask=p.mask, position_ids=position_ids(p.clean, p.mask)).logits
    error = (metrics.at_answers(together, p.answer_pos) - alone(stock, p, p.clean)).abs().amax(1)
    assert float(error[LENGTHS.index(3)]) > 1e-3
    assert float(error[LENGTHS.index(6)]) <= 1e-10


def test_the_oracle_is_the_stock_model_prompt_by_prompt(setting, stock):
    p = setting.prompts
    for run, ids in ((setting.clean, p.clean), (setting.corrupted, p.corrupted)):
        assert relative_error(metrics.at_answers(run.logits, p.answer_pos), alone(stock, p, ids)) <= 1e-10


@pytest.mark.parametrize("which", ["clean", "corrupted"])
def test_what_is_read_out_of_a_batch_is_the_stock_model_prompt_by_prompt(setting, stock, which):
    model, batch, p = setting.model, setting.batch, setting.prompts
    expected = alone(stock, p, getattr(p, which))
    hidden = model.answer_hidden(batch, which)
    assert relative_error(model.unembedding.logits(hidden), expected) <= 1e-10
    captured = model.capture(batch, which)
    hidden = model.executor(captured, batch.answer_pos).answer_hidden(captured)
    assert relative_error(model.unembedding.logits(hidden), expected) <= 1e-10


def test_a_circuit_is_run_as_the_oracle_runs_it(setting):
    kept = np.random.default_rng(0).random(setting.graph.n_edges) < 0.6
    expected = metrics.at_answers(setting.patched(kept), setting.prompts.answer_pos)
    assert relative_error(recomputed_logits(setting, kept), expected) <= 1e-10


def test_attribution_is_that_of_the_oracle(setting):
    p, ablated = setting.prompts, setting.ablated("corrupted")

    def harm(logits):
        return setting.harm("logit_diff", logits)

    found = Eap().score(setting.model, [setting.batch], per_prompt=True).per_prompt
    assert relative_error(found, attribution.eap(setting.dense, p.clean, p.mask, ablated, harm)) <= 1e-10
    found = EapIg(steps=2).score(setting.model, [setting.batch], per_prompt=True).per_prompt
    expected = attribution.eap_ig(setting.dense, p.clean, p.corrupted, p.mask, ablated, harm, 2, EapIg().rule)
    assert relative_error(found, expected) <= 1e-10


def test_acdc_keeps_what_one_forward_per_edge_keeps(setting):
    def harm(kept):
        return float(setting.harm("kl_divergence", setting.patched(kept)).mean())

    found = Acdc(threshold=0.01).score(setting.model, [setting.batch], metric="kl_divergence")
    assert_same_circuit(found, acdc.naive_acdc(harm, setting.graph, 0.01), setting.graph)


METHODS = (
    Eap(),
    NodePatching(positions="from_end"),
    Acdc(threshold=0.1),
    *(
        pytest.param(method, marks=SLOW)
        for method in (
            EapIg(steps=3),
            EdgePatching(),
            EdgePatching(direction="denoising"),
            NodePatching(),
            PathPatching(receivers=("a1.h1<v>", "m1")),
        )
    ),
)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.id)
def test_results_do_not_depend_on_the_batch_size(setting, method):
    by_prompt = method.scores_prompts
    together, apart, pairs = (
        method.score(setting.model, batches, per_prompt=by_prompt)
        for batches in ([setting.batch], setting.batch.split(1), setting.batch.split(2))
    )
    for other in (together, pairs):
        for name in ("score", "std", "per_prompt") if by_prompt else ("score", "std"):
            found, expected = (np.nan_to_num(getattr(scores, name)) for scores in (other, apart))
            assert relative_error(found, expected) <= 1e-10


def test_statistics_do_not_depend_on_the_batch_size(setting):
    together = collect_statistics(setting.model, [setting.batch])
    apart = collect_statistics(setting.model, setting.batch.split(1))
    for name, values in together.items():
        assert relative_error(values, apart[name]) <= 1e-10


def test_nothing_is_left_on_the_model(setting):
    model, batch = setting.model, setting.batch
    rotary = model.hf.model.rotary_emb
    assert "forward" not in rotary.__dict__
    rotary.forward = own = rotary.forward  # as accelerate does
    run_base(model.hf, model.parts, batch.clean, batch)
    assert rotary.__dict__.pop("forward") is own
