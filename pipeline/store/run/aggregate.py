"""The shards of every (task, method) merged into one file with standard errors, intervals and ranks.

Knows statistics over shards. Does not know who computed them. Memory is that of a few columns of edges,
whatever the number of shards. Intervals and signs are over prompts, never over shards. What a method measured in the
course of its decisions has neither: its scores hold for the edges that were gone at that moment, and other prompts
decide otherwise. Nothing that differs between two runs of the same work (times, hosts, attempts)
is written, so that equal shards give equal bytes.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from pipeline.core.graph import Graph
from pipeline.core.intervals import t_95
from pipeline.core.items import Item
from pipeline.core.results import EDGE_SCORES, ResultType
from pipeline.core.scores import Moments, rank_order
from pipeline.store.place.atomic import remove
from pipeline.store.run import prompt_scores, schema
from pipeline.store.run.bootstrap import Bootstrap
from pipeline.store.run.files import DamagedFileError, write_parquet
from pipeline.store.run.resampled import with_intervals
from pipeline.store.run.rows import Key, axis_columns, edge_columns, floats, in_order, keys_of, nullable
from pipeline.store.run.run_dir import RunDirectory

INTERVAL = {"interval": "student"}  # in a footer: ci_low and ci_high are Student's, signs are over prompts

Keys = list[Key] | None  # of every row; None: every edge, in order, no spans

# Facts of a shard's footer that hold for all shards of a method.
_SHARED = ("schema_version", "run_key", "graph_fingerprint", "model", "revision", "dtype", "task", "seed")
_SHARED_METHOD = ("method", "metric", "ablation")


class _EnoughError(Exception):
    """There is no more time."""


def aggregate_in_time(run: RunDirectory, seconds: float) -> None:
    """`aggregate` without a bootstrap, of a run that is being stopped: what is not merged by then is left as it was."""
    end = time.monotonic() + seconds

    def hurry() -> None:
        if time.monotonic() > end:
            raise _EnoughError

    with suppress(_EnoughError):
        aggregate(run, hurry=hurry)


def aggregate(
    run: RunDirectory, bootstrap: Bootstrap | None = None, hurry: Callable[[], None] = lambda: None
) -> list[Item]:
    """Writes `aggregate/` and `node_aggregate/`; returns the items without a good file. Damaged files are set aside.
    Footers list what is missing.

    `bootstrap` adds intervals of its own to the methods whose scores are kept prompt by prompt.
    `_SUCCESS.json` goes: a run whose merged scores are new is evaluated and reported before it is complete. `hurry` is
    called before each file is read.
    """
    run.mark_incomplete()
    groups: dict[tuple[str, str], list[Item]] = {}
    others = []
    for item in run.items:
        if item.method is None:
            others.append(item)
        else:
            groups.setdefault((item.task, item.method), []).append(item)
    there = run.done(others, deep=True, rename=False)
    without = [item for item in others if item not in there]
    damaged = [item for item in without if run.file_of(item).exists()]
    for (task, method), items in groups.items():
        bad: list[Item] = []
        absent: list[Item] = []
        type_ = run.type_of(items[0])
        pool = _Pool(type_) if type_.merge == "moments" else _Pile(type_)
        for table, rows in _tables(run, items, bad, absent):
            hurry()
            pool.add(table, run.graph, rows)
        gone = sorted([*bad, *absent])
        target = run.path / merged_path(type_, task, method)
        if pool.n_shards:
            facts = run.facts(items[0])
            footer = {key: facts[key] for key in (*_SHARED, *_SHARED_METHOD) if key in facts} | pool.footer
            footer["missing"] = json.dumps([item.name for item in gone])
            table = pool.table(run.graph)
            if bootstrap is not None and method in run.prompt_scores:
                good = [item for item in items if item not in gone]
                table, footer["bootstrap"] = with_intervals(run, good, table, bootstrap, target)
            write_parquet(target, table, footer)
        else:
            remove(target)
        damaged += bad
        without += gone
    for item in damaged:
        run.set_aside(item)
    return without


def merged_path(type_: ResultType, task: str, method: str) -> PurePosixPath:
    """Where the merged results of a (task, method) lie, relative to the run directory.

    Folders of `key=value`, from which any reader of Parquet makes the columns task and method.
    """
    return PurePosixPath(type_.merged, f"task={task}", f"method={method}", "merged.parquet")


def _tables(
    run: RunDirectory, items: Sequence[Item], bad: list[Item], absent: list[Item]
) -> Iterator[tuple[pa.Table, np.ndarray | None]]:
    """The good shards' tables in order, each with every prompt's scores where they are kept; the rest is noted in
    `bad` and `absent`."""
    for item in items:
        try:
            run.check(item)
            table = run.table(item)
            rows = None
            if item.method in run.prompt_scores:
                _, rows = prompt_scores.read(run.path / prompt_scores.path_of(item))
            yield table, rows
        except FileNotFoundError:
            absent.append(item)
        except DamagedFileError:
            bad.append(item)


@dataclass(frozen=True)
class _Part:
    """What one shard contributes, row by row."""

    keys: Keys
    moments: Moments
    kept: Float[np.ndarray, " row"]  # 1, 0 or NaN
    signs: Int[np.ndarray, "2 row"] | None  # how many prompts score above and below zero, where that is known


def _part(
    table: pa.Table, graph: Graph, type_: ResultType, rows: Float[np.ndarray, "prompt edge"] | None = None
) -> _Part:
    """The rows of a shard's table; `rows` are the scores of its prompts by edge id, where they are kept."""
    keys, signs = (None if _is_every_edge(table, graph, type_) else keys_of(table, type_)), None
    if rows is not None:
        ids = table["edge_id"].to_numpy()
        signs = np.stack([(rows > 0).sum(axis=0), (rows < 0).sum(axis=0)])[:, ids]
    n = table["n_prompts"].to_numpy().astype(np.int64)
    kept = floats(table["kept"].cast(pa.int8())) if type_.decides else np.full(len(n), np.nan)
    error = floats(table[schema.error_of(type_)]) if type_.bounded else None
    moments = Moments(n, floats(table[type_.value]), floats(table[f"{type_.value}_std"]), error)
    return _Part(keys, moments, kept, signs)


