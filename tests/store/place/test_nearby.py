import os

import pytest

from pipeline.core.errors import RunDirectoryError
from pipeline.store.place.nearby import refuse_what_is_no_run
from pipeline.store.run.opened import open_run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a folder of runs, the last name the one planned last."""
    for age, name in enumerate(["names-1f", "names-9a", "other-00"]):
        manifest = tmp_path / "results" / name / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.write_text("{}")
        os.utime(manifest, (age, age))
    (tmp_path / "results" / "names-no-run").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(path) -> str:
    with pytest.raises(RunDirectoryError) as raised:
        open_run(path)
    return str(raised.value)


def test_a_folder_of_runs_names_them_newest_first(folder):
    said = refusal("results")
    assert said == (
        f"results: holds runs and is none itself in {folder}; name one: "
        "results/other-00, results/names-9a, results/names-1f"
    )


def test_the_beginning_of_a_name_names_the_runs_that_are_called_so(folder):
    said = f"no such run directory in {folder}; did you mean results/names-9a, results/names-1f?"
    assert refusal("names") == f"names: {said}"
    assert refusal("results/names") == f"results/names: {said}"


def test_many_runs_are_counted_and_not_named(folder):
    for number in range(6):
        (folder / "results" / f"more-{number}").mkdir()
        (folder / "results" / f"more-{number}" / "manifest.json").touch()
    assert refusal("more").endswith(" and 2 more?")


@pytest.mark.parametrize("name", ["nothing-so-called", "names[12]*", "*"])
def test_what_nothing_is_called_like_has_no_suggestion(folder, name):
    assert refusal(name) == f"{name}: no such run directory in {folder}; `circuits run CONFIG` makes one"


def test_an_absolute_path_names_no_folder_beside_itself(folder):
    assert refusal(folder / "nowhere") == (
        f"{folder / 'nowhere'}: no such run directory; `circuits run CONFIG` makes one"
    )


def test_any_other_folder_is_left_to_who_reads_it(folder):
    refuse_what_is_no_run(folder / "empty")
    refuse_what_is_no_run(folder / "results" / "names-1f")
