"""The methods against passes of the stock model that they cannot do without, or that a naive one would take.

The stock model is the same one on the same device, before it is wrapped. Prompts and ratios are those of
`tests.benchmarks`: eap and eap_ig with 8 prompts of 32 tokens, acdc with 8 of 10, edge_patching with 2 of 10.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pipeline.engine.batch import Batch
from pipeline.engine.graphs import Graphs
from pipeline.engine.patchable import PatchableModel, patchable
from pipeline.evaluation import circuit_values, selections
from pipeline.methods import Eap, EapIg, EdgePatching
from tests.benchmarks.attribution import stock_passes
from tests.benchmarks.circuits import SIZES
from tests.gpu.kit import Case, Kit
from tests.gpu.record import Row, skipped
from tests.gpu.shapes import acdc, chosen, prompts, stock
from tests.gpu.timed import search

ANSWER = 1  # logits to keep


def cases(kit: Kit) -> Iterator[Case]:
    for name in chosen(kit):
        for dtype in ("float32", "bfloat16"):
            yield f"{name} {dtype}", lambda name=name, dtype=dtype: _rows(kit, name, dtype)


@dataclass(frozen=True)
class Floor:
    """Seconds of the stock model's passes, measured before it is wrapped: the largest shape is not held twice."""

    eap: float  # a forward and a forward-backward, 8 prompts of 32 tokens
    eap_ig: float  # two and five of them
    eight: float  # a forward of 8 prompts of 10 tokens
    two: float  # of 2 of them

    @classmethod
    def of(cls, kit: Kit, plain: Any) -> "Floor":
        long = prompts(plain.config, kit, 8, 32)
        ids = {"clean": long.clean, "answers": long.answers}
        passes = [kit.seconds(lambda n=n: stock_passes(plain, ids, *n, ANSWER)) for n in ((1, 1), (2, 5))]
        return cls(*passes, *(_forward(kit, plain, prompts(plain.config, kit, n, 10)) for n in (8, 2)))


def _rows(kit: Kit, name: str, dtype: str) -> Iterator[Row]:
    plain, what = stock(name, kit, dtype), f"{name} {dtype}"
    floor = Floor.of(kit, plain)
    model = patchable(plain)
    measures = [_attribution, _graphs, _circuits]
    if dtype == "float32":  # the exact ones are refused in 16 bits
        measures += [_patching, _acdc]
    for measure in measures:
        if kit.left <= 0:
            yield skipped(f"{what}, {measure.__name__.strip('_')}", "no time left")
            continue
        for row in measure(kit, model, floor):
            yield replace(row, what=f"{what}, {row.what}")


def _attribution(kit: Kit, model: PatchableModel, floor: Floor) -> Iterator[Row]:
    batch = prompts(model.config, kit, 8, 32)
    for method, least, passes in (
        (Eap(), floor.eap, "1 stock forward + 1 forward-backward"),
        (EapIg(steps=5), floor.eap_ig, "2 stock forwards + 5 forward-backwards"),
    ):
        ours = kit.seconds(lambda method=method: method.score(model, [batch]))
        note = f"{_ms(ours)}, floor {_ms(least)}"
        yield Row(f"{method.id} B8 T32", ours / least, "x", f"{passes}, logits at the answer", note)


def _graphs(kit: Kit, model: PatchableModel, floor: Floor) -> Iterator[Row]:
    """Attribution with CUDA graphs against the same without, once the shape is captured."""
    batch = prompts(model.config, kit, 8, 32)
    graphed = replace(model, graphs=Graphs())
    for method, least in ((Eap(), floor.eap), (EapIg(steps=5), floor.eap_ig)):
        off, on = (kit.seconds(lambda one=one, m=method: m.score(one, [batch])) for one in (model, graphed))
        said = graphed.graphs.refused or ("captured" if kit.on_cuda else "static shapes, nothing to capture")
        note = f"{said}; {_ms(on)} and {_ms(off)}, floor {_ms(least)}"
        yield Row(f"{method.id} B8 T32, CUDA graphs", off / on, "x faster", "without", note)


def _circuits(kit: Kit, model: PatchableModel, floor: Floor) -> Iterator[Row]:
    batch = prompts(model.config, kit, 8, 10)
    masks = np.stack([circuit.mask for _, circuit in selections(SIZES, Eap().score(model, [batch]))])
    ours = kit.seconds(lambda: circuit_values(model, [batch], masks))
    note = f"{_ms(ours)}, a forward {_ms(floor.eight)}"
    yield Row(f"{len(SIZES)} circuits B8 T10", ours / floor.eight, "x", "one stock forward", note)


def _patching(kit: Kit, model: PatchableModel, floor: Floor) -> Iterator[Row]:
    """The edges into one MLP three quarters up and into the logits."""
    batch, layer = prompts(model.config, kit, 2, 10), 3 * model.graph.n_layers // 4
    method = EdgePatching(receivers=(f"m{layer}", "logits"))
    edges = method.cost(model.graph, [1]).evaluations
    ours = kit.seconds(lambda: method.score(model, [batch]), 1)
    note = f"{edges:,} edges into m{layer} and the logits, {_ms(ours)}; a forward {_ms(floor.two)}"
    yield Row("edge_patching B2 T10", floor.two * edges / ours, "x faster", "a stock forward an edge", note)


def _acdc(kit: Kit, model: PatchableModel, floor: Floor) -> Iterator[Row]:
    batch = prompts(model.config, kit, 8, 10)
    for metric in ("kl_divergence", "logit_diff"):
        method = acdc(model, batch, metric)
        search(kit, model, batch, method, kit.left / 40)
        found = search(kit, model, batch, method, kit.left / 10)
        note = f"{found.tests:,} tests, {found.kept} kept, {_ms(found.seconds)}, {found.said}"
        ratio = floor.eight * found.tests / found.seconds
        what = f"acdc {metric} {method.threshold:.1g} B8 T10"
        yield Row(what, ratio, "x faster", "a stock forward a test", f"{note}; a forward {_ms(floor.eight)}")


def _forward(kit: Kit, plain: Any, batch: Batch) -> float:
    with torch.no_grad():
        return kit.seconds(lambda: plain(input_ids=batch.clean, use_cache=False), 5)


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"
