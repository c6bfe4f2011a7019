"""Runs made of plain values, empty and complete."""

from collections.abc import Callable

import pytest

from pipeline.store.place.where import Place
from pipeline.store.run.run_dir import RunDirectory
from tests.store.example import METHODS, payload_of, plan_of


@pytest.fixture
def new_run(shelf: Place) -> Callable[..., RunDirectory]:
    def make(name: str = "run", tasks=None, methods=None, **options) -> RunDirectory:
        arguments = plan_of(tasks or {"ioi": 3, "gt": 1}, methods or METHODS, **options)
        return RunDirectory.create(shelf / name, **arguments)

    return make


@pytest.fixture
def run(new_run: Callable[..., RunDirectory]) -> RunDirectory:
    return new_run()


@pytest.fixture
def complete(run: RunDirectory) -> RunDirectory:
    """The run with every item committed."""
    for item in run.items:
        run.commit(item, payload_of(item), {"attempt": 1, "seconds": 0.5})
    return run
