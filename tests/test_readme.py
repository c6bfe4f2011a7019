"""The README's files are written, its Python runs from top to bottom, its commands exist."""

import re

import pytest

from pipeline import RunConfig, make_plan

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
