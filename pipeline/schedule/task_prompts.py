"""The prompts of a task in tokens, and what is known of all of them together: digests, lengths, spans.

Knows prompts as they come, one after the other, and shards. Does not know where they come from, nor items or costs.

A task may have millions: what is kept of each in memory is its length, and whether it has a span that is asked for;
the rest lies in a `Spill`. Hashes are those of one JSON list over all prompts, made as they pass by.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain, islice, repeat
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int

from pipeline.config.sections import Shards
from pipeline.core.errors import PromptError
from pipeline.core.items import canonical_json
from pipeline.core.prompts import TokenPair
from pipeline.core.sharding import arranged, cut
from pipeline.store.run import schema
from pipeline.store.run.spill import Spill
from pipeline.store.run.tables import prompt_rows, prompts_of

CHUNK = 1024  # prompts that are written together
MOST_ARRANGED = 1_000_000  # prompts of a task that are not cut in order


class _Digest:
    """sha256 of the canonical JSON of a list, an entry after the other."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(b"[")
        self._empty = True

    def add_text(self, text: str) -> None:
        """Entries as their text, with the commas between them."""
        self._hash.update(text.encode() if self._empty else b"," + text.encode())
        self._empty = False

    def hex(self) -> str:
        end = self._hash.copy()
        end.update(b"]")
        return end.hexdigest()


class _Digests:
    """A digest over all entries, and one over those of each shard, which is so large or as `sizes` say one by one."""

    def __init__(self, per_shard: int, sizes: Sequence[int] = ()) -> None:
        self._sizes = chain(sizes, repeat(per_shard))
        self._room = next(self._sizes)
        self._all, self._shard, self._held = _Digest(), _Digest(), 0
        self.shards: list[str] = []

    def add(self, entries: list[str]) -> None:
        """Entries as canonical JSON."""
        while entries:
            room = self._room - self._held
            text = ",".join(entries[:room])
            self._all.add_text(text)
            self._shard.add_text(text)
            self._held += len(entries[:room])
            if self._held == self._room:
                self._end_shard()
            entries = entries[room:]

    def _end_shard(self) -> None:
        self.shards.append(self._shard.hex())
        self._shard, self._held, self._room = _Digest(), 0, next(self._sizes)

    def finish(self) -> str:
        """The digest over all; those of the shards are in `shards`."""
        if self._held:
            self._end_shard()
        return self._all.hex()


class TaskPrompts(Sequence[TokenPair]):
    """All prompts of one task; a sequence that is read from where they lie."""

    def __init__(
        self,
        tokens: Iterable[TokenPair],
        per_shard: int,
        spans: Iterable[str] = (),
        sizes: Sequence[int] = (),
    ) -> None:
        """Takes the prompts in, in order. `spans` are those whose places are part of a digest. `sizes` are those of the
        shards one by one, where they differ; `per_shard` is then the largest."""
        digests, lengths = _Digests(per_shard, sizes), array("i")
        of_spans = {name: (_Digests(per_shard, sizes), bytearray()) for name in spans}
        ends = np.cumsum(np.asarray(sizes, dtype=np.int64))
        names: dict[str, None] = {}
        self._rows = Spill(schema.PROMPT_ROWS)
        self.differs = self.has_notes = self.has_targets = False
        self.has_sequences = self.branches = False
        passing = iter(tokens)
        while chunk := list(islice(passing, CHUNK)):
            start = len(lengths)
            places = np.arange(start, start + len(chunk))
            numbers = ends.searchsorted(places, "right") if len(ends) else places // per_shard
            rows = prompt_rows(chunk, numbers.tolist())
            self._rows.add(rows)
            digests.add(_entries(chunk, rows))
            for name, (digest, has) in of_spans.items():
                digest.add([canonical_json(token.spans.get(name)) for token in chunk])
                has.extend(name in token.spans for token in chunk)
            lengths.extend(token.length for token in chunk)
            self.differs = self.differs or any(token.clean != token.corrupted for token in chunk)
            self.has_notes = self.has_notes or any(token.pair.notes for token in chunk)
            self.has_targets = self.has_targets or rows["targets"].null_count < len(chunk)
            several = [token.sequences for token in chunk if token.sequences is not None]
            self.has_sequences = self.has_sequences or bool(several)
            self.branches = self.branches or any(one.branches for one in several)
            for token in chunk:
                names.update(dict.fromkeys(token.spans))
        self._rows.finish()
        self.per_shard, self._ends = per_shard, ends
        self.span_names = tuple(names)
        self.lengths: Int[np.ndarray, " prompt"] = np.frombuffer(lengths, dtype=np.int32)
        self.digest = digests.finish()
        self.shard_digests = digests.shards
        self.span_digests = {name: digest.finish() for name, (digest, _) in of_spans.items()}
        self.span_shard_digests = {name: digest.shards for name, (digest, _) in of_spans.items()}
        self._has = {name: np.frombuffer(has, dtype=bool) for name, (_, has) in of_spans.items()}

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list

    @overload
    def __getitem__(self, index: int) -> TokenPair: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenPair]: ...
    def __getitem__(self, index: int | slice) -> TokenPair | list[TokenPair]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            return prompts_of(self._rows.rows(start, max(start, stop)))[::step]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"prompt {index} of {len(self)}")
        return prompts_of(self._rows.rows(place, place + 1))[0]

    def __iter__(self) -> Iterator[TokenPair]:
        for rows in self._rows.tables(CHUNK):
            yield from prompts_of(rows)

    @property
    def n_shards(self) -> int:
        return len(self._ends) or -(-len(self) // self.per_shard)

    def of_shard(self, shard: int) -> range:
        """Where a shard's prompts stand among these."""
        if len(self._ends):
            return range(int(self._ends[shard - 1]) if shard else 0, int(self._ends[shard]))
        return range(shard * self.per_shard, min((shard + 1) * self.per_shard, len(self)))

    def has_span(self, name: str) -> Bool[np.ndarray, " prompt"]:
        """Which prompts have a span that was asked for."""
        return self._has[name]

    def tables(self, size: int) -> Iterator[pa.Table]:
        """The rows of `prompts.parquet`, `size` at a time, without the name of the task."""
        return self._rows.tables(size)


def task_prompts(
    tokens: Iterable[TokenPair], shards: Shards, spans: Iterable[str] = (), task: str = ""
) -> TaskPrompts:
    """The prompts of a task, cut as the config says. PromptError for more than `MOST_ARRANGED` that are not cut in
    order: these are held in memory at once."""
    if shards.in_order:
        return TaskPrompts(tokens, shards.prompts, spans)
    every = list(islice(tokens, MOST_ARRANGED + 1))
    if len(every) > MOST_ARRANGED:
        raise PromptError(
            f"task {task}: over {MOST_ARRANGED:,} prompts are cut in order alone; leave by_length, stratify and "
            "minutes out, or cut the task into several"
        )
    every.sort(key=lambda token: token.prompt_id)  # those that a run has recorded come shard by shard
    lengths = [token.length for token in every]
    strata = [_stratum(token, shards.stratify, task) for token in every]
    order = arranged(lengths, strata, by_length=shards.by_length)
    most = shards.most_tokens
    cuts = cut(order, [1] * len(every), shards.prompts) if most is None else cut(order, lengths, most)
    sizes = [len(one) for one in cuts]
    ordered = (every[index] for one in cuts for index in one)
    return TaskPrompts(ordered, max(sizes, default=1), spans, sizes)


def _stratum(token: TokenPair, by: str | None, task: str) -> str:
    """What a prompt is one of: the value of a column, or its template, the text without its spans."""
    if by is None:
        return ""
    pair = token.pair
    if by in pair.notes:
        return canonical_json(pair.notes[by])
    if by != "template":
        raise PromptError(
            f"task {task}: {pair.source or f'prompt {token.prompt_id}'} has no column {by!r} to stratify by; name one "
            "that every row has, or template"
        )
    covered = {i for first, end in token.spans.values() for i in range(first, end)}
    return canonical_json([0 if i in covered else one for i, one in enumerate(token.clean)])


def _entries(tokens: Sequence[TokenPair], rows: pa.Table) -> list[str]:
    """Canonical JSON of each prompt as it is rendered, in tokens and in words, without where it came from: a list of
    clean, corrupted, answers, wrong answers; in tokens, then as they were given. `rows` are those of the same prompts.
    """
    clean, corrupted = (_joined(rows[name]) for name in ("clean_ids", "corrupted_ids"))
    short = cache(canonical_json)  # answers come again and again
    targets = rows["targets"].to_pylist()
    entries: list[str] = []
    for token, ids, others in zip(tokens, clean, corrupted, strict=True):
        pair = token.pair
        given = ids if pair.clean == token.clean else canonical_json(pair.clean)
        changed = others if pair.corrupted == token.corrupted else canonical_json(pair.corrupted)
        answers = f"{short(token.answers)},{short(token.wrong_answers)}"
        words = f"{short(pair.answers)},{short(pair.wrong_answers)}"
        target = canonical_json(cell) if (cell := targets[len(entries)]) is not None else ""
        more = f",{target}" if target else ""  # so that what other prompts are called stays
        entries.append(f"[{ids},{others},{answers},{given},{changed},{words}{more}]")
    return entries


def _joined(ids: pa.ChunkedArray) -> list[str]:
    """Lists of numbers as JSON."""
    numbers = ids.combine_chunks()
    words = pa.ListArray.from_arrays(numbers.offsets, numbers.values.cast(pa.large_string()))
    return [f"[{text}]" for text in pc.binary_join(words, pa.scalar(",", pa.large_string())).to_pylist()]
