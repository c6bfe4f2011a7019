"""The item, the unit that is run, committed, retried and counted; and the hash that says what is the same.

Knows names and paths relative to a run directory. Does not know files, methods or who executes an item.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

Kind = Literal["statistics", "baseline", "scores", "node_scores"]

# What stands for the method in the name of an item that belongs to none; no method may be called so.
RESERVED_IDS = ("baseline", "statistics")


@dataclass(frozen=True, order=True)
class Item:
    """One slice of the work of a run.

    `scores` and `node_scores`: one method on one shard of a task's prompts. `baseline`: the metrics of one
    shard, clean and corrupted. `statistics`: the means over a whole task that an ablation needs, shard 0.
    """

    kind: Kind
    task: str
    method: str | None
    shard: int

    def __post_init__(self) -> None:
        if (self.method is None) == (self.kind in ("scores", "node_scores")) or self.shard < 0:
            raise ValueError(f"no such item: {self.kind} of method {self.method}, shard {self.shard}")

    @property
    def name(self) -> str:
        """What people read: `pronoun/eap_ig/3`, `pronoun/baseline/3`, `pronoun/statistics/0`."""
        return f"{self.task}/{self.method or self.kind}/{self.shard}"

    @property
    def path(self) -> PurePosixPath:
        """Where the item's file lies, relative to the run directory."""
        shard = f"shard-{self.shard:05d}.parquet"
        if self.kind == "statistics":
            return PurePosixPath("statistics", f"task={self.task}", "means.safetensors")
        if self.kind == "baseline":
            return PurePosixPath("prompt_metrics", f"task={self.task}", shard)
        return PurePosixPath(self.kind, f"task={self.task}", f"method={self.method}", shard)

    @property
    def failure_folder(self) -> PurePosixPath:
        """Where the records of its failed attempts lie, relative to the run directory."""
        method = f"method={self.method or self.kind}"
        return PurePosixPath("failures", f"task={self.task}", method, f"shard-{self.shard:05d}")

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "task": self.task, "method": self.method, "shard": self.shard}

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> "Item":
        return Item(fields["kind"], fields["task"], fields["method"], fields["shard"])


def shard_ranges(n_prompts: int, per_shard: int) -> list[range]:
    """Prompt indices of every shard: consecutive, in order, `per_shard` each but for a shorter last one."""
    if per_shard < 1:
        raise ValueError(f"a shard of {per_shard} prompts")
    return [range(i, min(i + per_shard, n_prompts)) for i in range(0, n_prompts, per_shard)]


def canonical_json(value: Any) -> str:
    """The one way to write plain data: sorted keys, no spaces, no NaN. Equal data, equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of plain data, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
