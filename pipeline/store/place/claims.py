"""Owning a run in a store: claims as objects, whose time is when their writer was last heard of.

Knows objects, this machine's clock and processes. Does not know in which order steps are safe
(`pipeline.store.place.exclusion`), nor what is written by who owns.

`.claims/KEY` is a claim, `.lock` the mark of who owned last. Earlier versions wrote `.lock` alone: one that no claim
belongs to counts as a claim.
"""

import contextlib
import json
import random
import threading
import time
from collections.abc import Generator
from dataclasses import asdict
from typing import Any, TypeVar
from uuid import uuid4

from pipeline.store.place import exclusion
from pipeline.store.place.atomic import read_json, write_unasked
from pipeline.store.place.exclusion import Lease, Lost, Refused, Rules, Seen, Step
from pipeline.store.place.objects import ObjectPath
from pipeline.store.place.owners import (
    NOBODY,
    Owner,
    in_use,
    is_same_machine,
    owner_of,
    process_start,
    taken_over,
)
from pipeline.store.place.where import Place

T = TypeVar("T")

MARK = ".lock"
CLAIMS = ".claims"
RULES = Rules()
PATIENCE = 10.0  # seconds of meeting others that enter too
PAUSE = 0.25
CONFIRMATIONS = 5  # tries, a second apart, to own again after a silence


class Ownership:
    """One driver's ownership of a run in a store, from `enter` to `leave`."""

    def __init__(self, folder: ObjectPath, me: Owner) -> None:
        self._folder, self._me = folder, me
        self._lease: Lease | None = None
        self.is_lost = False
        self._keys = 0
        self._seen: dict[str, tuple[Owner, float]] = {}  # of the latest look: who, and for how long silent
        self._mutex = threading.Lock()  # the heart, and who is about to write what counts

    def enter(self) -> None:
        """Owns the run. RunDirectoryError when somebody else does."""
        end = time.monotonic() + PATIENCE
        while True:
            key = self._new_key()
            try:
                answer = self._take(exclusion.enter(key, RULES))
            except BaseException:
                with contextlib.suppress(OSError):
                    self._take(exclusion.leave(key))
                raise
            if isinstance(answer, Lease):
                self._lease = answer
                return
            others = answer.by if isinstance(answer, Refused) else ()
            owners = [claim for claim in others if claim.held]
            if owners or time.monotonic() > end:
                nearest = min(
                    (self._seen[claim.key] for claim in owners or others), key=_silence, default=None
                )
                raise in_use(self._folder, *(nearest or (NOBODY, 0.0)), self._me)
            time.sleep(random.uniform(0, 4 * PAUSE))  # noqa: S311 - so that two do not meet again

    def keep(self) -> bool:
        """Says that this process lives; whether it owns the run. Raises StorageError."""
        with self._mutex:
            if self.is_lost or self._lease is None:
                return False
            answer = self._take(exclusion.keep(self._lease, self._new_key(), RULES))
            self.is_lost = isinstance(answer, Lost)
            if isinstance(answer, Lease):
                self._lease = answer
            return isinstance(answer, Lease)

    def confirm(self) -> None:
        """Returns when this process owns the run, for SILENCE_SECONDS - FENCE_SECONDS more. RunDirectoryError when it
        has lost it."""
        for _ in range(CONFIRMATIONS):
            if self._is_sure() or self.keep():
                return
            if self.is_lost:
                break
            time.sleep(1)
        raise taken_over(self._folder)

    def leave(self) -> None:
        """Lets go, as far as the store answers."""
        with self._mutex:
            if self._lease is not None:
                self._take(exclusion.leave(self._lease.key))
            self._lease = None

    def _is_sure(self) -> bool:
        with self._mutex:
            if self.is_lost or self._lease is None:
                return False
            is_marked = self._is_marked()
            return is_marked and _clock() < self._lease.until

    def _new_key(self) -> str:
        self._keys += 1
        return f"{self._me.token}-{self._keys:06d}"

    # --- steps -------------------------------------------------------------------------------------------

    def _take(self, steps: Generator[Step, Any, T]) -> T:
        """Takes one step after the other in the store."""
        result: Any = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as end:
                return end.value
            result = self._do(step)

    def _do(self, step: Step) -> Any:
        mark = self._folder / MARK
        match step:
            case exclusion.Clock():
                return _clock()
            case exclusion.StoreClock():
                self._now = store_now(self._folder)
                return self._now
            case exclusion.Look():
                return self._look()
            case exclusion.Write(key, held):
                claim = {**asdict(self._me), "held": held}
                write_unasked(self._folder / CLAIMS / key, json.dumps(claim))
            case exclusion.Delete(key):
                (self._folder / CLAIMS / key).unlink(missing_ok=True)
            case exclusion.Mark():
                write_unasked(mark, json.dumps(asdict(self._me)))
            case exclusion.IsMarked():
                return self._is_marked()
            case exclusion.Unmark():
                mark.unlink(missing_ok=True)
            case exclusion.Pause():
                time.sleep(PAUSE)
        return None

    def _is_marked(self) -> bool:
        mark = _mark(self._folder)
        return mark is not None and mark[0].token == self._me.token

    def _look(self) -> tuple[Seen, ...]:
        found = []
        self._seen = {}
        for key, owner, held, written in _claims(self._folder):
            is_here = is_same_machine(owner, self._me)
            alive = process_start(owner.pid) == owner.pid_start if is_here else None
            found.append(Seen(key, held, written, alive))
            self._seen[key] = (owner, max(0.0, self._now - written))
        return tuple(found)


