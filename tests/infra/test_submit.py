"""What travels with a submission, what is refused before anything does, and runs that share their workers."""

import signal
import socket
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from flows.stopping import SIGNALS
from flows.submit import pack
from flows.sweep import main as run_job
from flows.sweep import place_inputs, run_sweep
from pipeline import RunConfig, open_run
from pipeline.workers import execute
from tests.runs import PAIR, content, toy_config, toy_mapping

TOKEN = "0123456789abcdef" * 4


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(toy_mapping(tmp_path / "results")))
    return path


@pytest.fixture
def token(tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_text(TOKEN)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    return path


@pytest.fixture
def refusal(capsys):
    """Calls the command line, which has to refuse with exit code 2 and one line; returns the line."""

    def call(*argv):
        assert main(["submit", *map(str, argv)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert TOKEN not in line
        return line

    return call


@pytest.fixture
def listener():
    """A port that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_submission_is_refused_in_one_line_where_it_cannot_go(
    config_file, token, refusal, tmp_path, listener
):
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    there = f"http://127.0.0.1:{listener}"

    assert "no cluster there" in refusal(config_file, "--address", f"http://127.0.0.1:{closed}")
    assert "as a URL" in refusal(config_file, "--address", "127.0.0.1:8265")
    assert "--set output=/shared/results" in refusal(
        config_file, "--set", "output=results", "--address", there
    )
    assert "steps" in refusal(config_file, "--set", "methods.0.steps=10", "--address", there)
    token.chmod(0o640)
    assert "chmod 600" in refusal(config_file, "--address", there)
    token.unlink()
    assert "no Ray token there" in refusal(config_file, "--address", there)


def test_a_prefect_submission_is_refused_in_one_line_where_it_cannot_go(config_file, refusal, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert "which Prefect server" in refusal(config_file, "--to", "prefect")
    assert "ends with /api" in refusal(config_file, "--to", "prefect", "--address", "http://127.0.0.1:1")


def test_prompt_files_travel_and_lie_beside_the_runs(tmp_path):
    prompts = tmp_path / "laptop" / "pairs.jsonl"
    prompts.parent.mkdir()
    prompts.write_text(f"{PAIR}\n".replace("'", '"'))
    mapping = toy_mapping(tmp_path / "shared" / "results", tasks=[{"name": "file", "path": str(prompts)}])
    job = tmp_path / "job"
    job.mkdir()

    (name,) = pack([mapping], job)
    content_of_file = prompts.read_bytes()
    prompts.unlink()
    (tmp_path / "shared").mkdir()
    config = place_inputs(RunConfig.load(job / name), job)

    placed = Path(config.tasks[0].path)
    assert placed.is_relative_to(tmp_path / "shared" / "results")
    assert placed.read_bytes() == content_of_file
    assert list(config.task_ids) == ["pairs"]


def test_an_output_whose_folder_is_not_mounted_is_refused(tmp_path, capsys):
    from pipeline.core.errors import ConfigError

    with pytest.raises(ConfigError, match="is not there on the cluster"):
        place_inputs(toy_config(tmp_path / "unmounted" / "results"), tmp_path)


@pytest.mark.slow
def test_runs_of_one_model_load_it_once_and_give_what_they_give_alone(tmp_path, monkeypatch):
    loads = []
    load = execute.open_replica
    monkeypatch.setattr(
        "pipeline.workers.shared.open_replica", lambda settings: loads.append(settings) or load(settings)
    )
    out = tmp_path / "swept"
    configs = {
        "one": toy_config(out),
        "broken": toy_config(out, model={"name": str(tmp_path / "nothing")}),
        "other": toy_config(out, model={"name": "toy:trained"}, methods=[{"name": "eap"}]),
        "two": toy_config(out, seed=1, methods=[{"name": "eap"}, {"name": "acdc", "threshold": 0.01}]),
    }
    told = []

    ended = run_sweep(configs, told.append, local=True)

    assert [entry.name for entry in ended] == list(configs)
    assert [entry.complete for entry in ended] == [True, False, True, True]
    assert "nothing" in ended[1].error
    assert "\n" not in ended[1].error
    assert [settings.model_name for settings in loads] == ["toy:planted", "toy:trained"]
    assert [entry.name for entry in told[:4]] == list(configs), "planned before anything runs"
    for entry in (ended[0], ended[3]):
        alone = tmp_path / f"alone-{entry.name}"
        path = tmp_path / "alone.yaml"
        path.write_text(configs[entry.name].to_yaml())
        assert main(["run", str(path), "--local", "--run-dir", str(alone)]) == 0
        assert content(Path(entry.run) / "aggregate") == content(alone / "aggregate")
        assert open_run(entry.run).status()["complete"]


def test_a_sweep_goes_on_where_it_was(tmp_path):
    configs = {
        name: toy_config(tmp_path, seed=seed, methods=["eap"]) for seed, name in enumerate(("one", "two"))
    }
    first = run_sweep(configs, lambda _: None, local=True)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("scores/**/*.parquet")}

    again = run_sweep(configs, lambda _: None, local=True)

    assert again == first
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_job_computes_on_the_cluster_it_is_given_unless_a_config_names_another(
    config_file, tmp_path, monkeypatch
):
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(toy_mapping(tmp_path / "results", cluster={"address": "10.0.0.1:6379"})))
    asked = {}
    monkeypatch.setattr("flows.sweep.run_sweep", lambda configs, *_: asked.update(configs) or [])

    assert run_job(["--address", "auto", str(config_file), str(other)]) == 0

    addresses = {name: config.cluster.address for name, config in asked.items()}
    assert addresses == {"config": "auto", "other": "10.0.0.1:6379"}
    assert run_job([str(config_file)]) == 0
    assert asked["config"].cluster.address == "local"


def test_a_job_that_is_called_as_a_function_leaves_signals_to_its_caller(config_file, monkeypatch):
    before = {number: signal.getsignal(number) for number in SIGNALS}
    monkeypatch.setattr("flows.sweep.run_sweep", lambda *_: [])
    assert run_job([str(config_file)]) == 0
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
