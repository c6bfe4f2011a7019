"""The item, the unit that is run, committed, retried and counted; and the hash that says what is the same.

Knows names and paths relative to a run directory. Does not know files, methods or who executes an item.

Ids become folders. Whatever they come from, a config or a file in a run directory, no item has one that is not
made of `ID_PATTERN`: no path of an item leads out of its run.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

ID_PATTERN = re.compile(r"^[a-z0-9][a-z0-9._-]{0,79}$")  # of tasks and methods

# What stands for the method in the name of an item that belongs to none; no method may be called so.
RESERVED_IDS = ("baseline", "statistics", "filtered")
EVALUATIONS = "evaluations"  # the kind of an item whose method is the name of an evaluation


@dataclass(frozen=True, order=True)
class Item:
    """One slice of the work of a run.

    `scores`, `node_scores` and every other type of result (`core.results`): one method on one shard of a task's
    prompts. `baseline`: the metrics of one shard, clean and corrupted. `filtered`: which prompts of a shard the model
    gets right, where the task keeps those alone. `statistics`: the means over a whole task that an ablation needs,
    shard 0. `evaluations`: what one evaluation wants to know of one shard; no plan lists it.
    """

    kind: str
    task: str
    method: str | None
    shard: int

    def __post_init__(self) -> None:
        has_method = self.kind not in RESERVED_IDS
        ids = (self.task, self.method) if has_method else (self.task,)
        if (self.method is not None) != has_method or self.shard < 0:
            raise ValueError(f"no such item: {self.kind} of method {self.method}, shard {self.shard}")
        if not all(is_id(id_) for id_ in (self.kind, *ids)):
            raise ValueError(f"no such item: an id in {(self.kind, *ids)} is not of a-z 0-9 . _ -")

    @property
    def name(self) -> str:
        """What people read: `pronoun/eap_ig/3`, `pronoun/baseline/3`, `pronoun/statistics/0`; of an evaluation
        `pronoun/evaluation=auroc/3`, which no id of a method can be."""
        what = f"evaluation={self.method}" if self.kind == EVALUATIONS else self.method or self.kind
        return f"{self.task}/{what}/{self.shard}"

    @property
    def path(self) -> PurePosixPath:
        """Where the item's file lies, relative to the run directory."""
        shard = f"shard-{self.shard:05d}.parquet"
        if self.kind == "statistics":
            return PurePosixPath("statistics", f"task={self.task}", "means.safetensors")
        if self.kind == "baseline":
            return PurePosixPath("prompt_metrics", f"task={self.task}", shard)
        if self.kind == "filtered":
            return PurePosixPath("filtered", f"task={self.task}", shard)
        return PurePosixPath(self.kind, f"task={self.task}", f"method={self.method}", shard)

    @property
    def failure_folder(self) -> PurePosixPath:
        """Where the records of its failed attempts lie, relative to the run directory."""
        kind = "evaluation" if self.kind == EVALUATIONS else "method"
        what = f"{kind}={self.method or self.kind}"
        return PurePosixPath("failures", f"task={self.task}", what, f"shard-{self.shard:05d}")

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "task": self.task, "method": self.method, "shard": self.shard}

    @staticmethod
    def from_dict(fields: Mapping[str, Any]) -> "Item":
        """The item that plain data names; ValueError for data of any other shape, which a file may hold."""
        kind, task, method, shard = (fields.get(key) for key in ("kind", "task", "method", "shard"))
        if not isinstance(kind, str) or not isinstance(task, str) or not isinstance(method, str | None):
            raise ValueError(f"no such item: {kind!r} of {task!r} and {method!r}")  # noqa: TRY004 - as below
        if not isinstance(shard, int) or isinstance(shard, bool) or shard >= 2**31:
            raise ValueError(f"no such item: shard {shard!r}")
        return Item(kind, task, method, shard)


def is_id(value: object) -> bool:
    """Whether `value` may be the id of a task or method: lower case, and no path of any kind."""
    return isinstance(value, str) and ID_PATTERN.fullmatch(value) is not None


def canonical_json(value: Any) -> str:
    """The one way to write plain data: sorted keys, no spaces, no NaN. Equal data, equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def digest(value: Any) -> str:
    """sha256 of the canonical JSON of plain data, 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
