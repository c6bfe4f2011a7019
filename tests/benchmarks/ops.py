"""Dispatched operations per tested edge of ACDC: what the launches of a GPU would scale with, counted without one."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.engine import readout
from pipeline.engine.batch import Batch
from pipeline.engine.host import TRANSFERS
from pipeline.engine.patchable import PatchableModel
from pipeline.methods import Acdc
from tests.benchmarks.measure import row

# Allocations and what moves nothing launch nothing; views are known by what the dispatcher says of them.
_FREE = {
    "empty",
    "empty_strided",
    "empty_like",
    "new_empty",
    "detach",
    "lift_fresh",
    "_unsafe_view",
    "promote_types",
}


class Operations(TorchDispatchMode):
    """Counts operations by name while it is on, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if not func.is_view and name not in _FREE:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def counted(work: Callable[[], Any]) -> tuple[Counter[str], int]:
    """(operations by name, transfers to the host) of some work."""
    before = TRANSFERS.count
    with Operations() as operations:
        work()
    return operations.found, TRANSFERS.count - before


def operation_rows(
    small: tuple[PatchableModel, Batch], wide: tuple[PatchableModel, Batch]
) -> list[dict[str, Any]]:
    """Of `toy:trained` and of the GPT-2 shape; recorded runs included."""
    rows = []
    for (model, batch), threshold, name in ((small, 0.01, "toy:trained"), (wide, 0.001, "GPT-2 shape")):
        found: list[dict[str, Any]] = []
        method = Acdc(threshold=threshold)
        # a vocabulary block after block, and few variants at a time, are for the cache of a CPU; elsewhere all are
        # reduced at once
        whole = patch.multiple(readout, _BLOCK=len(model.parts.unembedding), _REDUCED_AT_ONCE=2**62)
        with torch.no_grad(), whole:
            operations, transfers = counted(
                lambda method=method, model=model, batch=batch, found=found: found.append(
                    method.score(model, [batch]).facts
                )
            )
        facts = found[0]
        most = ", ".join(f"{key} {count / facts['tests']:.1f}" for key, count in operations.most_common(6))
        kept = f"{facts['kept_edges'] / model.graph.n_edges:.2%} kept, {facts['tests']} tests"
        what = f"acdc kl_divergence threshold {threshold:g}, {name}"
        value = operations.total() / facts["tests"]
        rows.append(row(what, value, "operations", "per tested edge, views left out", f"{kept}; {most}"))
        each = transfers / facts["rounds"]
        rows.append(row(what, each, "transfers", "to the host per round", f"{facts['rounds']} rounds"))
    return rows
