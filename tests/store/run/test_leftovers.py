"""What is swept away, what is found damaged, and what is left alone."""

import json
import os
import time
from dataclasses import asdict, replace

import pyarrow.parquet as pq
import pytest

from flows.cli import main
from pipeline import discover
from pipeline.core.errors import RunDirectoryError
from pipeline.store.place.atomic import make_folder
from pipeline.store.place.lock import LOCK_NAME, locked
from pipeline.store.place.owners import this_process
from pipeline.store.place.where import Place, found, relative
from pipeline.store.run.leftovers import sweep
from pipeline.verify import lines, verify
from tests.object_store import folder_in
from tests.runs import score_files, toy_config
from tests.slowly import slow
from tests.store.example import copy_of, flip_a_bit

DEAD_PID = 2**22 + 1


def names(folder: Place) -> list[str]:
    return [
        str(relative(path, folder)) for path in found(folder, "**/*") if path.name != f"{LOCK_NAME}-guard"
    ]


def leave(run: Place) -> None:
    """What a killed driver and a damaged file leave."""
    make_folder(run / "scores")
    (run / "scores" / "_bad-1234-shard-00000.parquet").write_bytes(b"12")
    (run / ".reserve").write_bytes(b"1")
    (run / LOCK_NAME).write_text(json.dumps(asdict(replace(this_process(), pid=DEAD_PID))))


# --- gc ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shelf", ["local", *slow("s3")], indirect=True)
def test_what_dead_writers_left_goes_and_the_rest_stays(complete):
    before = names(complete.path)
    leave(complete.path)
    left = sorted([".lock", ".reserve", "scores/_bad-1234-shard-00000.parquet"])
    (would,) = sweep(complete.path, dry_run=True)
    assert sorted(name for name, _ in would.files) == left
    assert len(names(complete.path)) == len(before) + 3, "a dry run removes nothing"
    (swept,) = sweep(complete.path)
    assert sorted(name for name, _ in swept.files) == left
    assert dict(swept.files)["scores/_bad-1234-shard-00000.parquet"] == 2
    assert names(complete.path) == before
    assert sweep(complete.path)[0].files == ()


def test_temporary_files_go_when_they_are_an_hour_old(run):
    old, fresh = run.path / "scores" / ".a.tmp-1", run.path / "scores" / ".b.tmp-2"
    old.parent.mkdir()
    for path in (old, fresh):
        path.write_text("half")
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    (swept,) = sweep(run.path)
    assert [name for name, _ in swept.files] == ["scores/.a.tmp-1"]
    assert fresh.exists()


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_run_that_somebody_works_on_is_left_alone(run, dry_run):
    leave(run.path)
    with locked(run.path):
        before = names(run.path)
        (swept,) = sweep(run.path, dry_run=dry_run)
        assert str(os.getpid()) in swept.left_alone
        assert swept.files == ()
        assert names(run.path) == before


