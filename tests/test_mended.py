"""A run directory that has lost something, or whose inputs have gone elsewhere: it goes on from what it has."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from flows.cli import main
from pipeline import open_run
from pipeline.core.errors import RunDirectoryError
from pipeline.models.toy import toy_path
from pipeline.store.place.seal import sealed_text
from pipeline.verify import verify
from tests.fileops import listening
from tests.runs import PAIR, content, toy_mapping


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A project with a model folder, a file of prompts and a config that names both by relative paths; its run is
    complete."""
    project = tmp_path_factory.mktemp("original") / "project"
    shutil.copytree(toy_path("toy:planted"), project / "models" / "small")
    (project / "pairs.jsonl").write_text(f"{json.dumps(PAIR)}\n" * 4)
    first = toy_mapping(
        "results",
        model={"name": "models/small"},
        tasks=[{"name": "file", "path": "pairs.jsonl"}],
        methods=[{"name": "eap"}],
        shards={"prompts": 2},
        evaluate={"edge_fractions": [0.5]},
    )
    (project / "first.yaml").write_text(yaml.safe_dump(first))
    (project / "more.yaml").write_text(yaml.safe_dump(first | {"methods": [{"name": "node_patching"}]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        assert main(["run", "first.yaml", "--run-dir", "run", "--local"]) == 0
    return project


@pytest.fixture
def project(original, tmp_path, monkeypatch):
    """A copy of it, to work in."""
    project = Path(shutil.copytree(original, tmp_path / "project"))
    monkeypatch.chdir(project)
    text = (project / "run" / "run.yaml").read_text().rpartition("# seal:")[0]
    (project / "run" / "run.yaml").write_bytes(sealed_text(text.replace(str(original), str(project)), "# {}"))
    return project


def results(run: Path) -> dict[str, str]:
    return {name: digest for name, digest in content(run).items() if not name.startswith((".", "log"))}


def lose(path: Path) -> None:
    path.unlink()


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def empty(path: Path) -> None:
    path.write_bytes(b"")


slow = pytest.mark.slow


@pytest.mark.parametrize("damage", [lose, pytest.param(tear, marks=slow), pytest.param(empty, marks=slow)])
def test_a_manifest_that_is_lost_is_told_with_what_writes_it_anew(project, damage, capsys):
    damage(project / "run" / "manifest.json")
    for verb in ("status", "show", "failures"):
        assert main([verb, "run"]) == 1
        assert (
            "run/manifest.json: torn or gone; circuits resume run writes it anew" in capsys.readouterr().err
        )
    assert main(["verify", "run"]) == 3
    assert "manifest.json: torn or gone; next: circuits resume run writes it anew" in capsys.readouterr().out
    assert main(["list", "."]) == 0
    assert "cannot be read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "command"),
    [
        (tear, ["resume", "run"]),
        pytest.param(lose, ["resume", "run"], marks=slow),
        pytest.param(tear, ["run", "first.yaml", "--run-dir", "run"], marks=slow),
        pytest.param(lose, ["run", "first.yaml", "--run-dir", "run"], marks=slow),
    ],
)
def test_a_manifest_that_is_lost_is_written_anew_as_it_was(project, damage, command, capsys):
    before = results(project / "run")
    damage(project / "run" / "manifest.json")
    assert main([*command, "--local"]) == 0
    assert "complete, nothing to do: 4 items" in capsys.readouterr().out
    assert results(project / "run") == before
    assert verify(project / "run").damaged == ()


@slow
def test_an_extended_run_whose_manifest_is_lost_goes_on_with_the_config_that_it_began_with(project, capsys):
    assert main(["run", "more.yaml", "--extend", "run", "--local"]) == 0
    before = results(project / "run")
    for command in (["run", "first.yaml", "--run-dir", "run"], ["run", "more.yaml", "--extend", "run"]):
        lose(project / "run" / "manifest.json")
        capsys.readouterr()
        assert main([*command, "--local"]) == 0
        assert "complete, nothing to do: 6 items" in capsys.readouterr().out
        assert results(project / "run") == before


def test_results_whose_manifest_is_lost_are_not_taken_over_by_another_run(project, capsys):
    before = results(project / "run")
    lose(project / "run" / "manifest.json")
    del before["manifest.json"]
    lose(project / "run" / "run.yaml")
    del before["run.yaml"]
    assert main(["run", "first.yaml", "--set", "seed=1", "--run-dir", "run", "--local"]) == 1
    assert "holds another run, whose manifest.json is torn or gone" in capsys.readouterr().err
    assert results(project / "run") == before


def test_a_run_goes_on_without_the_file_that_its_prompts_came_from(project):
    before = results(project / "run")
    (project / "pairs.jsonl").unlink()
    lost = next((project / "run" / "scores").rglob("shard-00001.parquet"))
    lost.unlink()
    item = str(lost.relative_to(project / "run"))
    assert main(["resume", "run", "--local"]) == 0
    after = results(project / "run")
    assert {name for name in after if after[name] != before.get(name)} == {item}
    assert main(["reproduce", "run", "pairs/eap/1"]) == 0
    assert main(["run", "more.yaml", "--extend", "run", "--local"]) == 1, "which names that file"


@slow
def test_other_words_in_that_file_make_another_run_unless_it_is_resumed(project, capsys):
    (project / "pairs.jsonl").write_text(f"{json.dumps(PAIR | {'answers': [3], 'wrong_answers': [2]})}\n" * 4)
    assert main(["run", "first.yaml", "--run-dir", "run", "--local"]) == 1
    assert "tasks.pairs has other contents there" in capsys.readouterr().err
    assert main(["run", "more.yaml", "--extend", "run", "--local"]) == 1
    assert "tasks.pairs has other contents there" in capsys.readouterr().err
    assert main(["resume", "run", "--local"]) == 0
    assert open_run("run").status()["complete"]


def test_a_run_is_extended_with_the_paths_that_it_was_begun_with(project, monkeypatch, capsys):
    assert main(["run", "more.yaml", "--extend", "run", "--local"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    assert main(["run", "first.yaml", "--run-dir", "run", "--local"]) == 0
    assert "nothing to do: 6 items" in capsys.readouterr().out
    moved = project.rename(project.with_name("elsewhere"))
    monkeypatch.chdir(moved)
    assert main(["run", "first.yaml", "--run-dir", "run", "--local"]) == 0, "wherever it lies by now"
    assert "nothing to do: 6 items" in capsys.readouterr().out


@slow
def test_bytes_do_not_depend_on_how_the_model_folder_is_spelled(project, monkeypatch):
    before = results(project / "run")
    spelled = ["models/../models/small", str(project / "models" / "small"), "models/link", "models/copy"]
    (project / "models" / "link").symlink_to("small")
    shutil.copytree("models/small", "models/copy")
    for number, name in enumerate(spelled):
        run = Path(f"run{number}")
        assert (
            main(["run", "first.yaml", "--set", f"model.name={name}", "--run-dir", f"{run}", "--local"]) == 0
        )
        same = {name for name, digest in results(run).items() if digest == before[name]}
        assert {
            name for name in before if name.startswith(("aggregate", "circuits", "faith", "graph"))
        } <= same
        assert number == 3 or same >= {"manifest.json", "plan.json", "report.html"}
    (project / "elsewhere" / "models").mkdir(parents=True)
    shutil.copytree("models/small", "elsewhere/models/small")
    monkeypatch.chdir(project / "elsewhere")
    (project / "run" / "_SUCCESS.json").unlink()
    assert main(["resume", "../run", "--set", "model.name=models/small", "--local"]) == 0
    after = results(project / "run")
    assert {name for name in before if after[name] != before[name]} == {"run.yaml"}, (
        "which says where it lies"
    )


class KilledError(BaseException):
    """As kill -9, as far as files go."""


@pytest.mark.parametrize(
    "name",
    [
        "run.yaml",
        *(pytest.param(name, marks=slow) for name in ("prompts.parquet", "plan.json", "manifest.json")),
    ],
)
def test_an_extension_that_is_killed_anywhere_is_not_complete(project, name):
    def kill(operation):
        if operation.kind == "rename" and operation.path == name:
            raise KilledError

    with listening(project / "run", kill), pytest.raises(KilledError):
        main(["run", "more.yaml", "--extend", "run", "--local"])
    assert not open_run("run").is_complete
    assert not open_run("run").status()["complete"]


def test_a_mark_of_another_plan_marks_nothing(project):
    assert open_run("run").is_complete
    mark = json.loads(Path("run/_SUCCESS.json").read_text())
    for other in ({**mark, "items": 3}, {**mark, "run_key": "0" * 64}, [], "{"):
        Path("run/_SUCCESS.json").write_text(json.dumps(other))
        assert not open_run("run").is_complete


def test_one_run_that_cannot_be_read_does_not_hide_the_others(project, monkeypatch, capsys):
    for name in ("closed", "odd"):
        shutil.copytree("run", name)
    Path("odd/plan.json").write_text("[]")
    real = Path.is_file

    def is_file(path):
        if path.parent.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    monkeypatch.setattr(Path, "is_dir", lambda path: is_file(path) or path.exists())
    (project / "run" / "_bad-1").write_text("left")
    assert main(["list", ".", "--json"]) == 0
    runs = {row["run"]: row for row in json.loads(capsys.readouterr().out)["runs"]}
    assert runs["run"]["complete"]
    assert "Permission denied" in runs["closed"]["error"]
    assert "plan.json" in runs["odd"]["error"]
    assert main(["list", "."]) == 0
    assert "cannot be read" in capsys.readouterr().out


def test_gc_goes_on_where_one_run_cannot_be_read(project, monkeypatch, capsys):
    shutil.copytree("run", "closed")
    (project / "run" / "_bad-1").write_text("left")

    def refuse(folder):
        if folder.name == "closed":
            raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("pipeline.store.run.leftovers.refuse_ways_out", refuse)
    assert main(["gc", "."]) == 0
    said = capsys.readouterr().out
    assert "closed: left alone, [Errno 13] Permission denied" in said
    assert not (project / "run" / "_bad-1").exists()


def test_what_is_no_run_is_still_no_run(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="check the path"):
        open_run(tmp_path)
