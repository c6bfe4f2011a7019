"""Operations, waits for the device and seconds per ACDC test: what a GPU's launches cost follows from the first two.

An operation is what torch dispatches, views left out. A wait is one that hands a number of a tensor to Python, or a
tensor to the CPU; on a device torch's own count of them stands beside, and that of its kernels.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline import load_model
from pipeline.engine.batch import Batch
from pipeline.engine.patchable import PatchableModel
from pipeline.methods import Acdc, EdgePatching
from pipeline.tasks import Induction
from tests.gpu.kit import Case, Kit
from tests.gpu.record import Row
from tests.gpu.shapes import acdc, chosen, prompts, wrapped
from tests.gpu.timed import search

WAITS = {
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "equal",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
}


class Operations(TorchDispatchMode):
    """While active, counts what is dispatched: `done` by name without views, `waits` among them."""

    def __init__(self) -> None:
        super().__init__()
        self.done, self.waits = Counter[str](), Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            name = func.overloadpacket.__name__
            self.done[name] += 1
            if name in WAITS or _to_host(args, out) or _masked(name, args):
                self.waits[name] += 1
        return out


def _to_host(args: Any, out: Any) -> bool:
    given = [one for one in args if isinstance(one, torch.Tensor)]
    return (
        isinstance(out, torch.Tensor)
        and out.device.type == "cpu"
        and any(one.device.type != "cpu" for one in given)
    )


def _masked(name: str, args: Any) -> bool:
    """Indices of True: how many there are is asked first."""
    indices = args[1] if name in ("index", "index_put", "index_put_") and len(args) > 1 else ()
    return any(isinstance(one, torch.Tensor) and one.dtype == torch.bool for one in indices)


def cases(kit: Kit) -> Iterator[Case]:
    yield "toy:trained", lambda: _toy(kit)
    for name in chosen(kit)[:2]:
        yield f"{name}, acdc", lambda name=name: _shape(kit, name)


def _toy(kit: Kit) -> Iterator[Row]:
    model = load_model("toy:trained", device_map=str(kit.device))
    batch = model.batch(Induction(count=8).pairs(model.tokenizer, seed=0))
    yield from _rows(kit, model, batch, Acdc(threshold=0.01), "toy:trained")
    with Operations() as counted:
        EdgePatching().score(model, [batch])
    each = sum(counted.done.values()) / model.graph.n_edges
    yield Row("toy:trained, edge_patching, operations", each, "", "an edge", _often(counted.done))


def _shape(kit: Kit, name: str) -> Iterator[Row]:
    model = wrapped(name, kit, "float32")
    batch = prompts(model.config, kit, 8, 10)
    yield from _rows(kit, model, batch, acdc(model, batch, "kl_divergence"), name)


def _rows(kit: Kit, model: PatchableModel, batch: Batch, method: Acdc, name: str) -> Iterator[Row]:
    """Of one search, cut off where a third of the time is gone: it is asked for four times."""
    what = f"{name}, acdc B{batch.n_prompts} T{batch.length}"
    share = kit.left / 8
    search(kit, model, batch, method, share / 2)  # what is compiled and allocated once
    found = search(kit, model, batch, method, share)
    note = f"{found.tests:,} tests, {found.kept} edges kept, {found.said}"
    yield Row(f"{what}, seconds", 1e6 * found.seconds / found.tests, "us", "a test", note)
    with Operations() as counted:
        found = search(kit, model, batch, method, share)
    yield Row(
        f"{what}, operations", sum(counted.done.values()) / found.tests, "", "a test", _often(counted.done)
    )
    waits = sum(counted.waits.values())
    yield Row(f"{what}, waits", waits / found.rounds, "", "a round", _often(counted.waits))
    if kit.on_cuda:
        yield from _of_device(kit, lambda: search(kit, model, batch, method, share), what)


def _of_device(kit: Kit, work: Callable[[], Any], what: str) -> Iterator[Row]:
    """What torch itself counts on a CUDA device."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            found = work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    where = Counter(
        f"{w.filename.rsplit('/', 1)[-1]}:{w.lineno}" for w in said if "synchroniz" in str(w.message)
    )
    yield Row(f"{what}, waits by torch", sum(where.values()) / found.rounds, "", "a round", _often(where))
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        found = work()
        kit.wait()
    events = seen.key_averages()
    launches = sum(event.count for event in events if event.key.startswith("cudaLaunchKernel"))
    busy = sum(event.self_device_time_total for event in events) / 1e6
    yield Row(f"{what}, kernels", launches / found.tests, "", "a test", "launches, by torch's profiler")
    yield Row(f"{what}, device busy", busy / found.seconds, "", "the seconds of the search", "while profiled")


def _often(counted: "Counter[str]") -> str:
    return ", ".join(f"{name} {count}" for name, count in counted.most_common(5))
