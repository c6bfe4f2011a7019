"""Few large files in place of many: nothing that is read changes, and nothing is lost on the way."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from flows.cli import main
from pipeline import discover, load_scores, open_run
from pipeline.core.errors import RunDirectoryError
from pipeline.core.items import Item
from pipeline.store.place.lock import locked
from pipeline.store.place.where import found, relative
from pipeline.store.run.aggregate import aggregate
from pipeline.store.run.compact import compact
from pipeline.store.run.files import DamagedFileError, read_parquet, write_parquet
from pipeline.store.run.run_dir import RunDirectory
from pipeline.verify import verify
from tests.fileops import listening
from tests.runs import toy_config
from tests.slowly import slow
from tests.store.example import METHODS, copy_of, flip_a_bit, payload_of, plan_of


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A complete run of 6 shards of one task and one of another, merged; to be read only."""
    plan = plan_of({"ioi": 6, "gt": 1}, METHODS, prompt_scores={"eap": "float32"})
    run = RunDirectory.create(tmp_path_factory.mktemp("made") / "run", **plan)
    for item in run.items:
        run.commit(item, payload_of(item), {"attempt": 1, "seconds": 0.5 + item.shard})
    assert aggregate(run) == []
    run.mark_complete()
    return run.path


@pytest.fixture
def merged(made, shelf):
    """A copy of it."""
    return RunDirectory.open(copy_of(made, shelf))


def everything(path):
    """All that readers get to see, as text."""
    run = open_run(path)
    frames = {method: run.scores(method=method, level="shard") for method in METHODS}
    frames |= {f"{method} merged": run.scores(method=method) for method in METHODS}
    frames |= {f"{task} baseline": run.baseline(task) for task in run.tasks}
    frames["by prompt"] = run.prompt_scores("eap", "ioi")
    frames["footers"] = run.footers()
    seen = {name: pd.util.hash_pandas_object(frame.astype(str)).tolist() for name, frame in frames.items()}
    return seen | {"status": run.status(), "done": sorted(run.directory.done(deep=True, rename=False))}


def merged_bytes(run):
    return {str(relative(p, run.path)): p.read_bytes() for p in found(run.path, "*aggregate/**/*.parquet")}


def loose(path):
    return [p for p in found(path, "**/shard-*.parquet") if "prompt_scores" not in str(p)]


@pytest.mark.parametrize("shelf", ["local", *slow("s3")], indirect=True)
def test_nothing_that_is_read_changes(merged):
    before, aggregates = everything(merged.path), merged_bytes(merged)
    done = compact(merged.path)
    assert (done.files, done.packs) == (6 * 4, 4)  # baseline, eap, acdc, patch of the task with 6 shards
    assert len(loose(merged.path)) == 4, "one shard alone is no pack"
    assert everything(merged.path) == before
    fresh = RunDirectory.open(merged.path)
    assert aggregate(fresh) == []
    assert merged_bytes(fresh) == aggregates
    assert compact_again(fresh) == (0, 0)


def compact_again(run):
    run.mark_complete()
    done = compact(run.path)
    return done.files, done.packs


def test_other_programs_read_the_same_rows(merged):
    folder = merged.path / "scores" / "task=ioi" / "method=eap"
    rows = pd.read_parquet(folder).sort_values(["shard", "edge_id"], ignore_index=True)
    compact(merged.path)
    assert [path.name for path in folder.iterdir()] == ["pack-00000.parquet"]
    assert pd.read_parquet(folder).sort_values(["shard", "edge_id"], ignore_index=True).equals(rows)


def test_a_run_is_cut_into_packs_of_a_size(merged, monkeypatch):
    monkeypatch.setattr("pipeline.store.run.packs._PACK_BYTES", 0)
    monkeypatch.setattr("pipeline.store.run.packs._FEWEST_SHARDS", 4)
    before = everything(merged.path)
    assert compact(merged.path).packs == 4 * 2  # of 4 shards, and of the 2 that are left
    assert everything(merged.path) == before


