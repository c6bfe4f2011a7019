"""The files of a run's items: how one is committed, told good from bad, and read.

Knows names, keys, schemas and packs. Does not know configs, models or how an item is computed: plain values come in.

A final name is necessary for an item to count as done, not sufficient: its footer must carry the item's key.
Where every prompt's scores are asked for, their file is written before the item's own and is looked for too, so
that an item without it is not done.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from pipeline.core.errors import RunDirectoryError
from pipeline.core.items import Item, canonical_json
from pipeline.core.prompts import TokenPair
from pipeline.core.results import EDGE_SCORES, NODE_SCORES, Result, ResultType, Rows, declared
from pipeline.core.scores import EdgeScores, NodeScores
from pipeline.store.place.atomic import set_aside
from pipeline.store.place.seal import is_whole
from pipeline.store.place.where import Place, each
from pipeline.store.run import prompt_scores, schema
from pipeline.store.run.files import (
    DamagedFileError,
    Footer,
    read_footer,
    read_parquet,
    read_tensor_footer,
    read_tensors,
    write_parquet,
    write_tensors,
)
from pipeline.store.run.packs import Pack, Packs
from pipeline.store.run.planned import PlannedRun
from pipeline.store.run.rows import check_rows, table_of

Payload: TypeAlias = Result | pa.Table | Mapping[str, np.ndarray]

_SMALL = 1 << 16  # bytes of a file that is sooner hashed than its footer is parsed
_FOOTER = 1 << 14  # bytes at its end, in which the facts are


class ItemFiles(PlannedRun):
    """The directory at `path` as far as its items go."""

    def require(self) -> None:
        """RunDirectoryError when it was moved or removed meanwhile: it is not made again with half of what it held."""
        if isinstance(self.path, Path) and not (self.path / "manifest.json").exists():
            raise RunDirectoryError(
                f"{self.path}: was moved or removed while its run was under way; put it back, or resume it where it is"
            )

    def type_of(self, item: Item) -> ResultType:
        """What the item of a method holds. Of an extension that was killed the plan knows more than the manifest: then
        by the item's kind, and RunDirectoryError where that tells nothing."""
        known = {type_.name: type_ for type_ in (EDGE_SCORES, NODE_SCORES)}
        found = self.types.get(str(item.method)) or known.get(item.kind)
        if found is None:
            raise RunDirectoryError(
                f"{self.path}: item {item.name} is of no method in its manifest; plan the run again"
            )
        return found

    @cached_property
    def types(self) -> dict[str, ResultType]:
        """What every method's items hold, by its id."""
        return {id_: declared(entry) for id_, entry in self.manifest["methods"].items()}

    def schema(self, item: Item) -> pa.Schema:
        """The columns of the Parquet file of an item."""
        if item.method is not None:
            return schema.of_type(self.type_of(item))
        return schema.FILTERED if item.kind == "filtered" else schema.PROMPT_METRICS

    def commit(self, item: Item, payload: Payload, footer: Mapping[str, Any] | None = None) -> Place:
        """Writes the item's file atomically and returns its path.

        `payload`: scores (with `per_prompt` in the order of the shard's prompts where these are kept), a table,
        or for statistics named arrays. `footer`: facts without the `circuits.`
        prefix (attempt, device, seconds ...); what the manifest knows is added. Raises OSError (disk full).
        """
        self.require()
        path = self.path / item.path
        facts = {**self.facts(item), **(footer or {})}
        if item.kind == "statistics":
            if not isinstance(payload, Mapping):
                raise TypeError(f"{item.name}: statistics are named arrays")
            write_tensors(path, payload, facts)
            return path
        if isinstance(payload, EdgeScores) and (kind := self.prompt_scores.get(item.method or "")):
            self._commit_prompts(item, payload, kind, facts)
        if isinstance(payload, EdgeScores | NodeScores | Rows):
            payload = table_of(payload, self.graph, item.shard)
        problem: str | None = "no table"
        if not isinstance(payload, pa.Table) or (
            problem := schema.mismatch(payload.schema, self.schema(item))
        ):
            raise TypeError(f"{item.name}: not what an item of kind {item.kind} holds ({problem})")
        write_parquet(path, payload, facts)
        return path

    def _commit_prompts(self, item: Item, scores: EdgeScores, kind: str, facts: Mapping[str, Any]) -> None:
        """Writes every prompt's scores. Before the item's own file: one that is there means that these are."""
        if scores.per_prompt is None:
            raise TypeError(f"{item.name}: every prompt's scores are to be kept, and there are none")
        prompt_ids = [prompt.prompt_id for prompt in self.used_prompts(item.task, item.shard)]
        prompt_scores.write(
            self.path / prompt_scores.path_of(item), prompt_ids, scores.per_prompt, kind, facts
        )

    def facts(self, item: Item) -> dict[str, Any]:
        """What every footer says about an item without knowing who computed it."""
        manifest = self.manifest
        facts = {
            "schema_version": schema.SCHEMA_VERSION,
            "run_key": manifest["run_key"],
            "item_key": self._key(item),
            "graph_fingerprint": manifest["graph_fingerprint"],
            "model": _model_of(manifest["model"]),
            "revision": manifest["model"]["revision"],
            "dtype": manifest["model"]["dtype"],
            "task": item.task,
            "seed": manifest["identity"]["seed"],
        }
        if item.method is not None:
            parameters = manifest["methods"][item.method]["parameters"]
            asked = {
                key: parameters[key] for key in ("metric", "ablation") if parameters.get(key) is not None
            }
            facts |= {"method": canonical_json(parameters), **asked}
        return facts

    def done(
        self,
        items: Iterable[Item] | None = None,
        *,
        deep: bool = False,
        rename: bool = True,
        kept: Mapping[str, str] | None = None,
    ) -> set[Item]:
        """The items whose files are good by their footers; with `deep`, by the checksum of every page too.

        A bad file is renamed `_bad-...`, unless `rename` is false, and its item is not done. `kept` stands for
        `prompt_scores` of the plan that is here.
        """
        alone = set() if deep else self._told_by_bytes(kept)

        def is_good(item: Item) -> bool:
            if item.method in alone and self._is_sealed_whole(item):
                return True
            try:
                self.check(item, deep=deep, kept=kept)
            except FileNotFoundError:
                return False
            except DamagedFileError:
                if rename:
                    self.set_aside(item)
                return False
            return True

        items = self.items if items is None else tuple(items)
        return {item for item, good in zip(items, each(self.path, is_good, items), strict=True) if good}

    def _told_by_bytes(self, kept: Mapping[str, str] | None) -> set[str | None]:
        """The methods, and None for the baseline, whose items are good where a file is what was written: they are one
        file each, and no earlier version wrote less into it than must be there."""
        beside = {*(self.prompt_scores if kept is None else kept)}
        return {None, *(id_ for id_, type_ in self.types.items() if not type_.bounded)} - beside

    def _is_sealed_whole(self, item: Item) -> bool:
        """Whether an item has a small file of its own that is what was written for it, to the last bit. That is more
        than its footer tells, and sooner; False says nothing."""
        if not isinstance(self.path, Path) or item.kind == "statistics":
            return False
        try:
            with open(f"{self.path}/{item.path}", "rb") as file:  # noqa: PTH123 - there may be 100,000 of them
                content = file.read(_SMALL + 1)
        except OSError:
            return False
        facts = content[-_FOOTER:]
        key = self._key(item).encode()
        return len(content) <= _SMALL and b"circuits.item_key\x18\x40" + key in facts and is_whole(content)

    def check(self, item: Item, *, deep: bool = False, kept: Mapping[str, str] | None = None) -> Footer:
        """The footer of an item's file. Raises FileNotFoundError, and DamagedFileError with what is wrong; for
        the file of every prompt's scores too, where these are kept."""
        footer = self.footer(item)
        if footer.get("item_key") != self._key(item):
            raise DamagedFileError("it belongs to an item with another key")
        if deep:
            read_tensors(self.path / item.path) if item.kind == "statistics" else self.table(item)
        if kind := (self.prompt_scores if kept is None else kept).get(item.method or ""):
            beside = self.path / prompt_scores.path_of(item)
            if prompt_scores.check(beside, self.graph.n_edges, kind).get("item_key") != self._key(item):
                raise DamagedFileError("its scores by prompt belong to an item with another key")
            if deep:
                read_parquet(beside)
        return footer

    def footer(self, item: Item) -> Footer:
        """The facts of an item's file, or of its part of a pack. Raises DamagedFileError, FileNotFoundError."""
        path = self.path / item.path
        if item.kind == "statistics":
            return read_tensor_footer(path)
        try:
            return read_footer(path, self.schema(item))
        except FileNotFoundError:
            return self._pack(item).shards[item.shard]

    def table(self, item: Item) -> pa.Table:
        """An item's rows, compared with checksums and graph. Raises DamagedFileError, FileNotFoundError."""
        columns = self.schema(item)
        try:
            table = read_parquet(self.path / item.path, columns)
        except FileNotFoundError:
            table = self._pack(item).table(item.shard, columns)
        return table if item.method is None else check_rows(table, self.type_of(item), self.graph)

    def file_of(self, item: Item) -> Place:
        """Where an item lies: in its own file, in a pack, or in neither yet."""
        own = self.path / item.path
        if item.kind == "statistics" or own.exists():
            return own
        pack = self.packs.path_of(own, item.shard)
        return pack if pack.exists() else own

    @cached_property
    def packs(self) -> Packs:
        """The packs of this run; a shard of it has a row per edge."""
        return Packs(self.graph.n_edges)

    def _pack(self, item: Item) -> Pack:
        pack = self.packs.find(self.packs.path_of(self.path / item.path, item.shard), self.schema(item))
        if item.shard not in pack.shards:
            raise FileNotFoundError(f"{pack.path}: holds no shard {item.shard}")
        return pack

    def set_aside(self, item: Item) -> None:
        """Renames an item's files `_bad-...`: out of the way of readers, and there for who wants to look. The others
        of its pack get files of their own."""
        path = self.file_of(item)
        if path == self.path / item.path:
            set_aside(path)
        else:
            self.packs.unpack(path, self.schema(item), without=item.shard)
        set_aside(self.path / prompt_scores.path_of(item))

    def statistics(self, task: str) -> dict[str, np.ndarray] | None:
        """The means that were committed for a task, checked, or None; a damaged file is set aside."""
        item = Item("statistics", task, None, 0)
        try:
            return read_tensors(self.path / item.path)
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            self.set_aside(item)
            path = self.path / item.path
            raise RunDirectoryError(
                f"{path}: damaged ({error}); run the config again to compute it anew"
            ) from None

    def _key(self, item: Item) -> str:
        try:
            return self.item_keys[item]
        except KeyError:
            raise RunDirectoryError(
                f"{self.path}: item {item.name} is not in its plan; plan the run again"
            ) from None

    # --- prompts that are left out ------------------------------------------------------------------------

    @cached_property
    def _filters(self) -> dict[str, tuple[Item, ...]]:
        """By task that keeps prompts which the model gets right alone, the items that say which."""
        found: dict[str, list[Item]] = {}
        for item in self.items:
            if item.kind == "filtered":
                found.setdefault(item.task, []).append(item)
        return {task: tuple(items) for task, items in found.items()}

    def used_prompts(self, task: str, shard: int | None = None, *, every: bool = False) -> list[TokenPair]:
        """The prompts of a shard, or of the whole task, that are measured, or with `every` that may be: those that its
        filter keeps, where it has one. RunDirectoryError where that is not known yet."""
        tokens = self.prompts(task, shard, every=every)
        if task not in self._filters:
            return tokens
        kept: set[int] = set()
        for item in self._filters[task]:
            if shard in (None, item.shard):
                kept |= self._kept(item)
        return [token for token in tokens if token.prompt_id in kept]

    def _kept(self, item: Item) -> set[int]:
        try:
            self.check(item, kept={})
            table = self.table(item)
        except FileNotFoundError:
            raise RunDirectoryError(
                f"{self.path}: which prompts of task {item.task}, shard {item.shard} the model gets right is not known "
                f"yet; circuits resume {self.path} finds out"
            ) from None
        except DamagedFileError as error:
            raise RunDirectoryError(
                f"{self.path / item.path}: damaged ({error}); circuits resume {self.path} computes it anew"
            ) from None
        return set(table.filter(table["kept"])["prompt_id"].to_pylist())


def _model_of(model: Mapping[str, Any]) -> str:
    """Which model, for footers: equal results have equal bytes, wherever the folder lies and whatever it is called."""
    name = str(model["name"])
    is_folder = model["revision"] == "local" and not name.startswith("toy:")
    return f"sha256:{model['fingerprint']}" if is_folder else name
