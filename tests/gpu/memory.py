"""What the device's memory holds at most, against what `circuits plan` says of it before any weight is read.

On the CPU it is how much the process grows: what its allocator kept from before is not seen there.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipeline.engine.patchable import PatchableModel
from pipeline.evaluation import circuit_values, selections
from pipeline.methods import Acdc, Eap, EapIg
from pipeline.models.footprint import Footprint
from tests.gpu.kit import Case, Kit
from tests.gpu.record import Row
from tests.gpu.shapes import chosen, prompts, wrapped
from tests.gpu.timed import search

PROMPTS, LENGTH, STEPS = 8, 32, 5
GIB = 2**30


def cases(kit: Kit) -> Iterator[Case]:
    for name in chosen(kit):
        for dtype in ("bfloat16",) if name == "8b" else ("float32", "bfloat16"):
            yield f"{name} {dtype}", lambda name=name, dtype=dtype: _rows(kit, name, dtype)


def _rows(kit: Kit, name: str, dtype: str) -> Iterator[Row]:
    made: list[PatchableModel] = []
    kit.peak_bytes(lambda: None)
    loaded = kit.peak_bytes(lambda: made.append(wrapped(name, kit, dtype)))
    model = made.pop()
    footprint = Footprint(model.config, model.graph, dtype)
    what = f"{name} {dtype}"
    held = sum(parameter.numel() * parameter.element_size() for parameter in model.hf.parameters())
    yield _row(
        f"{what}, weights", held, footprint.weights(), f"at most {loaded / GIB:.2f} GiB while it loads"
    )
    batch = prompts(model.config, kit, PROMPTS, LENGTH)
    for said, work in _work(kit, model, batch, dtype):
        if kit.left > 0:
            steps = STEPS if said.startswith("eap_ig") else int(said == "eap")
            planned = footprint.passes(PROMPTS, LENGTH, steps)
            yield _row(f"{what}, {said}", kit.peak_bytes(work), planned, "above the weights")


def _work(kit: Kit, model: PatchableModel, batch: Any, dtype: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    few = prompts(model.config, kit, 1, 4)
    Eap().score(model, [few])  # what is allocated once
    yield "eap", lambda: Eap().score(model, [batch])
    yield f"eap_ig, {STEPS} steps", lambda: EapIg(steps=STEPS).score(model, [batch])
    masks = np.stack([c.mask for _, c in selections((0.01, 0.1), Eap().score(model, [few]))])
    yield "2 circuits", lambda: circuit_values(model, [batch], masks)
    if dtype == "float32":
        yield "acdc", lambda: search(kit, model, batch, Acdc(threshold=0.01), kit.left / 4)


def _row(what: str, found: int, planned: int, note: str) -> Row:
    return Row(
        what,
        found / planned,
        "x",
        "the plan's estimate",
        f"{found / GIB:.3f} of {planned / GIB:.3f} GiB; {note}",
    )
