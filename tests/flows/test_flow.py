"""The real path, once: Prefect's flow over Ray workers, from the command line to the report."""

import json
import sqlite3
from contextlib import closing
from functools import partial

import pytest

from pipeline import open_run
from pipeline.schedule.pools import open_pool
from tests.processes import GUARD_SECONDS
from tests.runs import content
from tests.slowly import slow

FLOWS = "select flow_run.id, flow.name, state_name from flow_run join flow on flow.id = flow_run.flow_id"
ARTIFACTS = "select id, key, data from artifact where key is not null order by created"


class Prefect:
    """Rows of Prefect's database since this was made, asked directly: the client could agree with itself alone."""

    def __init__(self, path):
        self._path, self._before = path, set()
        self._before = {row[0] for query in (FLOWS, ARTIFACTS) for row in self._new(query)}

    def flows(self):
        """(name, state) of the flow runs."""
        return [tuple(row[1:]) for row in self._new(FLOWS)]

    def artifacts(self):
        """What was written last under each key."""
        return dict(tuple(row[1:]) for row in self._new(ARTIFACTS))

    def _new(self, query):
        with closing(sqlite3.connect(self._path, GUARD_SECONDS)) as database:
            return [row for row in database.execute(query).fetchall() if row[0] not in self._before]


@pytest.fixture
def in_prefect(prefect_session):
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

    return Prefect(str(PREFECT_API_DATABASE_CONNECTION_URL.value()).partition("///")[2])


@pytest.fixture
def without_ray(monkeypatch):
    """Items are computed in this process."""
    for module in ("flows.discover", "flows.running"):
        monkeypatch.setattr(f"{module}.open_pool", partial(open_pool, local=True))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, *slow(2)])
def test_a_run_through_prefect_and_ray_is_the_run_without_them(
    circuits, config_file, tmp_path, in_prefect, ray_session, workers
):
    config = config_file(cluster={"workers": workers})
    said = circuits("run", config, "--json")
    assert said.code == 0, said.err
    assert said.data["complete"]
    run = open_run(said.data["path"])
    assert run.footers().attempt.tolist() == [1] * 9

    assert in_prefect.flows() == [("discover", "Completed")]
    artifacts = in_prefect.artifacts()
    assert {"plan", "progress", "faithfulness"} <= set(artifacts)
    assert "failures" not in artifacts
    assert float(artifacts["progress"]) == 100

    alone = circuits("run", config, "--run-dir", tmp_path / "alone", "--local", "--json")
    assert content(run.path / "aggregate") == content(tmp_path / "alone" / "aggregate")
    assert alone.data["items"] == said.data["items"]


@pytest.mark.slow
def test_a_run_with_missing_items_is_a_failed_flow(circuits, config_file, in_prefect, without_ray, tmp_path):
    """One prompt is longer than the positions that a patched copy of the model can read without NaN."""
    from tests.runs import nan_in_the_second

    config = config_file(**nan_in_the_second(tmp_path))
    said = circuits("run", config, "--json")
    assert said.code == 3, said.err
    assert len(said.data["missing"]) == 3
    assert said.err.count("FAILED: ") == 3
    assert "Traceback" not in said.err
    assert in_prefect.flows() == [("discover", "Failed")]
    rows = json.loads(json.loads(in_prefect.artifacts()["failures"]))
    assert [row["item"] for row in rows] == said.data["missing"]
    assert all("not finite" in row["message"] for row in rows)


@pytest.mark.slow
def test_a_deployment_gives_the_flow_its_config_alone(tmp_path, in_prefect, without_ray):
    from flows.discover import discover
    from tests.runs import toy_mapping

    path = discover(toy_mapping(tmp_path / "results", tasks=[{"name": "induction", "count": 4}]))
    assert open_run(path).status()["complete"]
