"""A run in an S3-compatible store is the same run: same bytes, same verbs, nothing secret written."""

import hashlib
import json
from contextlib import closing

import pytest

from flows.cli import main
from pipeline import RunConfig, discover, load_scores, open_run
from pipeline.core.errors import ConfigError, StorageError
from pipeline.schedule.control import Watch
from pipeline.store.place import lock
from pipeline.store.place.objects import ObjectPath
from pipeline.store.place.where import found, place, relative
from pipeline.store.run.log import read_log
from tests.object_store import KEYS, folder_in
from tests.processes import wait_to_be_interrupted
from tests.runs import score_files, toy_config, toy_mapping

CHANGES = {
    "methods": [
        {"name": "eap"},
        {"name": "node_patching"},
        {"name": "acdc", "threshold": 0.01},  # over all prompts: leaves decisions
    ],
    "tasks": [{"name": "induction", "count": 4}],
    "shards": {"prompts": 2},
    "evaluate": {"edge_fractions": [0.5]},
    "ablation": "mean",
    "store": {"prompt_scores": True},
}

SMALL = {"methods": [{"name": "eap"}], "tasks": [{"name": "induction", "count": 1}]}
TWO_SHARDS = {"tasks": [{"name": "induction", "count": 2}], "shards": {"prompts": 1}}


