"""Prompts that pass by once: the same digests, lengths and rows as of a list that is held, also from a file."""

import json

import numpy as np
import pytest

from pipeline.config import RunConfig
from pipeline.core.items import digest
from pipeline.core.prompts import PromptPair, TokenPair
from pipeline.schedule import Plan, make_plan, work_table
from pipeline.schedule.listeners import heard_by
from pipeline.schedule.task_prompts import TaskPrompts
from pipeline.store.run import prompts_file as prompt_files
from pipeline.store.run import spill
from pipeline.verify import verify
from tests.configs import config


def token(i: int) -> TokenPair:
    clean = tuple(range(i, i + 2 + i % 3))
    corrupted = (*clean[:-1], 99)
    spans = {"odd": (0, 1), "rest": (1, 2)} if i % 2 else {}
    pair = PromptPair(
        f"a {i} é", f"b {i}", (" c", " d"), (), f"x:{i}", spans, notes={"n": i} if i == 5 else {}
    )
    return TokenPair(i, clean, corrupted, (1, 2), (), pair, spans)


def plain(t: TokenPair) -> list:
    pair = t.pair
    return [
        t.clean, t.corrupted, t.answers, t.wrong_answers, pair.clean, pair.corrupted, pair.answers, pair.wrong_answers
    ]  # fmt: skip


@pytest.fixture(params=["in memory", "in a file"])
def where(request, monkeypatch):
    if request.param == "in a file":
        monkeypatch.setattr("pipeline.schedule.task_prompts.CHUNK", 7)
        monkeypatch.setattr(spill.Spill.__init__, "__defaults__", (1,))


@pytest.mark.parametrize("n", [1, 12, 50])
@pytest.mark.parametrize("per_shard", [1, 5, 12, 1000])
@pytest.mark.usefixtures("where")
def test_digests_are_those_of_the_whole_lists(n, per_shard):
    tokens = [token(i) for i in range(n)]
    shards = [tokens[i : i + per_shard] for i in range(0, n, per_shard)]
    found = TaskPrompts(iter(tokens), per_shard, ["odd"])
    assert found.digest == digest([plain(t) for t in tokens])
    assert found.shard_digests == [digest([plain(t) for t in shard]) for shard in shards]
    assert found.span_digests == {"odd": digest([t.spans.get("odd") for t in tokens])}
    assert found.span_shard_digests["odd"] == [
        digest([t.spans.get("odd") for t in shard]) for shard in shards
    ]
    assert [list(found)[i] for i in found.of_shard(len(shards) - 1)] == shards[-1]
    assert found.n_shards == len(shards)


@pytest.mark.usefixtures("where")
def test_it_reads_as_the_list_that_it_was_given():
    tokens = [token(i) for i in range(50)]
    found = TaskPrompts(tokens, 8, ["odd"])
    assert found == tokens
    assert (len(found), found[-1], found[49]) == (50, tokens[-1], tokens[-1])
    for cut in (slice(0, 3), slice(6, 15), slice(-3, None), slice(40, 90), slice(9, 2), slice(3, 40, 5)):
        assert found[cut] == tokens[cut]
    assert found.lengths.tolist() == [t.length for t in tokens]
    assert np.flatnonzero(found.has_span("odd")).tolist() == list(range(1, 50, 2))
    assert found.span_names == ("odd", "rest")
    assert found.differs
    assert found.has_notes
    with pytest.raises(IndexError):
        found[50]


def plan(tmp_path, n: int = 40, **changes) -> Plan:
    pairs = [
        {
            "clean": [i % 7 + 1, 2, 3],
            "corrupted": [i % 7 + 1, 4, 3],
            "answers": [1],
            "wrong_answers": [2],
            "id": i,
        }
        for i in range(n)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    tasks = [
        {"name": "file", "path": str(path)},
        {"name": "file", "path": str(path), "limit": 9, "as": "few"},
    ]
    return make_plan(config(tasks=tasks, shards={"prompts": 3}, **changes))


def test_prompts_are_looked_at_once_however_many_items_there_are(tmp_path, monkeypatch):
    a_plan = plan(tmp_path, methods=[{"name": "eap"}, {"name": "eap_ig"}, {"name": "node_patching"}])

    def read_again(*_):
        raise AssertionError("prompts were read again")

    for name in ("__getitem__", "__iter__"):
        monkeypatch.setattr(TaskPrompts, name, read_again)
    assert len(a_plan.item_keys) == len(a_plan.items) == 4 * (14 + 3)
    assert a_plan.run_key
    assert sum(row["forward_passes"] for row in work_table(a_plan)) == a_plan.total.forward_passes
    assert a_plan.memory_bytes
    assert len(a_plan.to_dict()["items"]) == len(a_plan.items)


def test_a_large_file_of_prompts_is_written_and_read_in_parts(tmp_path, monkeypatch):
    a_plan = plan(tmp_path)
    whole = a_plan.write(tmp_path / "whole")
    monkeypatch.setattr(prompt_files, "WHOLE", 20)
    monkeypatch.setattr(prompt_files, "PART", 7)
    parts = a_plan.write(tmp_path / "parts")
    for task, tokens in a_plan.tokens.items():
        assert whole.prompts(task) == parts.prompts(task) == tokens
        assert parts.prompts(task)[0].pair.notes == {"id": 0}
        for shard in range(tokens.n_shards):
            places = tokens.of_shard(shard)
            assert parts.prompts(task, shard) == tokens[places.start : places.stop]
    read = []
    monkeypatch.setattr(prompt_files, "read_part", lambda *args: read.append(args[2]) or args[2])
    assert len(list(prompt_files.read_prompts(tmp_path / "parts" / "prompts.parquet", "pairs", 2))) == 1
    assert read == [[1]]


def test_every_part_is_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_files, "WHOLE", 20)
    monkeypatch.setattr(prompt_files, "PART", 7)
    path = plan(tmp_path).write(tmp_path / "run").path
    assert [one.file for one in verify(path).damaged] == []
    content = bytearray((path / "prompts.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (path / "prompts.parquet").write_bytes(content)
    assert [one.file for one in verify(path).damaged] == ["prompts.parquet"]


def test_planning_tells_how_far_it_is(tmp_path):
    told = []
    a_plan = plan(tmp_path)
    with heard_by(lambda *progress: told.append(progress)):
        make_plan(a_plan.config)
    assert told == [("pairs", 40, 1.0), ("few", 9, pytest.approx(1.0))]
    told.clear()
    with heard_by(lambda *progress: told.append(progress)):
        make_plan(config(tasks=[{"name": "induction", "count": 1500}]))
    make_plan(a_plan.config)
    assert told == [("induction", 1024, pytest.approx(1024 / 1500)), ("induction", 1500, 1.0)]


def test_what_a_config_derives_is_derived_once_and_never_from_another(tmp_path):
    one = RunConfig.from_mapping(plan(tmp_path).config.to_mapping())
    assert one.method_ids is one.method_ids
    assert one.task_ids is one.task_ids
    other = one.model_copy(update={"tasks": one.tasks[:1]})
    assert list(other.task_ids) == ["pairs"]
    assert list(one.task_ids) == ["pairs", "few"]
    assert one.anchored() == one
