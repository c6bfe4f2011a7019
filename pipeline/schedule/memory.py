"""What a worker of a run holds in memory, estimated in bytes, and what it takes of a machine.

Knows the model's footprint and the lengths of prompts. Does not know items or results.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from pipeline.config import RunConfig
from pipeline.core.machines import Need
from pipeline.models.footprint import PROCESS_BYTES, Footprint


@dataclass(frozen=True, eq=False)
class Memory:
    """Estimates for one worker; `kept` is the largest number of prompts whose scores an item keeps one by one."""

    config: RunConfig
    footprint: Footprint
    lengths: Mapping[str, Int[np.ndarray, "_prompt"]]  # of every task's prompts, in tokens
    n_edges: int
    kept: int

    @cached_property
    def total(self) -> int:
        """A rough estimate for one worker: what it cannot do without, and its share of what a pooled search keeps."""
        config = self.config
        workers = config.cluster.workers
        # as many workers as fit share what they have left
        searched = 0 if workers == "auto" else max(self.searched.values(), default=0) // workers
        if (limit := config.cluster.memory_per_worker) is not None:
            searched = min(searched, int(limit * 2**30))
        return PROCESS_BYTES + self.working + searched

    @cached_property
    def weights(self) -> int:
        """The model's parameters."""
        return self.footprint.weights()

    @cached_property
    def working(self) -> int:
        """What a worker holds at least, on its devices where it has any: the model, a batch under work, tables of
        scores."""
        config, footprint = self.config, self.footprint
        longest = max((int(lengths.max(initial=0)) for lengths in self.lengths.values()), default=0)
        batch = config.cluster.batch_size
        # a shard's rows, and the same in the order of its prompts
        by_prompt = 2 * 8 * self.kept * self.n_edges
        methods = config.method_ids.values()
        steps = {getattr(method, "steps", 1) if method.needs.gradient else 0 for method in methods}
        passes = max(footprint.passes(batch, longest, n) for n in steps | {0})
        return self.weights + passes + by_prompt

    @property
    def need(self) -> Need:
        """What a worker takes of a machine."""
        cluster = self.config.cluster
        if cluster.gpus_per_worker:  # weights pass through the machine's memory on their way
            memory = PROCESS_BYTES + self.weights
            return Need(cluster.threads, cluster.gpus_per_worker, memory, self.working)
        return Need(cluster.threads, 0, PROCESS_BYTES + self.working)

    @cached_property
    def searched(self) -> dict[str, int]:
        """By task, the recorded runs of all its prompts: what the workers of a pooled search keep between them, or
        record again for every question where `cluster.memory_per_worker` does not hold them."""
        if not any(method.pooled for method in self.config.method_ids.values()):
            return {}
        size = self.config.cluster.batch_size
        return {
            task: self.footprint.searched(_batches(np.sort(lengths), size))
            for task, lengths in self.lengths.items()
        }


def _batches(ordered: Int[np.ndarray, " prompt"], size: int) -> list[tuple[int, int]]:
    """How many prompts every batch has, and how long the longest is, where similar lengths stand together."""
    ends = [min(start + size, len(ordered)) for start in range(0, len(ordered), size)]
    return [(end - start, int(ordered[end - 1])) for start, end in zip([0, *ends], ends, strict=False)]
