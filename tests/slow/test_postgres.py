"""Prefect on PostgreSQL, as docker-compose.yaml sets it up: two runs at the same time on one worker."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from pipeline import open_run
from tests.infra.nodes import ROOT, answers
from tests.infra.postgres import postgres
from tests.infra.service import Service, submit
from tests.runs import toy_mapping

pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def database():
    with postgres() as server:
        yield server


@pytest.fixture(scope="module")
def service(database, tmp_path_factory):
    service = Service(tmp_path_factory.mktemp("prefect"))
    secret = service.folder / "postgres"
    secret.write_text(database.password)
    compose = yaml.safe_load((ROOT / "infra" / "docker-compose.yaml").read_text())
    *shell, command = compose["services"]["prefect"]["command"]
    for there, here in {
        "$$": "$",
        "/run/secrets/postgres": str(secret),
        "@postgres/": f"@127.0.0.1:{database.port}/",
        "/opt/circuits": str(ROOT),
        "--host 0.0.0.0": f"--host 127.0.0.1 --port {service.port}",
    }.items():
        assert there in command
        command = command.replace(there, here)
    try:
        service.start_command("server", *shell, command)
        service.wait_for(lambda: answers(service.port))
        service.start("worker.sh", "--limit", "2")
        service.wait_for(lambda: "started!" in (service.folder / "worker.sh.log").read_text())
        yield service
    finally:
        service.stop()


def test_two_runs_at_the_same_time_are_kept_in_the_database(service, database, tmp_path):
    configs = [tmp_path / "one.yaml", tmp_path / "two.yaml"]
    for config in configs:
        mapping = toy_mapping(tmp_path / "results", name=config.stem, cluster={"workers": 1})
        config.write_text(yaml.safe_dump(mapping))
    password = f"circuits:{service.password.read_text()}"

    with ThreadPoolExecutor() as both:
        waiting = [
            both.submit(submit, service, config, "--wait", PREFECT_API_AUTH_STRING=password)
            for config in configs
        ]

    for code, data, err in (each.result() for each in waiting):
        assert code == 0, err
        (run,) = data["runs"]
        assert open_run(run["run"]).status()["complete"]
    ours = "from flow_run where deployment_id is not null"
    assert database.ask(f"select state_type, count(*) {ours} group by 1") == "COMPLETED|2"
    assert database.ask(f"select max(start_time) < min(end_time) {ours}") == "t"
    assert not list(service.folder.rglob("*.db")), "nothing is kept in SQLite beside it"