def read_claims(folder: ObjectPath) -> tuple[Owner, float] | None:
    """Who owns the run, and for how many seconds it was silent by the store's clock; or None."""
    claims = [(written, owner) for _, owner, held, written in _claims(folder) if held]
    if not claims:
        return None
    try:
        now = store_now(folder)
    except OSError:  # who may only read
        now = time.time()
    written, owner = max(claims, key=lambda claim: claim[0])
    return owner, max(0.0, now - written)


def claim_files(folder: ObjectPath) -> list[ObjectPath]:
    """The claims that are there."""
    return [folder / CLAIMS / key for key in sorted(folder.times_below(CLAIMS))]


def store_now(folder: Place) -> float:
    """The time as the store or file system writes it. Raises OSError."""
    probe = folder / f"{MARK}-clock-{uuid4().hex}"
    try:
        probe.write_bytes(b"")
        return probe.stat().st_mtime
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


# --- details -----------------------------------------------------------------------------------------------


def _claims(folder: ObjectPath) -> list[tuple[str, Owner, bool, float]]:
    """Key, owner, whether it owns, and when: of every claim, and of a mark whose writer has none."""
    found: list[tuple[str, Owner, bool, float]] = []
    times = folder.times_below(CLAIMS)  # before the contents: a claim is at least as old as they make it
    for key, written in times.items():
        try:
            claim = read_json(folder / CLAIMS / key)
            held = claim.pop("held")
            found.append((key, owner_of(claim), held is not False, written))
        except FileNotFoundError:  # withdrawn since
            continue
        except (ValueError, TypeError, KeyError, AttributeError):  # not ours to read: as silent as it is old
            found.append((key, NOBODY, True, written))
    mark = _mark(folder)
    if mark is not None and mark[0].token not in {owner.token for _, owner, *_ in found}:
        found.append((MARK, mark[0], True, mark[1]))
    return found


def _mark(folder: ObjectPath) -> tuple[Owner, float] | None:
    """Who wrote the mark, and when."""
    path = folder / MARK
    try:
        written = path.stat().st_mtime
        return owner_of(read_json(path)), written
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        return NOBODY, written


def _silence(seen: tuple[Owner, float]) -> float:
    return seen[1]


def _clock() -> float:
    """Seconds that also pass while this machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
