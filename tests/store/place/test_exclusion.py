"""Every order of steps of several drivers, every moment at which one is slow or dies: at most one owns."""

from collections import deque
from dataclasses import dataclass, field, replace

import pytest

from pipeline.store.place import exclusion
from pipeline.store.place.exclusion import Lease, Lost, Rules, Seen, enter, keep, leave

FORGOTTEN = ("rules", "living", "name", "beats", "claim")  # of no consequence for what comes
RULES = Rules(fence=1.0, silence=2.0, looks=2)
LONG_AGO = -RULES.silence - 1.0


@dataclass(frozen=True)
class Own:
    until: float


@dataclass(frozen=True)
class Disown:
    pass


def life(name, beats, rules):
    """Enters, keeps what it has some times, lets go. Tells what it thinks it owns."""
    lease = yield from enter(f"{name}0", rules)
    if not isinstance(lease, Lease):
        return "refused"
    yield Own(lease.until)
    for beat in range(beats):
        answer = yield from keep(lease, f"{name}{beat + 1}", rules)
        if isinstance(answer, Lost):
            return "lost"
        if isinstance(answer, Lease):
            lease = answer
            yield Own(lease.until)
    yield Disown()
    yield from leave(lease.key)
    return "left"


@dataclass(frozen=True)
class World:
    """The store, the time, and what every driver has been told."""

    told: tuple[tuple, ...]  # per driver: the results of its steps
    at: tuple = ()  # per driver: where in its program that is, or how it has ended
    time: float = 0.0
    claims: tuple[tuple[str, bool, float], ...] = ()  # key, held, when
    mark: int | None = None
    until: tuple[float | None, ...] = ()
    passed: tuple[bool, ...] = ()  # per driver: whether another has owned since its mark
    dead: frozenset[int] = frozenset()

    @property
    def key(self):
        """All that decides what can come: times as seen from now, as far back as they matter."""
        return from_now(
            (self.at, self.claims, self.mark, self.until, self.passed, tuple(self.dead)), self.time
        )


