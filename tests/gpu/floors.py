"""The methods against passes of the stock model that they cannot do without, or that a naive one would take.

The stock model is an untouched one of the same shape and precision on the same device. Prompts and ratios are those of
`tests.benchmarks`: eap and eap_ig with 8 prompts of 32 tokens, acdc with 8 of 10, edge_patching with 2 of 10.
"""

from collections.abc import Iterator

import numpy as np
import torch

from pipeline.engine.batch import Batch
from pipeline.engine.patchable import PatchableModel
from pipeline.evaluation import circuit_values, selections
from pipeline.methods import Eap, EapIg, EdgePatching
from tests.benchmarks.attribution import stock_passes
from tests.benchmarks.circuits import SIZES
from tests.gpu.kit import Case, Kit
from tests.gpu.record import Row, skipped
from tests.gpu.shapes import acdc, chosen, prompts, stock, wrapped
from tests.gpu.timed import search

ANSWER = 1  # logits to keep


def cases(kit: Kit) -> Iterator[Case]:
    for name in chosen(kit):
        for dtype in ("float32", "bfloat16"):
            yield f"{name} {dtype}", lambda name=name, dtype=dtype: _rows(kit, name, dtype)


def _rows(kit: Kit, name: str, dtype: str) -> Iterator[Row]:
    plain, model, what = stock(name, kit, dtype), wrapped(name, kit, dtype), f"{name} {dtype}"
    measures = [_attribution, _circuits]
    if dtype == "float32":  # the exact ones are refused in 16 bits
        measures += [_patching, _acdc]
    for measure in measures:
        if kit.left <= 0:
            yield skipped(f"{what}, {measure.__name__.strip('_')}", "no time left")
            continue
        for row in measure(kit, model, plain):
            yield Row(f"{what}, {row.what}", row.value, row.unit, row.against, row.note)


def _attribution(kit: Kit, model: PatchableModel, plain: object) -> Iterator[Row]:
    batch = prompts(model, 8, 32)
    ids = {"clean": batch.clean, "answers": batch.answers}
    for method, forwards, backwards in ((Eap(), 1, 1), (EapIg(steps=5), 2, 5)):
        ours = kit.seconds(lambda method=method: method.score(model, [batch]))
        floor = kit.seconds(lambda f=forwards, b=backwards: stock_passes(plain, ids, f, b, ANSWER))
        against = f"{forwards} stock forwards + {backwards} forward-backwards, logits at the answer"
        yield Row(f"{method.id} B8 T32", ours / floor, "x", against, f"{_ms(ours)}, floor {_ms(floor)}")


def _circuits(kit: Kit, model: PatchableModel, plain: object) -> Iterator[Row]:
    batch = prompts(model, 8, 10)
    masks = np.stack([circuit.mask for _, circuit in selections(SIZES, Eap().score(model, [batch]))])
    ours = kit.seconds(lambda: circuit_values(model, [batch], masks))
    floor = _forward(kit, plain, batch)
    yield Row(
        f"{len(SIZES)} circuits B8 T10", ours / floor, "x", "one stock forward", f"{_ms(ours)}, {_ms(floor)}"
    )


def _patching(kit: Kit, model: PatchableModel, plain: object) -> Iterator[Row]:
    """The edges into one MLP three quarters up and into the logits."""
    batch, layer = prompts(model, 2, 10), 3 * model.graph.n_layers // 4
    method = EdgePatching(receivers=(f"m{layer}", "logits"))
    edges = method.cost(model.graph, [1]).evaluations
    ours, floor = kit.seconds(lambda: method.score(model, [batch]), 1), _forward(kit, plain, batch)
    note = f"{edges:,} edges into m{layer} and the logits, {_ms(ours)}; a forward {_ms(floor)}"
    yield Row("edge_patching B2 T10", floor * edges / ours, "x faster", "a stock forward an edge", note)


def _acdc(kit: Kit, model: PatchableModel, plain: object) -> Iterator[Row]:
    batch = prompts(model, 8, 10)
    floor = _forward(kit, plain, batch)
    for metric in ("kl_divergence", "logit_diff"):
        method = acdc(model, batch, metric)
        search(kit, model, batch, method, kit.left / 40)
        found = search(kit, model, batch, method, kit.left / 10)
        note = f"{found.tests:,} tests, {found.kept} kept, {_ms(found.seconds)}, {found.said}; a forward {_ms(floor)}"
        ratio = floor * found.tests / found.seconds
        yield Row(
            f"acdc {metric} {method.threshold:.1g} B8 T10", ratio, "x faster", "a stock forward a test", note
        )


def _forward(kit: Kit, plain: object, batch: Batch) -> float:
    with torch.no_grad():
        return kit.seconds(lambda: plain(input_ids=batch.clean, use_cache=False), 5)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
