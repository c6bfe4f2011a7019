"""Mutual exclusion by nothing but objects that are written, listed and deleted: who may own a run in a store.

Knows the order of steps, as generators that yield one step at a time and are sent its result. Does not know a store,
processes or threads (`pipeline.store.place.claims`), so that a test can try every order of steps of several drivers.

What the store must do: a listing that begins after a write or deletion was acknowledged shows it, and so does a read.
S3 says so since 2020, and so do MinIO, Ceph, R2 and Google's. No conditional write is needed: tried with obstore 0.12
(`put(mode="create")`, then `If-Match` on the lock's tag), it would take the place of 1 alone, while the heartbeat, the
silence and the fence of 2 and 3 stay, for one more dependency and stores that refuse it. Nor could tests prove it: of
60 races of six clients against moto 5.2, whose look and write are not one step, one or two had two winners. Two things
of time are assumed: clocks run equally fast (they need not agree), and count while their machine sleeps.

Every driver writes claims under keys that nobody else writes, a new one whenever it enters. Why at most one owns:

1. Who enters writes its claim, then lists, and goes on only if no other living claim is there. Of two that enter, the
   listing of the one that wrote last begins after both writes and shows the other's claim, so it does not go on; for a
   claim goes away only when its writer gives up or lets go, or when it is dead.
2. Dead is what can never own again: a process of this machine that is gone; of another machine a claim that was
   silent for SILENCE_SECONDS, by the store's own clock, read *before* the listing. Its writer counts FENCE_SECONDS,
   which is less, from *before* its last write, and stops owning then, by itself. A write that is acknowledged later
   than that renews nothing. Takers of a dead claim meet each other in 1.
3. Who was silent for so long enters again, with a new claim, and only if the mark is still its own. Whoever enters
   anew writes the mark before it owns, so that nobody has owned in between.

An owner looks at its clock and the mark before it writes what counts, and has SILENCE_SECONDS - FENCE_SECONDS for the
write. Only one that is stopped for longer between that look and its write could still write late.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias

FENCE_SECONDS = 40.0
SILENCE_SECONDS = 60.0
LOOKS = 12  # of who is first among those that enter, until the others have withdrawn


# --- steps, and what is sent back ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Clock:
    """-> float: seconds of this machine, also while it sleeps."""


@dataclass(frozen=True)
class StoreClock:
    """-> float: the time that the store writes beside objects."""


@dataclass(frozen=True)
class Look:
    """-> tuple[Seen, ...]: every claim that is there."""


@dataclass(frozen=True)
class Write:
    """Writes a claim of one's own; its time is then the store's."""

    key: str
    held: bool


@dataclass(frozen=True)
class Delete:
    """Removes a claim, if it is there."""

    key: str


@dataclass(frozen=True)
class Mark:
    """Writes who owned last: this driver."""


@dataclass(frozen=True)
class IsMarked:
    """-> bool: whether the mark is this driver's."""


@dataclass(frozen=True)
class Unmark:
    """Removes the mark."""


@dataclass(frozen=True)
class Pause:
    """Some time passes."""


@dataclass(frozen=True)
class Seen:
    """A claim in a listing."""

    key: str
    held: bool  # by one who owns, or thinks so; else by one who enters
    written: float  # by the store's clock
    alive: bool | None  # whether its process lives; None: on another machine


Step: TypeAlias = Clock | StoreClock | Look | Write | Delete | Mark | IsMarked | Unmark | Pause


# --- outcomes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lease:
    """Owns until this time of its own clock, by the claim with this key."""

    key: str
    until: float


@dataclass(frozen=True)
class Refused:
    """Others are there; none is named where this driver was too slow."""

    by: tuple[Seen, ...] = ()


@dataclass(frozen=True)
class Lost:
    """Another driver has owned since."""


@dataclass(frozen=True)
class Rules:
    """Durations, and patience as a number of looks."""

    fence: float = FENCE_SECONDS
    silence: float = SILENCE_SECONDS
    looks: int = LOOKS

    def is_dead(self, claim: Seen, now: float) -> bool:
        """Whether nobody can own by this claim any more; `now` was read before the claim was."""
        return claim.alive is False or (claim.alive is None and now - claim.written > self.silence)


# --- the protocol ------------------------------------------------------------------------------------------


def enter(key: str, rules: Rules, old: str | None = None) -> Generator[Step, Any, Lease | Refused | Lost]:
    """Becomes the owner by a claim with this key, which nobody has used; `old` is what one owned by before."""
    start = yield Clock()
    yield Write(key, held=False)
    for left in reversed(range(rules.looks)):
        now = yield StoreClock()
        others = tuple(claim for claim in (yield Look()) if claim.key not in (key, old))
        living = tuple(claim for claim in others if not rules.is_dead(claim, now))
        if not living:
            break
        if not left or any(claim.held or claim.key < key for claim in living):
            yield Delete(key)
            return Refused(living)
        yield Pause()  # the first by name stays; the others will have withdrawn
    if old is None:
        yield Mark()
    elif not (yield IsMarked()):
        yield Delete(key)
        yield Delete(old)
        return Lost()
    again = yield Clock()
    yield Write(key, held=True)
    if (yield Clock()) >= start + rules.fence:  # its claim may have been taken for dead
        if old is None:
            yield from leave(key)
        else:
            yield Delete(key)
        return Refused()
    for claim in others:
        yield Delete(claim.key)
    if old is not None:
        yield Delete(old)
    return Lease(key, again + rules.fence)


def keep(lease: Lease, key: str, rules: Rules) -> Generator[Step, Any, Lease | Refused | Lost]:
    """Owns for longer. After too long a silence by a claim with the new `key`, unless somebody has owned since."""
    if not (yield IsMarked()):
        yield Delete(lease.key)
        return Lost()
    start = yield Clock()
    if start < lease.until:
        yield Write(lease.key, held=True)
        if (yield Clock()) < lease.until:
            return Lease(lease.key, start + rules.fence)
    return (yield from enter(key, rules, old=lease.key))


def leave(key: str) -> Generator[Step, Any, None]:
    """Lets go."""
    if (yield IsMarked()):
        yield Unmark()
    yield Delete(key)