@pytest.fixture(scope="module")
def output(object_store):
    return folder_in(object_store)


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The run in a folder."""
    return discover(toy_config(tmp_path_factory.mktemp("results"), **CHANGES), local=True)


@pytest.fixture(scope="module")
def there(output):
    """The same run in the store."""
    return discover(toy_config(output, **CHANGES), local=True)


def digests(run, pattern):
    return {
        str(relative(path, run.path)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found(run.path, pattern)
    }


def test_results_are_the_same_bytes(here, there):
    assert there.status()["complete"]
    assert there.path.name == here.path.name
    for pattern in (
        "aggregate/**/*",
        "node_aggregate/**/*",
        "circuits/*",
        "graph.parquet",
        "prompts.parquet",
    ):
        assert digests(there, pattern) == digests(here, pattern) != {}
    mine, theirs = (
        {str(relative(path, run.path)) for path in found(run.path, "**/*") if path.name[0] != "."}
        for run in (here, there)
    )
    assert not any(path.name[0] == "." for path in found(there.path, "**/*"))
    (log,) = theirs - mine
    assert log.startswith("log-")
    assert mine - theirs == {"log.jsonl"}, "nothing is left behind"
    assert any(name.startswith("decisions/") for name in mine)


def test_results_are_read_from_an_address(here, there):
    address = str(there.path)
    assert load_scores(address).equals(load_scores(here.path))
    assert load_scores(address, level="prompt", method="eap").equals(
        load_scores(here.path, level="prompt", method="eap")
    )
    assert open_run(address).faithfulness().equals(here.faithfulness())


@pytest.mark.slow
def test_the_same_config_again_computes_nothing(there, output):
    before = {path: path.stat().st_mtime_ns for path in score_files(there.path)}
    events = []
    discover(toy_config(output, **CHANGES), local=True, on_event=events.append)
    assert events == []
    assert {path: path.stat().st_mtime_ns for path in score_files(there.path)} == before


@pytest.mark.slow
def test_what_is_damaged_is_set_aside_and_computed_again(output, here):
    run = discover(toy_config(output, **SMALL), local=True, run_dir=output / "damaged")
    path, *_ = score_files(run.path)
    whole = digests(run, "aggregate/**/*")
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(bytes(content))
    (run.path / "aggregate" / "task=induction" / "method=eap" / "merged.parquet").unlink()
    again = discover(toy_config(output, **SMALL), local=True, run_dir=str(run.path))
    assert again.status()["complete"]
    assert digests(again, "aggregate/**/*") == whole
    assert [p.name.split("-", 2)[2] for p in found(path.parent, "_bad-*")] == [path.name]


@pytest.mark.slow
def test_the_verbs_take_an_address(output, tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(toy_mapping(output / "verbs", **SMALL)))

    def said(*argv):
        assert main([*argv, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert said("plan", str(config))["path"].startswith(str(output).partition("?")[0])
    run = said("run", str(config), "--local")["path"]
    assert said("plan", str(config))["done"] == 2
    assert said("status", run)["complete"]
    assert said("resume", run, "--local")["complete"]
    assert said("failures", run)["missing"] == 0
    assert said("show", run)["path"] == run
    assert place(said("report", run)["report"]).is_file()
    (first, *_) = said("export", run, "--format", "csv")["files"]
    assert place(first).read_text(encoding="utf-8").startswith("task,")
    assert [one["run"] for one in said("list", str(output / "verbs"))["runs"]] == [place(run).name]
    assert said("run", str(config), "--local", "--extend", run, "--set", "methods.0.name=eap_ig")["complete"]


def test_the_log_and_a_wish_to_stop_lie_in_the_store_too(there, monkeypatch):
    said = read_log(there.path)
    assert (said[0]["kind"], said[-1]["kind"]) == ("session", "end")
    assert sum(line["kind"] == "item" for line in said) == len(there.directory.items)
    monkeypatch.setattr("pipeline.schedule.control.POLL_SECONDS", 0.01)
    with pytest.raises(KeyboardInterrupt), lock.locked(there.path) as me, closing(Watch(there.path, me)):  # noqa: PT012
        (there.path / ".cancel").write_bytes(b"")
        wait_to_be_interrupted()
    assert not (there.path / ".cancel").exists()


def test_no_run_in_a_store_is_one_line(output, capsys):
    assert main(["status", str(output / "nothing")]) == 1
    assert "no such run directory" in capsys.readouterr().err


@pytest.mark.slow
def test_a_store_that_refuses_for_good_ends_the_run_and_the_same_command_goes_on(output, monkeypatch):
    config = toy_config(output / "refusing", **SMALL | TWO_SHARDS)

    def put(self, source, size, real=ObjectPath.put):
        if "/scores/" in str(self):
            raise StorageError(f"{self}: the store has refused (ACCESS_DENIED)")
        return real(self, source, size)

    events = []
    with monkeypatch.context() as patch:
        patch.setattr(ObjectPath, "put", put)
        run = discover(config, local=True, on_event=events.append)
    status = run.status()
    assert (status["done"], status["failed"], status["complete"]) == (1, 1, False), (
        "the first baseline, one failure"
    )
    (record,) = run.failures()
    assert record["failure"] == "storage"
    assert "ACCESS_DENIED" in record["message"]
    assert f"then: circuits resume {run.path}" in record["next_step"]
    assert "can no longer be written" in events[-1].text
    assert discover(config, local=True).status()["complete"]


# --- secrets -----------------------------------------------------------------------------------------------


def test_nothing_that_is_written_or_said_holds_a_secret(there, tmp_path, capfd):
    secrets = [KEYS["AWS_ACCESS_KEY_ID"].encode(), KEYS["AWS_SECRET_ACCESS_KEY"].encode()]
    contents = {path: path.read_bytes() for path in found(there.path, "**/*")}
    assert len(contents) > 20
    main(["status", str(there.path)])
    main(["status", "s3://no-such-bucket/x?endpoint_override=" + str(there.path.store.endpoint)])
    contents["said"] = "".join(capfd.readouterr()).encode()
    assert [path for path, content in contents.items() if any(secret in content for secret in secrets)] == []


def test_credentials_in_an_address_are_refused_wherever_it_is_given(tmp_path, capsys):
    address = "s3://AKIAEXAMPLE:topsecret@bucket/x"
    mapping = toy_mapping(tmp_path)
    with pytest.raises(ConfigError, match="output: "):
        RunConfig.from_mapping(mapping | {"output": address})
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(mapping | {"output": address}))
    fine = tmp_path / "fine.yaml"
    fine.write_text(json.dumps(mapping))
    for argv in (
        ["plan", config],
        ["run", fine, "--run-dir", address],
        ["status", address],
        ["list", address],
    ):
        assert main(list(map(str, argv))) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "AWS_ACCESS_KEY_ID" in said
        assert "topsecret" not in said
        assert "AKIAEXAMPLE" not in said
