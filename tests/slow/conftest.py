"""Drivers that are killed when their test has ended, and a run of some seconds for them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.gate import Gate
from tests.processes import HEARING, Driver
from tests.slow.survival import some_seconds


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start(*argv: object, gate: Gate | None = None, code: str = HEARING, **options: Any) -> Driver:
        options["code"] = gate.before(code) if gate else code
        drivers.append(Driver(tmp_path / f"driver-{len(drivers)}.log", *argv, **options))
        return drivers[-1]

    yield start
    for driver in drivers:
        if driver.process.poll() is None:
            driver.kill()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Open until a test shuts it; only drivers that are given it have workers that look at it."""
    return Gate(str(tmp_path / "gate"))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """24 items with scores, and 8 without."""
    mapping = some_seconds(tmp_path / "results", 64) | {"shards": {"prompts": 8}}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path
