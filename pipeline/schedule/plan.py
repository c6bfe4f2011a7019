"""A run before anything is computed: its items in order, their keys, what each costs, and its directory.

Knows config, prompts in tokens, the graph, and each method's cost. Does not know weights, workers or results.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.ablations import needs_statistics
from pipeline.config import RunConfig
from pipeline.core.graph import Graph
from pipeline.core.items import Item, digest
from pipeline.core.machines import Need
from pipeline.core.prompts import TokenPair
from pipeline.core.showing import names
from pipeline.methods import Cost, Method
from pipeline.models.families import family_of
from pipeline.models.footprint import Footprint
from pipeline.models.load import ResolvedModel
from pipeline.schedule.memory import Memory
from pipeline.schedule.task_prompts import TaskPrompts
from pipeline.store.place.where import Place, place
from pipeline.store.run.prompt_scores import n_bytes
from pipeline.store.run.run_dir import RunDirectory
from pipeline.store.run.schema import SCHEMA_VERSION


@dataclass(frozen=True)
class Work:
    """Items taken together: how many, the prompts that they read, what they cost and keep of every prompt."""

    items: int = 0
    prompts: int = 0
    cost: Cost = field(default_factory=Cost)
    prompt_score_bytes: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.items + other.items,
            self.prompts + other.prompts,
            self.cost + other.cost,
            self.prompt_score_bytes + other.prompt_score_bytes,
        )


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that is known about a run before its first pass; make one with `make_plan`."""

    config: RunConfig
    model: ResolvedModel
    graph: Graph
    tokens: dict[str, TaskPrompts]

    @cached_property
    def methods(self) -> dict[str, Method]:
        """Every method by its id, with metric and ablation written out."""
        return self.config.method_ids

    # --- items -------------------------------------------------------------------------------------------

    @cached_property
    def items(self) -> list[Item]:
        """All items in the order of execution: statistics; then, shard by shard, baseline and methods; then what
        looks at whole tasks."""
        return list(self._each_item())

    def _each_item(self) -> Iterator[Item]:
        for task, tokens in self.tokens.items():
            if self.config.task_ids[task].filter is not None:
                yield from (Item("filtered", task, None, shard) for shard in range(tokens.n_shards))
        if any(needs_statistics(name) for name in self.config.ablations):
            yield from (Item("statistics", task, None, 0) for task in self.tokens)
        sharded = {id_: method for id_, method in self.methods.items() if not method.pooled}
        for task, tokens in self.tokens.items():
            for shard in range(tokens.n_shards):
                yield Item("baseline", task, None, shard)
                for id_, method in sharded.items() if task in self.config.discovering else ():
                    yield Item(method.kind.name, task, id_, shard)
        for task in self.config.discovering:
            for id_, method in self.methods.items():
                if id_ not in sharded:
                    yield Item(method.kind.name, task, id_, 0)

    def __repr__(self) -> str:
        return f"Plan({self.run_id}: {len(self.items):,} items, {names(self.tokens)} x {names(self.methods)})"

    def is_pooled(self, item: Item) -> bool:
        """Whether an item is of all prompts of its task."""
        return item.method is not None and self.methods[item.method].pooled

    def prompts(self, item: Item) -> list[TokenPair]:
        """The prompts that an item reads: its shard's, or the whole task's (statistics, pooled methods)."""
        places = self._places(item)
        return self.tokens[item.task][places.start : places.stop]

    def n_prompts(self, item: Item) -> int:
        """How many prompts an item reads."""
        return len(self._places(item))

    def _reads_all(self, item: Item) -> bool:
        return item.kind == "statistics" or self.is_pooled(item)

    def _places(self, item: Item) -> range:
        tokens = self.tokens[item.task]
        return range(len(tokens)) if self._reads_all(item) else tokens.of_shard(item.shard)

    # --- identity ----------------------------------------------------------------------------------------

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the run key is made of: the config's identity, the model's files, the prompts themselves."""
        identity = self.config.identity()
        identity["model"] |= {"fingerprint": self.model.fingerprint, "graph": self.graph.fingerprint}
        identity["model"] |= self._post_norm
        identity["tasks"] = {
            id_: {
                "attention": task.attention,
                "prompts": len(self.tokens[id_]),
                "sha256": self.tokens[id_].digest,
                **({"target": task.target} if task.target != "token" else {}),
                **({"read": task.read} if task.read is not None else {}),
                **({"held_out_of": task.held_out_of} if task.held_out_of is not None else {}),
                **({"filter": task.filter} if task.filter is not None else {}),
            }
            for id_, task in self.config.task_ids.items()
        }
        if spans := {  # of those that are read: naming others makes no other run
            f"{task}/{name}": {"sha256": found}
            for task, tokens in self.tokens.items()
            for name, found in tokens.span_digests.items()
        }:
            identity["spans"] = spans
        return identity | {"schema_version": SCHEMA_VERSION}

    @property
    def _post_norm(self) -> dict[str, str]:
        """What a head writes, where the model leaves a choice: elsewhere it is no part of a run's identity."""
        has_norm = family_of(self.model.config).post_attn is not None
        return {"post_norm": self.config.model.post_norm} if has_norm else {}

    @cached_property
    def run_key(self) -> str:
        """sha256 of the identity; equal keys, equal runs."""
        return digest(self.identity)

    @property
    def run_id(self) -> str:
        """Name of the run directory: the config's name and six digits of the run key."""
        return f"{self.config.name}-{self.run_key[:6]}"

    @property
    def model_name(self) -> str:
        """What the model is called: its name alone where it is a folder or a file, however that was spelled."""
        if self.model.gguf is not None:
            return self.model.gguf
        name = self.config.model.name
        return Path(name).resolve().name if self.model.is_local and not name.startswith("toy:") else name

    @property
    def note(self) -> str | None:
        """What is to be known of the weights, wherever the model is named."""
        seed = self.config.model.untrained
        drawn = None if seed is None else f"untrained: its weights are drawn at random, by the seed {seed}"
        return "; ".join(note for note in (drawn, self.model.note) if note) or None

    @property
    def path(self) -> Place:
        """Where the run directory lies unless the caller says otherwise."""
        return place(self.config.output) / self.run_id

    @cached_property
    def item_keys(self) -> dict[Item, str]:
        return {item: digest(self._item_identity(item)) for item in self.items}

    def item_key(self, item: Item) -> str:
        """sha256 of all that the item's file depends on; a finished item is reused by it."""
        return self.item_keys[item]

    def _item_identity(self, item: Item) -> dict[str, Any]:
        whole, tokens, all_ = self.identity, self.tokens[item.task], self._reads_all(item)
        identity = {
            "item": item.to_dict(),
            "model": whole["model"],
            "attention": whole["tasks"][item.task]["attention"],
            "prompts": tokens.digest if all_ else tokens.shard_digests[item.shard],
            "seed": whole["seed"],
            "schema_version": SCHEMA_VERSION,
        }
        if wanted := whole["tasks"][item.task].get("filter"):
            identity |= {"filter": wanted}
        if item.kind in ("statistics", "filtered"):  # the same sums serve every kind of mean
            return identity
        if item.method is None:
            return identity | {"metrics": self.config.metrics}
        method = whole["methods"][item.method]
        if combined := self.methods[item.method].combines:
            others = [replace(item, method=id_, kind=self.methods[id_].kind.name) for id_ in combined]
            identity |= {"of": [digest(self._item_identity(other)) for other in others]}
        if method["ablation"] and needs_statistics(
            method["ablation"]
        ):  # the means come from the prompts of the other shards too
            identity |= {"task": tokens.digest}
        found = [
            tokens.span_digests[span] if all_ else tokens.span_shard_digests[span][item.shard]
            for span in self.methods[item.method].spans
        ]
        if found:
            identity |= {"spans": found[0] if len(found) == 1 else found}
        return identity | {"method": method}

    # --- costs -------------------------------------------------------------------------------------------

    def cost(self, item: Item) -> Cost:
        """The work in an item, counted in prompts, and the rows that it writes."""
        n = self.n_prompts(item)
        if item.kind == "statistics":
            return Cost(forward_passes=n)
        if item.kind == "filtered":
            return Cost(forward_passes=n, rows=n)
        if item.method is None:
            return Cost(forward_passes=2 * n, rows=n * len(self.config.metrics))
        method, tokens, places = self.methods[item.method], self.tokens[item.task], self._places(item)
        read = tokens.lengths[places.start : places.stop]
        there = [tokens.has_span(span)[places.start : places.stop] for span in method.spans]
        if there:
            read = read[np.logical_and.reduce(there)]
        return method.cost(self.graph, read.tolist())

    @cached_property
    def work(self) -> dict[tuple[str, str], Work]:
        """By task, and method (or statistics, baseline), what all its items together are."""
        found: dict[tuple[str, str], Work] = {}
        nothing = Work()
        for item in self._each_item():  # of millions of prompts there are too many to be kept for this
            key = item.task, item.method or item.kind
            one = Work(1, self.n_prompts(item), self.cost(item), self.prompt_score_bytes(item))
            found[key] = found.get(key, nothing) + one
        return found

    @cached_property
    def total(self) -> Cost:
        return sum((work.cost for work in self.work.values()), start=Cost())

    @property
    def rows(self) -> int:
        return self.total.rows

    @cached_property
    def memory(self) -> Memory:
        """What one worker holds."""
        longest = max((min(tokens.per_shard, len(tokens)) for tokens in self.tokens.values()), default=0)
        kept = longest if self.config.prompt_scores else 0
        footprint = Footprint(self.model.config, self.graph, self.config.model.dtype)
        lengths = {task: tokens.lengths for task, tokens in self.tokens.items()}
        return Memory(self.config, footprint, lengths, self.graph.n_edges, kept)

    @property
    def memory_bytes(self) -> int:
        """A rough estimate for one worker."""
        return self.memory.total

    @property
    def need(self) -> Need:
        """What a worker takes of a machine."""
        return self.memory.need

    def prompt_score_bytes(self, item: Item) -> int:
        """The size of every prompt's scores beside an item's own, before compression; 0 where none are kept."""
        kind = self.config.prompt_scores.get(item.method or "")
        return 0 if kind is None else n_bytes(self.n_prompts(item), self.graph.n_edges, kind)

    # --- writing -----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """plan.json: every item with its key and cost, and the totals."""
        items = [
            {**item.to_dict(), "key": self.item_keys[item], **asdict(self.cost(item))} for item in self.items
        ]
        return {
            "run_id": self.run_id,
            "run_key": self.run_key,
            "totals": asdict(self.total),
            "memory_bytes": self.memory_bytes,
            "search_bytes": self.memory.searched,
            "prompt_scores": self.config.prompt_scores,
            "prompt_score_bytes": sum(work.prompt_score_bytes for work in self.work.values()),
            "items": items,
        }

    def manifest(self) -> dict[str, Any]:
        """manifest.json: what the run is, in resolved form; readers and footers take their facts from it."""
        methods = {
            id_: {
                "level": method.kind.of,
                "result": method.kind.to_dict(),
                "scores_prompts": method.scores_prompts,
                "parameters": self.identity["methods"][id_],
            }
            for id_, method in self.methods.items()
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "name": self.config.name,
            "run_key": self.run_key,
            "model": {
                "name": self.model_name,
                "revision": self.model.revision,
                "fingerprint": self.model.fingerprint,
                "dtype": self.config.model.dtype,
                "trust_remote_code": self.config.model.trust_remote_code,
                **self._post_norm,
                **({} if self.config.model.untrained is None else {"untrained": self.config.model.untrained}),
                **({"note": self.note} if self.note else {}),
            },
            "graph": asdict(self.graph),
            "graph_fingerprint": self.graph.fingerprint,
            "methods": methods,
            "metrics": list(self.config.metrics),
            **({"truth": truth} if (truth := self.truth) else {}),
            **({"plugins": plugins} if (plugins := self.config.plugins) else {}),
            "identity": self.identity,
        }

    @cached_property
    def truth(self) -> dict[str, list[str]]:
        """The circuits that are known of tasks in this model."""
        known = {id_: task.truth(self.graph, self.model_name) for id_, task in self.config.task_ids.items()}
        return {id_: list(edges) for id_, edges in known.items() if edges is not None}

    def write(self, path: str | Place | None = None, *, extend: bool = False) -> RunDirectory:
        """The run directory of this plan, at `path` or its own place; see `RunDirectory.create`."""
        return RunDirectory.create(
            self.path if path is None else path,
            run_yaml=self.config.anchored().to_yaml(),
            manifest=self.manifest(),
            plan=self.to_dict(),
            graph=self.graph,
            prompts=self.tokens,
            extend=extend,
        )
