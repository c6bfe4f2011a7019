"""Drivers that are killed when their test has ended, and a run of some seconds for them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import Driver
from tests.slow.survival import some_seconds


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    drivers: list[Driver] = []

    def start(*argv: object, **options: Any) -> Driver:
        drivers.append(Driver(tmp_path / f"driver-{len(drivers)}.log", *argv, **options))
        return drivers[-1]

    yield start
    for driver in drivers:
        if driver.process.poll() is None:
            driver.kill()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """24 items of some hundred milliseconds."""
    mapping = some_seconds(tmp_path / "results", 256)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path
