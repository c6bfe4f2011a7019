"""Runs whose shards are cut by length, template or time."""

import json

import numpy as np
import pytest

from pipeline.config import RunConfig
from pipeline.core.errors import ConfigError, PromptError
from pipeline.schedule import make_plan, recorded_prompts
from tests.listening import go
from tests.runs import content, toy_config
from tests.slowly import slow

WAYS = (
    {"prompts": 4, "by_length": True},
    {"prompts": 4, "stratify": "kind"},
    {"by_length": True, "stratify": "kind", "minutes": 1, "tokens_per_second": 0.5},
)


@pytest.fixture
def mixed(tmp_path):
    """A config of eleven prompts of 4 to 13 tokens, of two kinds."""
    path = tmp_path / "mine.jsonl"
    rows = []
    for i in range(11):
        n = 1 + (i * 7) % 10
        clean, corrupted = [1, 2, *range(3, 3 + n), 1], [1, 2, *range(3, 3 + n), 4]
        rows.append(
            {"clean": clean, "corrupted": corrupted, "answers": [2], "wrong_answers": [3], "kind": i % 2}
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def made(shards, **changes):
        tasks = [{"name": "file", "path": str(path)}]
        return toy_config(tmp_path, tasks=tasks, methods=[{"name": "eap"}], shards=shards, **changes)

    return made


def shards_of(plan):
    tokens = plan.tokens["mine"]
    return [[tokens[i].prompt_id for i in tokens.of_shard(shard)] for shard in range(tokens.n_shards)]


@pytest.mark.parametrize("shards", WAYS)
def test_items_do_not_depend_on_the_workers_and_hold_every_prompt_once(mixed, shards):
    one, many = (
        make_plan(mixed(shards, cluster={"workers": n, "batch_size": size})) for n, size in ((1, 32), (7, 3))
    )
    assert one.item_keys == many.item_keys
    assert sorted(i for shard in shards_of(one) for i in shard) == list(range(11))
    assert one.n_prompts(one.items[0]) == len(shards_of(one)[0])
    assert len({len(shard) for shard in shards_of(one)}) > 1 or "minutes" not in shards


@pytest.mark.parametrize("shards", [WAYS[0], *slow(*WAYS[1:])])
def test_a_run_holds_each_shard_and_goes_on_from_its_own_record(mixed, shards):
    config = mixed(shards)
    run, _ = go(config)
    assert run.status()["complete"]
    plan = make_plan(config)
    for number, ids in enumerate(shards_of(plan)):
        assert [prompt.prompt_id for prompt in run.directory.prompts("mine", number)] == ids
    written = RunConfig.load(run.path / "run.yaml")
    again = make_plan(written, recorded=recorded_prompts(run.path, written))
    assert again.item_keys == plan.item_keys
    before = content(run.path / "aggregate")
    next(iter((run.path / "scores").rglob("*.parquet"))).unlink()
    assert content(go(config)[0].path / "aggregate") == before
    whole, _ = go(mixed({"prompts": 11}))
    found, expected = (one.scores(method="eap") for one in (run, whole))
    np.testing.assert_allclose(found["score"], expected["score"], rtol=0, atol=1e-6)


def test_shards_hold_both_kinds_and_a_minute_holds_thirty_tokens(mixed):
    kinds = shards_of(make_plan(mixed(WAYS[1])))
    assert all(abs(sum(i % 2 for i in shard) - len(shard) / 2) <= 1 for shard in kinds)
    plan = make_plan(mixed(WAYS[2]))
    lengths = {token.prompt_id: token.length for token in plan.tokens["mine"]}
    assert all(len(shard) == 1 or sum(lengths[i] for i in shard) <= 30 for shard in shards_of(plan))


def test_what_says_nothing_of_a_shard_is_one_line(mixed):
    with pytest.raises(ConfigError, match="minutes needs tokens_per_second"):
        mixed({"minutes": 5})
    with pytest.raises(PromptError, match=r"mine\.jsonl:1 has no column 'king' to stratify by"):
        make_plan(mixed({"stratify": "king"}))


def test_runs_in_order_are_what_they_were(mixed):
    assert make_plan(mixed({"prompts": 4})).identity["shards"] == {"prompts": 4}