@pytest.mark.slow
def test_a_compaction_that_is_killed_at_any_step_loses_nothing_and_goes_on(new_run, monkeypatch):
    run = new_run(tasks={"ioi": 2}, methods={"eap": "edge"}, statistics=False)
    for item in run.items:
        run.commit(item, payload_of(item))
    aggregate(run)
    run.mark_complete()
    seen = {method: open_run(run.path).scores(method=method, level="shard") for method in ("eap",)}
    steps = []

    class Killed(BaseException):
        pass

    def counted(real):
        def step(self, *arguments, **options):
            if self.suffix == ".parquet" or ".parquet." in self.name:
                steps.append(self.name)
                if len(steps) == limit:
                    raise Killed
            return real(self, *arguments, **options)

        return step

    for name in ("replace", "unlink"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    limit = killed = 0
    while True:
        limit += 1
        copy = run.path.with_name(f"killed-{limit}")
        shutil.copytree(run.path, copy)
        steps.clear()
        try:
            compact(copy)
        except Killed:
            killed += 1
        else:
            break
        assert RunDirectory.open(copy).done(deep=True, rename=False) == set(run.items), steps
        for method, frame in seen.items():
            pd.testing.assert_frame_equal(open_run(copy).scores(method=method, level="shard"), frame)
        steps[:] = ["more than any limit"] * 100
        compact(copy)
        assert loose(copy) == []
        assert RunDirectory.open(copy).done(deep=True, rename=False) == set(run.items)
    assert killed == 2 * (1 + 2), "before each of two packs has its name, and before each of four files goes"


def flip_in_pack(pack, shard):
    content = bytearray(pack.read_bytes())
    column = pq.read_metadata(pack).row_group(shard).column(pq.read_schema(pack).names.index("score"))
    content[column.data_page_offset + column.total_compressed_size - 3] ^= 0x10
    pack.write_bytes(content)


def test_damage_in_a_pack_costs_one_shard(merged):
    aggregates = merged_bytes(merged)
    compact(merged.path)
    pack = merged.path / "scores" / "task=ioi" / "method=eap" / "pack-00000.parquet"
    flip_in_pack(pack, 3)
    run = RunDirectory.open(merged.path)
    lost = Item("scores", "ioi", "eap", 3)
    assert run.done(deep=True, rename=False) == set(run.items) - {lost}
    assert aggregate(run) == [lost]
    assert not pack.exists()
    assert len(found(pack.parent, "_bad-*-pack-00000.parquet")) == 1
    assert run.done(deep=True) == set(run.items) - {lost}
    run.commit(lost, payload_of(lost), {"attempt": 1, "seconds": 3.5})
    assert aggregate(run) == []
    assert merged_bytes(run) == aggregates
    run.mark_complete()
    assert compact(run.path).files == 6


def test_a_torn_pack_is_set_aside_and_its_items_are_computed_again(merged):
    compact(merged.path)
    pack = merged.path / "scores" / "task=ioi" / "method=eap" / "pack-00000.parquet"
    pack.write_bytes(pack.read_bytes()[:-100])
    run = RunDirectory.open(merged.path)
    gone = {item for item in run.items if (item.task, item.method) == ("ioi", "eap")}
    assert run.done() == set(run.items) - gone
    assert not pack.exists()
    for item in gone:
        run.commit(item, payload_of(item))
    assert run.done(deep=True) == set(run.items)


def test_a_run_that_is_not_complete_or_in_use_is_left_alone(merged, capsys):
    before = {str(p): p.stat().st_mtime_ns for p in loose(merged.path)}
    with locked(merged.path), pytest.raises(RunDirectoryError, match="in use"):
        compact(merged.path)
    merged.mark_incomplete()
    assert main(["compact", str(merged.path)]) == 1
    said = capsys.readouterr().err
    assert "not complete (30 of 30 items" in said
    assert f"circuits resume {merged.path}" in said
    merged.mark_complete()
    loose(merged.path)[0].unlink()
    assert main(["compact", str(merged.path)]) == 1
    assert "29 of 30" in capsys.readouterr().err
    assert {str(p): p.stat().st_mtime_ns for p in loose(merged.path)}.items() <= before.items()


def test_damage_stops_it_before_anything_goes(merged):
    path = merged.path / "scores" / "task=ioi" / "method=eap" / "shard-00003.parquet"
    flip_a_bit(path)
    with pytest.raises(RunDirectoryError, match="circuits verify"):
        compact(merged.path)
    assert len(found(path.parent, "shard-*")) == 6
    assert found(path.parent, "*pack*") == []


@pytest.mark.slow
@pytest.mark.parametrize("shelf", ["local", "s3"], indirect=True)
def test_a_real_run_is_verified_resumed_and_extended_after_it(shelf, capsys):
    small = {"tasks": [{"name": "induction", "count": 6}], "shards": {"prompts": 2}}
    config = toy_config(shelf, methods=[{"name": "eap"}, {"name": "node_patching"}], **small)
    run = discover(config, local=True)
    before = load_scores(run.path), load_scores(run.path, level="shard")
    facts = run.status()
    assert main(["compact", str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == 9
    assert main(["verify", str(run.path)]) == 0, capsys.readouterr().out
    again = open_run(run.path)
    assert again.status() == facts
    for level, frame in zip(("aggregate", "shard"), before, strict=True):
        pd.testing.assert_frame_equal(load_scores(run.path, level=level), frame)
    events = []
    discover(config, local=True, on_event=events.append)
    assert events == [], "nothing is left to do"
    more = toy_config(shelf, methods=[{"name": "eap_ig"}], **small)
    extended = discover(more, local=True, extend=run.path, on_event=events.append)
    assert [e.text for e in events if e.kind == "item"] == [f"induction/eap_ig/{i}" for i in range(3)]
    assert extended.status()["complete"]
    assert verify(run.path).damaged == ()
    assert compact(run.path).files == 3
    assert open_run(run.path).status()["complete"]


@pytest.mark.parametrize(
    "shards",
    [
        "[]",
        "{",
        '{"../../x": {"rows": "1"}}',
        '{"-1": {"rows": "0"}}',
        '{"0": {"rows": "-5"}}',
        '{"0": {"rows": "9999999"}}',
        '{"0": {"rows": 3}}',
    ],
)
def test_a_pack_that_lies_about_its_shards_is_damaged(merged, shards):
    compact(merged.path)
    pack = merged.path / "scores" / "task=ioi" / "method=eap" / "pack-00000.parquet"
    rows = read_parquet(merged.path / "scores" / "task=gt" / "method=eap" / "shard-00000.parquet")
    write_parquet(pack, rows, {"shards": shards})
    run = RunDirectory.open(merged.path)
    with pytest.raises(DamagedFileError):
        run.check(Item("scores", "ioi", "eap", 0))
    run.set_aside(Item("scores", "ioi", "eap", 0))
    assert not pack.exists()
    assert found(pack.parent, "shard-*") == []


def of_items(run):
    """What `verify` says of the files of items."""
    folders = ("scores", "node_scores", "prompt_metrics", "statistics", "prompt_scores")
    return [one for one in verify(run).damaged if one.file.startswith(folders)]


@pytest.mark.slow
def test_verify_finds_nothing_wrong_at_any_moment_of_a_compaction(new_run):
    run = new_run(tasks={"gt": 3})
    for item in run.items:
        run.commit(item, payload_of(item))
    run.mark_complete()
    moments = []

    def look(operation):
        if operation.kind in ("rename", "remove") and "parquet" in operation.path:
            moments.append(operation)
            assert of_items(run.path) == []

    with listening(run.path, look):
        compact(run.path)
    assert len(moments) == 4 + 12, "a pack for the baseline and each method, and every file that goes"
    assert of_items(run.path) == []


def test_both_copies_are_verified_after_a_compaction_that_was_killed(merged):
    class KilledError(BaseException):
        pass

    def kill(operation):
        if operation.kind == "remove" and "shard-00001" in operation.path:
            raise KilledError

    with listening(merged.path, kill), pytest.raises(KilledError):
        compact(merged.path)
    folder = next(path.parent for path in found(merged.path, "**/pack-*"))
    assert len(found(folder, "shard-*")) == 5, "the first has gone, and lies in the pack alone"
    assert of_items(merged.path) == []

    pack = folder / "pack-00000.parquet"
    whole = pack.read_bytes()
    pack.write_bytes(whole[:-100])
    assert {one.file for one in of_items(merged.path)} == {str(relative(pack, merged.path))}
    assert not any("remove" in one.next_step for one in of_items(merged.path))
    pack.write_bytes(whole)
    own = folder / "shard-00002.parquet"
    flip_a_bit(own) if "scores" in str(own) else own.write_bytes(own.read_bytes()[:-50])
    (damage,) = of_items(merged.path)
    assert (damage.file, damage.next_step) == (
        str(relative(own, merged.path)),
        f"circuits resume {merged.path}",
    )
    merged.set_aside(next(item for item in merged.items if merged.path / item.path == own))
    assert of_items(merged.path) == []
    merged.mark_complete()
    compact(merged.path)
    assert of_items(merged.path) == []
    assert RunDirectory.open(merged.path).done(deep=True) == set(merged.items)


def test_nobody_is_told_to_remove_what_an_extension_has_computed(merged):
    """Its plan is gone, and somebody may be about to bring it back."""
    folder = merged.path / "scores" / "task=ioi" / "method=eap"
    shutil.copy(folder / "shard-00000.parquet", folder / "shard-00099.parquet")
    with locked(merged.path):
        (damage,) = of_items(merged.path)
        assert damage.next_step.startswith("verify again when process")
    (damage,) = of_items(merged.path)
    assert damage.next_step == f"remove {folder / 'shard-00099.parquet'}"
    plan = json.loads((merged.path / "plan.json").read_text())
    (merged.path / "plan.json").write_text(json.dumps({**plan, "run_key": "0" * 64}))
    (damage,) = of_items(merged.path)
    assert damage.next_step == f"circuits resume {merged.path}, and verify again"
