"""A run that scores named spans of its prompts, from config to frame; a shard of it has no such span."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import discover, load_model, load_scores, open_run
from pipeline.methods import Eap, EdgePatching, NodePatching
from pipeline.store.run.tables import prompts_of
from tests.runs import content, toy_config

METHODS = [
    {"name": "eap", "positions": "start"},
    {"name": "edge_patching", "positions": "rest"},
    {"name": "node_patching", "positions": "start"},
    {"name": "path_patching", "positions": "start", "receivers": ["a1.h0<v>"]},
    {"name": "eap"},
]
HAVING = [0, 1, 4, 5, 6]  # of eight prompts in shards of two: the second shard lacks them, the last has one


def pairs(path):
    """Eight pairs of 4 and 7 tokens in turn."""
    rows = []
    for i in range(8):
        clean = [(i + k) % 7 + 1 for k in range(4 if i % 2 else 7)]
        row = {"clean": clean, "corrupted": [9, *clean[1:-1], 9], "answers": [1], "wrong_answers": [2]}
        rows.append(row | ({"spans": {"start": [0, 2], "rest": [2, 4]}} if i in HAVING else {}))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spans")
    config = toy_config(
        folder,
        tasks=[{"name": "file", "path": str(pairs(folder / "pairs.jsonl"))}],
        methods=METHODS,
        shards={"prompts": 2},
        store={"prompt_scores": True},
        aggregate={"bootstrap": 40},
        evaluate={"edge_fractions": [0.1]},
    )
    return discover(config, local=True).path


def test_merged_scores_are_those_of_the_prompts_that_have_the_span(folder):
    model, tokens = load_model("toy:planted"), open_run(folder).prompts("pairs")
    batch = model.batch([tokens[i] for i in HAVING])
    frame = load_scores(folder, method="eap-start").sort_values("edge_id")
    direct = Eap(positions="start").score(model, [batch])
    assert np.abs(direct.score).max() > 1e-3
    np.testing.assert_allclose(frame["score"], direct.score, atol=1e-5)
    assert set(frame["span"]) == {"start"}
    assert set(frame["n_prompts"]) == {len(HAVING)}
    assert set(frame["n_shards"]) == {3}
    assert frame["boot_low"].isna().all(), "five prompts are too few"

    exact = load_scores(folder, method="edge_patching-rest").sort_values("edge_id")
    np.testing.assert_allclose(
        exact["score"], EdgePatching(positions="rest").score(model, [batch]).score, atol=1e-5
    )
    nodes = load_scores(folder, method="node_patching-start").sort_values("node_id")
    direct_nodes = NodePatching(positions="start").score(model, [batch])
    np.testing.assert_allclose(nodes["score"], direct_nodes.score, atol=1e-5)
    assert set(nodes["span"]) == {"start"}
    paths = load_scores(folder, method="path_patching-a1.h0_v-start")
    assert set(paths["n_prompts"]) == {len(HAVING)}


def test_a_shard_without_the_span_holds_nulls_and_no_prompts(folder):
    frame = load_scores(folder, method="eap-start", level="shard")
    lacking = frame[frame["shard"] == 1]
    assert len(lacking) == len(frame) // 4
    assert lacking[["score", "score_std"]].isna().all(axis=None)
    assert set(lacking["n_prompts"]) == {0}
    assert frame[frame["shard"] == 3]["n_prompts"].unique().tolist() == [1]


def test_scores_by_prompt_are_null_where_there_is_no_span(folder):
    rows = load_scores(folder, method="eap-start", level="prompt")
    assert sorted(rows.index[rows.notna().all(axis=1)]) == HAVING
    assert sorted(rows.index[rows.isna().all(axis=1)]) == [2, 3, 7]
    assert load_scores(folder, method="eap", level="prompt").notna().all(axis=None)


def test_the_file_of_prompts_says_where_the_spans_are(folder):
    run = open_run(folder)
    assert [dict(token.spans) for token in run.prompts("pairs")] == [
        {"start": (0, 2), "rest": (2, 4)} if i in HAVING else {} for i in range(8)
    ]
    table = pq.read_table(folder / "prompts.parquet")
    assert [None if spans is None else len(spans) for spans in table["spans"].to_pylist()] == [
        2 if i in HAVING else None for i in range(8)
    ]


def test_prompts_of_an_earlier_version_have_no_column_of_spans(folder):
    table = pq.read_table(folder / "prompts.parquet")
    old = prompts_of(table.drop_columns("spans"))
    assert [token.clean for token in old] == [token.clean for token in prompts_of(table)]
    assert all(token.spans == {} for token in old)


@pytest.mark.slow
def test_computing_it_again_gives_the_same_files(folder, tmp_path):
    config = toy_config(
        tmp_path,
        tasks=[{"name": "file", "path": str(pairs(tmp_path / "pairs.jsonl"))}],
        methods=METHODS,
        shards={"prompts": 2},
        store={"prompt_scores": True},
        aggregate={"bootstrap": 40},
        evaluate={"edge_fractions": [0.1]},
    )
    again = discover(config, local=True).path
    for name in ("aggregate", "node_aggregate"):
        assert content(again / name) == content(folder / name)
