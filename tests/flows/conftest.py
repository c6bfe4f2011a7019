"""The command line as a function, and small files for it to read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from flows.cli import main
from tests.runs import toy_mapping


class Said(NamedTuple):
    """What a command has returned and printed."""

    code: int
    out: str
    err: str

    @property
    def data(self):
        return json.loads(self.out)


@pytest.fixture
def circuits(capsys) -> Callable[..., Said]:
    """`circuits("run", path)` calls the command line in this process."""

    def call(*argv: object) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in argv])
        return Said(code, *capsys.readouterr())

    return call


@pytest.fixture
def config_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes the small config with changes and returns its path."""

    def write(**changes: object) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(toy_mapping(tmp_path / "results", **changes)))
        return path

    return write
