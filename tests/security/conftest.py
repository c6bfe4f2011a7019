"""A finished run to be spoilt, a place that must stay as it is, and code that must not run."""

import pickle
import shutil
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from tests.flows.conftest import circuits, config_file  # noqa: F401 - fixtures
from tests.runs import content, toy_mapping


class Touch:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


class Place:
    """A folder with a run's neighbours: `outside` must not change, and `executed` must not appear."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path
        self.outside = tmp_path / "outside"
        self.executed = tmp_path / "executed"
        self.outside.mkdir()
        (self.outside / "thesis.json").write_text('{"chapters": 7}')
        (self.outside / "table.parquet").write_bytes(b"PAR1")
        self._before = content(self.outside)

    @property
    def bomb(self) -> bytes:
        """A pickle that makes `executed`."""
        return pickle.dumps(Touch(self.executed))

    def check(self) -> None:
        """Nothing outside was written, removed or renamed, and no code of others has run."""
        assert content(self.outside) == self._before
        assert not self.executed.exists()


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    yield place
    place.check()


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A complete run of edges, nodes and means; to be copied."""
    folder = tmp_path_factory.mktemp("finished")
    methods = [{"name": "eap"}, {"name": "node_patching", "ablation": "mean"}]
    config = folder / "config.yaml"
    tasks = [{"name": "induction", "count": 4}]
    config.write_text(yaml.safe_dump(toy_mapping(folder / "results", tasks=tasks, methods=methods)))
    assert main(["run", str(config), "--local"]) == 0
    (run,) = (folder / "results").iterdir()
    return run


@pytest.fixture
def run(finished, place) -> Path:
    """A copy of the run, to be spoilt."""
    return Path(shutil.copytree(finished, place.path / "run"))


def refused(said, codes, words) -> None:
    """One line on stderr that holds the words, and nothing else anywhere."""
    assert said.code in codes, said
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("error: ")
    assert len(said.err) < 1500
    assert "unexpected" not in said.err, said.err
    assert "Traceback" not in said.err
    assert said.err.strip().isprintable(), said.err
    for word in words:
        assert word in said.err, said.err
