"""Links and pipes in run directories that somebody else has made: nothing goes through one that leads out."""

import os
import shutil

import pytest

from tests.security.conftest import refused
from tests.security.hostile import READERS, call

LINKS = {
    "scores": "a folder that is read and written",
    "prompts.parquet": "a file that is read",
    "manifest.json": "the first file",
    "report.html": "a file that is written",
    ".reserve": "a file that is overwritten",
    ".lock": "the lock",
    ".lock-guard": "a file that is opened",
    "circuits": "a folder whose files are replaced",
    "failures": "a folder that is removed",
    "aggregate/task=induction": "a folder further down",
    "scores/task=induction/method=eap/shard-00000.parquet": "an item's file",
}


@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize("name", LINKS)
def test_links_that_lead_out(circuits, place, run, verb, name):
    link = run / name
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    link.parent.mkdir(parents=True, exist_ok=True)
    is_file = "." in link.name
    link.symlink_to(place.outside / "table.parquet" if is_file else place.outside)
    refused(call(circuits, verb, run), [1], [str(link), "outside of the run", "remove it"])


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["", "dry run"])
@pytest.mark.parametrize("name", [".lock-guard", ".lock", "_bad", ".x.tmp-1", "scores/_bad-1"])
def test_gc_leaves_a_run_with_such_a_link_alone(circuits, place, run, name, options):
    link = run / name
    link.unlink(missing_ok=True)
    link.symlink_to(place.outside if "_bad" in name else place.outside / "new")
    said = circuits("gc", run, *options)
    assert said.code == 0
    assert f"left alone, {link}: a link to {place.outside}" in said.out
    assert len(said.out.splitlines()) == 2
    assert link.is_symlink()


@pytest.mark.parametrize("name", LINKS)
def test_verify_names_such_a_link(circuits, place, run, name):
    link = run / name
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    link.symlink_to(place.outside / "table.parquet" if "." in link.name else place.outside)
    said = circuits("verify", run)
    assert said.code in (1, 3)
    words = [line for line in (said.out + said.err).splitlines() if "outside of the run" in line]
    assert len(words) == 1
    assert name in words[0]


def test_a_new_run_does_not_write_through_links_either(circuits, config_file, place):
    folder = place.path / "new"
    folder.mkdir()
    (folder / ".reserve").symlink_to(place.outside / "thesis.json")
    said = circuits("run", config_file(), "--run-dir", folder, "--local")
    refused(said, [1], [".reserve", "outside of the run"])


def test_a_link_into_nothing_outside(circuits, place, run):
    (run / "scores" / "x").symlink_to(place.path / "nowhere")
    refused(circuits("status", run), [1], ["scores/x", "outside of the run"])


def test_links_within_a_run_and_to_a_run_are_fine(circuits, place, run):
    (run / "latest").symlink_to(run / "scores")
    (place.path / "alias").symlink_to(run)
    assert circuits("status", place.path / "alias").code == 0


def test_pipes_do_not_keep_a_reader_waiting(circuits, run):
    (run / "plan.json").unlink()
    os.mkfifo(run / "plan.json")
    refused(circuits("status", run), [1], ["plan.json", "neither a file nor a folder"])
