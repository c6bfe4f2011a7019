"""The README's files are written, its Python runs from top to bottom, its commands exist; and the way from a notebook
to a cluster in `pipeline/README.md` can be gone as it is written."""

import importlib
import re
import sys
import tomllib
from importlib.metadata import EntryPoint

import pytest

from pipeline import RunConfig, make_plan
from pipeline.core import plugins

BLOCK = re.compile(r"^```(\w+) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def blocks(root):
    """(language, file name, text) of every fenced block that says its language."""
    found = BLOCK.findall((root / "README.md").read_text(encoding="utf-8"))
    assert {"python", "yaml", "jsonl", "sh"} <= {language for language, _, _ in found}
    return found


@pytest.fixture
def folder(blocks, tmp_path, monkeypatch):
    """An empty folder with the README's files in it, as the working directory."""
    for _, name, text in blocks:
        if name:
            (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_of_the_readme_runs_from_top_to_bottom(blocks, folder, capsys):
    names = {}

    for language, _, text in blocks:
        if language == "python":
            exec(compile(text, "README.md", "exec"), names)

    assert "faithfulness" in capsys.readouterr().out
    assert (folder / "results").is_dir()


def test_the_config_of_the_readme_is_what_its_commands_plan(folder):
    plan = make_plan(RunConfig.load("names.yaml"))

    assert {item.task for item in plan.items} == {"ioi", "pairs"}


def test_every_make_target_and_command_of_the_readme_exists(blocks, root):
    typed = [
        line.split("#")[0].split()
        for language, _, text in blocks
        if language == "sh"
        for line in text.splitlines()
    ]
    targets = {words[1] for words in typed if words[:1] == ["make"]}
    commands = {words[1] for words in typed if words[:1] == ["circuits"]}
    assert targets
    assert commands

    makefile = (root / "Makefile").read_text(encoding="utf-8")
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)

    from flows.cli import app

    apps = [app, *(group.typer_instance for group in app.registered_groups)]
    known = {command.name or command.callback.__name__ for one in apps for command in one.registered_commands}
    assert commands <= known


@pytest.fixture
def way(root):
    """The blocks of the section, by language."""
    text = (root / "pipeline" / "README.md").read_text(encoding="utf-8")
    section = text.partition("## From a notebook to a cluster\n")[2].partition("\n## ")[0]
    return {language: block for language, _, block in BLOCK.findall(section)}


@pytest.fixture
def package(way, tmp_path, monkeypatch):
    """The class as a module of a package that is installed while a test runs."""
    project = tomllib.loads(way["toml"])
    (module,) = project["tool"]["setuptools"]["py-modules"]
    written = way["python"].partition("\nmodel = ")[0]  # imports and class, not the three lines that call it
    (tmp_path / f"{module}.py").write_text(written, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    points = {
        group: {name: EntryPoint(name, value, group) for name, value in names.items()}
        for group, names in project["project"]["entry-points"].items()
    }
    monkeypatch.setattr(plugins, "installed", lambda group: points.get(group, {}))
    plugins.load.cache_clear()
    yield module
    plugins.load.cache_clear()
    sys.modules.pop(module, None)


def test_a_method_goes_from_the_notebook_into_a_plan_as_written(way, package, folder, capsys):
    exec(compile(way["python"], "pipeline/README.md", "exec"), {"__name__": "notebook"})
    assert "sender" in capsys.readouterr().out

    (folder / "config.yaml").write_text(way["yaml"], encoding="utf-8")
    plan = make_plan(RunConfig.load("config.yaml"))

    assert plan.config.name == "mine"
    assert {item.method for item in plan.items if item.kind != "baseline"} == {"change_norm", "eap"}


@pytest.mark.parametrize("document", ["pipeline/README.md", "infra/README.md"])
def test_what_is_submitted_to_ray_names_a_folder_that_every_node_sees(document, root):
    text = (root / document).read_text(encoding="utf-8")
    submitted = [line for line in text.splitlines() if line.startswith("circuits submit")]
    to_ray = [line for line in submitted if "--to prefect" not in line]

    assert to_ray
    assert all("--set output=/" in line for line in to_ray)
