"""Drivers that are killed when their test has ended, and a run of some seconds for them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import Driver
from tests.runs import toy_mapping


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
    mapping = toy_mapping(
        tmp_path / "results",
        tasks=[{"name": "induction", "count": 256}],
        methods=[
            {"name": "eap_ig"},
            {"name": "acdc", "threshold": 0.01, "scope": "shard", "as": "acdc"},
            {"name": "edge_patching"},
        ],
        shards={"prompts": 32},
        cluster={"workers": 2},
        evaluate={"edge_fractions": [0.05, 1.0]},
    )
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(mapping))
    return path
