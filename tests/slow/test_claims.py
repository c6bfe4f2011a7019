"""Drivers that meet in a store: every order of steps with time passing in between, and real processes that race."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise

import pytest

from pipeline.store.place.exclusion import Rules
from pipeline.store.place.owners import this_process
from tests.object_store import folder_in
from tests.store.place.test_exclusion import Model
from tests.store.place.test_lock import DEAD_PID, left_in, write_claim

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3000)]

ONE_LOOK = Rules(fence=1.0, silence=2.0, looks=1)


def test_whatever_time_passes_between_two_steps_at_most_one_owns():
    model = Model((0, 0), ticks=True, rules=ONE_LOOK).explore()
    assert ("left", "left") in model.endings
    assert model.states > 30_000


def test_an_owner_that_goes_on_after_any_pause_is_the_only_one_and_nobody_has_owned_in_between():
    model = Model((1, 0), ticks=True, rules=ONE_LOOK).explore()
    assert {("left", "left"), ("lost", "left"), ("left", "refused")} <= model.endings


def test_of_three_of_which_one_may_die_at_any_moment_at_most_one_owns():
    assert Model((0, 0, 0), deaths=1).explore().states > 20_000


def test_the_model_finds_a_silence_that_is_shorter_than_the_fence():
    with pytest.raises(AssertionError):
        Model((0, 0), ticks=True, rules=Rules(fence=3.0, silence=1.0, looks=1)).explore()


RACER = """
import sys, time
from pipeline.core.errors import RunDirectoryError
from pipeline.store.place import owners
from pipeline.store.place.lock import locked
from pipeline.store.place.where import place
folder, me = place(sys.argv[1]), sys.argv[2]
owners._boot_id = lambda: me  # a machine each
input()
try:
    with locked(folder):
        began = time.monotonic()
        time.sleep(1.5)
        print(began, time.monotonic())
except RunDirectoryError as error:
    assert "in use by" in str(error), error
"""


def test_of_many_processes_that_start_at_once_one_owns_at_a_time(object_store):
    prefix = folder_in(object_store)
    write_claim(
        prefix, replace(this_process(), pid=DEAD_PID, boot_id="0")
    )  # left by a dead one of racer 0's machine
    command = [sys.executable, "-c", RACER, str(prefix)]
    racers = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(6)
    ]
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    times = [tuple(map(float, racer.communicate()[0].split())) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 6
    owned = sorted(time for time in times if time)
    assert owned, "nobody got it"
    assert all(end <= begin for (_, end), (begin, _) in pairwise(owned))
    assert left_in(prefix) == []