@dataclass
class Model:
    """Drivers with these numbers of beats; with `ticks` any time may pass between any two steps, with `deaths` so many
    drivers may die, and all see that."""

    beats: tuple[int, ...]
    ticks: bool = False
    deaths: int = 0
    rules: Rules = RULES
    life: object = life
    names: str = "abc"
    endings: set = field(default_factory=set)
    states: int = 0

    def explore(self):
        """Visits every state; AssertionError in one where two own, or where one who was away owns on."""
        n = len(self.beats)
        start = World(told=((),) * n, until=(None,) * n, passed=(False,) * n)
        steps, ats = zip(*(self.replay(driver, ()) for driver in range(n)), strict=True)
        start = replace(start, at=ats)
        seen, queue = {start.key}, deque([(start, steps)])
        while queue:
            world, steps = queue.popleft()
            self.check(world)
            if all(step is None for step in steps):
                self.endings.add(tuple(at[1] for at in world.at))
            for after in self.moves(world, steps):
                if after[0].key not in seen:
                    seen.add(after[0].key)
                    queue.append(after)
        self.states = len(seen)
        return self

    def check(self, world):
        margin = self.rules.silence - self.rules.fence
        owners = [
            driver
            for driver, until in enumerate(world.until)
            if until is not None and driver not in world.dead and world.time <= until + margin
        ]
        assert len(owners) < 2, (owners, world)

    def moves(self, world, steps):
        if self.ticks:
            yield replace(world, time=world.time + 1.0), steps
        for driver, step in enumerate(steps):
            if step is None or driver in world.dead:
                continue
            yield self.advance(world, steps, driver, step)
            if len(world.dead) < self.deaths:
                yield replace(world, dead=world.dead | {driver}), steps

    def advance(self, world, steps, driver, step):
        """The world after one step of a driver, and what it wants to do next."""
        claims = {key: (held, when) for key, held, when in world.claims}
        result = None
        match step:
            case exclusion.Clock() | exclusion.StoreClock():
                result = world.time
            case exclusion.Look():
                alive = {key: "abc".index(key[0]) not in world.dead for key in claims}
                result = tuple(
                    Seen(key, held, when, alive[key] if self.deaths else None)
                    for key, (held, when) in sorted(claims.items())
                )
            case exclusion.Write(key, held):
                claims[key] = (held, world.time)
            case exclusion.Delete(key):
                claims.pop(key, None)
            case exclusion.Mark():
                world = replace(world, mark=driver, passed=put(world.passed, driver, False))
            case exclusion.IsMarked():
                result = world.mark == driver
            case exclusion.Unmark():
                world = replace(world, mark=None)
        told = (*world.told[driver], result)
        step, at = self.replay(driver, told)
        world = replace(world, claims=tuple((key, *claims[key]) for key in sorted(claims)))
        while isinstance(step, Own | Disown):
            until = step.until if isinstance(step, Own) else None
            if until is not None and world.time < until:  # not over before it was told
                assert not world.passed[driver], "somebody has owned in between"
                world = replace(world, passed=put((True,) * len(self.beats), driver, False))
            world = replace(world, until=put(world.until, driver, until))
            told = (*told, None)
            step, at = self.replay(driver, told)
        world = replace(world, told=put(world.told, driver, told), at=put(world.at, driver, at))
        return world, put(steps, driver, step)

    def replay(self, driver, told):
        """What a driver does next after these results, and everything that decides what it does later."""
        program = inner = self.life(self.names[driver], self.beats[driver], self.rules)
        try:
            step = next(program)
            for result in told:
                step = program.send(result)
        except StopIteration as end:
            return None, ("ended", end.value)
        frames = []
        while inner is not None:
            values = inner.gi_frame.f_locals
            if not isinstance(step, exclusion.Look):
                values.pop("now", None)
            frames.append(
                (
                    inner.gi_frame.f_lasti,
                    tuple((k, plain(v)) for k, v in values.items() if k not in FORGOTTEN),
                )
            )
            inner = inner.gi_yieldfrom
        return step, tuple(frames)


def put(values, index, value):
    return (*values[:index], value, *values[index + 1 :])


def plain(value):
    """A value of a driver as numbers and names; of claims that it has seen, what it still uses."""
    if isinstance(value, Seen):
        return value.key
    if isinstance(value, Lease):
        return (value.key, value.until)
    return tuple(map(plain, value)) if isinstance(value, tuple) else value


def from_now(value, time):
    """Times, which are the only floats, as seen from now."""
    if isinstance(value, tuple):
        return tuple(from_now(one, time) for one in value)
    return max(value - time, LONG_AGO) if isinstance(value, float) else value


def hasty(key, rules, old=None):
    """Looks before it writes, and not after."""
    if (yield exclusion.Look()):
        return exclusion.Refused()
    start = yield exclusion.Clock()
    yield exclusion.Write(key, held=True)
    return Lease(key, start + rules.fence)


def life_of(enter):
    def life(name, beats, rules):
        lease = yield from enter(f"{name}0", rules)
        if isinstance(lease, Lease):
            yield Own(lease.until)
            yield Disown()
            yield from leave(lease.key)
        return "over"

    return life


def test_of_two_and_of_three_that_enter_at_once_at_most_one_owns():
    both = Model((0, 0)).explore()
    assert both.endings == {
        ("left", "left"),
        ("left", "refused"),
        ("refused", "left"),
        ("refused", "refused"),
    }
    three = Model((0, 0, 0)).explore()
    assert ("left", "left", "left") in three.endings
    assert three.states > 3_000


def test_of_two_of_which_one_may_die_at_any_moment_at_most_one_owns():
    model = Model((0, 0), deaths=1).explore()
    assert model.endings
    assert model.states > 500


def test_the_model_finds_who_looks_before_it_writes():
    with pytest.raises(AssertionError):
        Model((0, 0), life=life_of(hasty)).explore()