def _is_every_edge(table: pa.Table, graph: Graph, type_: ResultType) -> bool:
    """Whether the rows are all edges in order, over all positions: then no keys are needed to merge them."""
    if type_.axes != EDGE_SCORES.axes or table["span"].null_count < len(table):
        return False
    ids = table["edge_id"].to_numpy()
    return len(ids) == graph.n_edges and bool((ids == np.arange(graph.n_edges)).all())


class _Pile:
    """Shards whose rows stand for themselves, one after the other."""

    def __init__(self, type_: ResultType) -> None:
        self._columns = schema.merged(type_)
        self._tables: list[pa.Table] = []
        self.footer: dict[str, str] = {}

    @property
    def n_shards(self) -> int:
        return len(self._tables)

    def add(self, table: pa.Table, graph: Graph, rows: object = None) -> None:
        del graph, rows
        self._tables.append(table.select(self._columns.names))

    def table(self, graph: Graph) -> pa.Table:
        """All rows."""
        del graph
        return pa.concat_tables(self._tables).unify_dictionaries().combine_chunks().cast(self._columns)


class _Pool:
    """Shards merged so far: moments, prompts by sign, and counts of shards by decision."""

    def __init__(self, type_: ResultType) -> None:
        self.type = type_
        self.footer = INTERVAL
        self.n_shards = 0
        self.keys: Keys = None
        self.moments: Moments | None = None
        # per row, how many shards measured, decided, kept it, and how many prompts score above and below zero
        self.counts: Int[np.ndarray, "5 row"] = np.zeros((5, 0), dtype=np.int64)
        self.knows_signs = True

    def add(
        self, table: pa.Table, graph: Graph, rows: Float[np.ndarray, "prompt edge"] | None = None
    ) -> None:
        """The next shard; `rows` are the scores of its prompts by edge id, where they are kept."""
        part = _part(table, graph, self.type, rows)
        if self.moments is None:
            self.keys = part.keys
            empty = np.zeros(len(part.kept), dtype=np.int64)
            self.moments = Moments(empty, np.full(len(empty), np.nan), np.full(len(empty), np.nan))
            self.counts = np.zeros((5, len(empty)), dtype=np.int64)
        counts = np.zeros((5, len(part.kept)), dtype=np.int64)
        counts[0] = (part.moments.n > 0) & ~np.isnan(part.moments.mean)
        counts[1], counts[2] = ~np.isnan(part.kept), np.nan_to_num(part.kept) > 0
        if part.signs is None:
            self.knows_signs = False
        else:
            counts[3:] = part.signs
        moments = part.moments
        if part.keys != self.keys:
            moments, counts = self._align(part, counts)
        self.counts = self.counts + counts
        self.moments = Moments.merge([self.moments, moments])
        self.n_shards += 1

    def _align(
        self, part: _Part, counts: Int[np.ndarray, "5 part"]
    ) -> tuple[Moments, Int[np.ndarray, "5 row"]]:
        """Brings the pool to the union of its rows and the part's, for other shards may have other positions; returns
        the part's moments and counts on these rows."""
        if self.keys is None or part.keys is None or self.moments is None:
            raise DamagedFileError("some shards have spans and some have none")
        rows = sorted({*self.keys, *part.keys}, key=partial(in_order, self.type))
        place = {key: row for row, key in enumerate(rows)}
        mine, theirs = [place[key] for key in self.keys], [place[key] for key in part.keys]
        self.moments = _spread(self.moments, mine, len(rows))
        pooled = np.zeros((2, 5, len(rows)), dtype=np.int64)
        pooled[0][:, mine], pooled[1][:, theirs] = self.counts, counts
        self.keys, self.counts = rows, pooled[0]
        return _spread(part.moments, theirs, len(rows)), pooled[1]

    def table(self, graph: Graph) -> pa.Table:
        """The merged rows, by their axes. Quantities of several kinds have no common rank."""
        if self.moments is None:
            raise ValueError("nothing was merged")
        n, mean = self.moments.n, self.moments.mean
        shards, decided, kept, positive, negative = self.counts
        std = self.moments.std * np.sqrt(_ratio(n, n - 1))
        sem = std / np.sqrt(np.maximum(n, 1))
        rank = np.empty(len(n), dtype=np.int32)
        rank[rank_order(mean)] = np.arange(1, len(n) + 1)
        unmeasured = np.isnan(mean) | ("quantity" in self.type.axes)
        reach, agreement = t_95(n) * sem, np.full(len(n), np.nan)
        if decided.any():
            reach = np.full(len(n), np.nan)
        elif self.knows_signs:
            agreeing = np.where(mean > 0, positive, np.where(mean < 0, negative, n - positive - negative))
            agreement = np.where(n > 1, _ratio(agreeing, n), np.nan)
        pooled = [
            *(nullable(v, pa.float64()) for v in (mean, std, sem, mean - reach, mean + reach)),
            *([] if self.moments.error is None else [nullable(self.moments.error, pa.float64())]),
            pa.array(n.astype(np.int32)),
            pa.array(shards.astype(np.int32)),
            pa.array(rank, mask=unmeasured),
            nullable(agreement, pa.float64()),
        ]
        columns = self._axes(graph)
        if not self.type.decides:
            return pa.table([*columns, *pooled], schema=schema.merged(self.type))
        share = _ratio(kept, decided)
        several = nullable(np.where(decided > 1, share, np.nan), pa.float64())
        together = pa.array(share >= 0.5, mask=decided == 0)  # a tie keeps
        without = [pa.nulls(len(n), pa.float32())] * 2
        return pa.table([*columns, *pooled, several, together, *without], schema=schema.merged(self.type))

    def _axes(self, graph: Graph) -> list[pa.Array]:
        """The columns of the axes."""
        if self.keys is None:
            return [*edge_columns(graph), pa.nulls(graph.n_edges, pa.string()).dictionary_encode()]
        columns = list(zip(*self.keys, strict=True)) or [()] * len(self.type.axes)
        return [
            array
            for axis, keys in zip(self.type.axes, columns, strict=True)
            for array in axis_columns(axis, keys, graph)
        ]


def _spread(moments: Moments, rows: list[int], n_rows: int) -> Moments:
    """Moments on more rows; the new ones measured nothing."""
    n = np.zeros(n_rows, dtype=np.int64)
    mean, std = np.full(n_rows, np.nan), np.full(n_rows, np.nan)
    n[rows], mean[rows], std[rows] = moments.n, moments.mean, moments.std
    if moments.error is None:
        return Moments(n, mean, std)
    error = np.full(n_rows, np.nan)
    error[rows] = moments.error
    return Moments(n, mean, std, error)


def _ratio(part: Any, whole: Any) -> Float[np.ndarray, " row"]:
    """Part by whole, NaN where there is no whole."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