def test_a_folder_of_runs_is_swept_run_by_run(new_run, shelf, capsys):
    for name in ("one", "two"):
        leave(new_run(name).path)
    (shelf / "thesis").mkdir()
    (shelf / "thesis" / "_bad-idea.txt").write_text("mine")
    assert main(["gc", str(shelf), "-n"]) == 0
    assert "6 files" in (said := capsys.readouterr().out)
    assert "would be removed" in said
    assert main(["gc", str(shelf), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2
    assert (shelf / "thesis" / "_bad-idea.txt").exists()
    assert main(["gc", str(shelf / "thesis")]) == 1
    assert "no run directory" in capsys.readouterr().err


# --- verify ------------------------------------------------------------------------------------------------

CHANGES = {
    "methods": [{"name": "eap"}, {"name": "node_patching"}, {"name": "acdc", "threshold": 0.01}],
    "ablation": "mean",
    "store": {"prompt_scores": True},
    "tasks": [{"name": "induction", "count": 4}],
    "shards": {"prompts": 2},
    "evaluate": {"edge_fractions": [0.5]},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A complete run with a file of every kind."""
    return discover(toy_config(tmp_path_factory.mktemp("results"), **CHANGES), local=True).path


@pytest.mark.parametrize("shelf", ["local", *slow("s3")], indirect=True)
def test_a_whole_run_is_whole(whole, shelf, capsys):
    run = copy_of(whole, shelf)
    verified = verify(run)
    assert (verified.damaged, verified.missing) == ((), 0)
    kinds = {relative(path, run).parts[0] for path in found(run, "**/*") if path.name[0] not in "._"}
    assert {
        "scores",
        "node_scores",
        "prompt_scores",
        "statistics",
        "decisions",
        "circuits",
        "aggregate",
    } <= kinds
    data = [p for p in found(run, "**/*") if p.name[0] not in "._" or p.name == "_SUCCESS.json"]
    assert verified.files == len(data), "every file is looked at"
    assert main(["verify", str(run)]) == 0
    assert "0 damaged" in capsys.readouterr().out


EVERY = [
    "_SUCCESS.json",
    "aggregate/task=induction/method=eap/merged.parquet",
    "circuits/induction--eap--0.5.json",
    "evaluations/*/shard-00001.parquet",
    "decisions/*/*/step-*.json",
    "faithfulness.parquet",
    "graph.parquet",
    "manifest.json",
    "node_aggregate/**/merged.parquet",
    "node_scores/**/shard-00001.parquet",
    "nodes.parquet",
    "plan.json",
    "prompt_metrics/**/shard-00000.parquet",
    "prompt_scores/**/shard-00000.parquet",
    "prompts.parquet",
    "report.html",
    "run.yaml",
    "scores/task=induction/method=eap/shard-00001.parquet",
    "statistics/**/*.safetensors",
]


@pytest.mark.parametrize("how", ["flipped", *slow("torn")])
def test_every_damaged_file_is_one_line_with_what_to_type(whole, tmp_path, how, capsys):
    for number, pattern in enumerate(EVERY):
        run = copy_of(whole, tmp_path / str(number))
        path = found(run, pattern)[0]
        damage(path, how)
        assert main(["verify", str(run)]) == 3, path
        said = capsys.readouterr().out.splitlines()
        name = str(relative(path, run))
        assert [line for line in said if line.startswith(f"{name}: ") and "; next: " in line], (name, said)


def damage(path: Place, how: str) -> None:
    content = bytearray(path.read_bytes())
    place = {
        "run.yaml": content.find(b"tasks:") + 5,
        "manifest.json": content.find(b'"seed": 0') + 8,
        "plan.json": content.find(b'"run_key": "') + 15,
    }.get(path.name)
    if how == "torn":
        del content[len(content) // 2 :]
    elif place is not None:
        content[place] ^= 0x01
    elif path.suffix == ".json":  # the last digit
        content[max(content.rfind(digit) for digit in b"0123456789")] ^= 0x01
    elif path.suffix == ".parquet":  # the end of the first column's last page
        column = pq.read_metadata(path).row_group(0).column(0)
        first = column.dictionary_page_offset or column.data_page_offset
        content[first + column.total_compressed_size - 3] ^= 0x10
    else:
        content[-1] ^= 0x10
    path.write_bytes(bytes(content))


def test_what_is_missing_is_damage_only_where_the_run_says_that_it_is_complete(whole, tmp_path):
    run = copy_of(whole, tmp_path)
    score_files(run)[0].unlink()
    (one,) = verify(run).damaged
    assert "not there" in one.reason
    (run / "_SUCCESS.json").unlink()
    verified = verify(run)
    assert (verified.damaged, verified.missing) == ((), 1)


def test_a_file_of_nothing_in_the_plan_is_named(whole, tmp_path):
    run = copy_of(whole, tmp_path)
    stray = run / "scores" / "task=induction" / "method=eap" / "shard-00099.parquet"
    stray.write_bytes(score_files(run)[-1].read_bytes())
    (line,) = lines(verify(run))
    assert "shard-00099.parquet: belongs to nothing in the plan; next: remove " in line


@pytest.mark.slow
def test_what_verify_names_is_mended_by_what_it_says(whole, tmp_path):
    run = copy_of(whole, tmp_path)
    (run / "faithfulness.parquet").write_bytes((run / "faithfulness.parquet").read_bytes()[:-20])
    (run / "circuits" / "induction--eap--0.5.json").write_text("{}")
    flip_a_bit(score_files(run)[-1])
    damaged = verify(run).damaged
    assert {one.next_step for one in damaged} == {f"circuits resume {run}"}
    assert len(damaged) == 2, "circuits are those of a table that can be read"
    assert main(["resume", str(run), "--local"]) == 0
    assert verify(run).damaged == ()
    (run / "circuits" / "induction--eap--0.5.json").write_text("{}")
    assert len(verify(run).damaged) == 1
    assert main(["resume", str(run), "--local"]) == 0
    assert verify(run).damaged == ()


def test_no_run_is_one_line(tmp_path, object_store):
    for nowhere in (tmp_path / "x", folder_in(object_store)):
        with pytest.raises(RunDirectoryError, match="no such run directory"):
            verify(nowhere)
