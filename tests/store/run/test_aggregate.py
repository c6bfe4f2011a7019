"""Shards merged: against plain statistics of all prompts at once."""

import hashlib
import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.items import Item
from pipeline.core.results import EDGE_SCORES, NODE_SCORES
from pipeline.core.scores import EdgeScores, Moments
from pipeline.store.run.aggregate import _Pool, aggregate, merged_path
from pipeline.store.run.files import read_footer, read_parquet, write_parquet
from pipeline.store.run.opened import open_run
from pipeline.store.run.rows import table_of
from pipeline.store.run.run_dir import SUCCESS
from tests.store.example import GRAPH, flip_a_bit, payload_of

TYPES = {type_.name: type_ for type_ in (EDGE_SCORES, NODE_SCORES)}


def commit_all(run, payload=payload_of, order=None, **footer):
    for item in order or run.items:
        run.commit(item, payload(item), footer)


def merged(run, method="eap", task="ioi", kind="scores") -> pd.DataFrame:
    return read_parquet(run.path / merged_path(TYPES[kind], task, method)).to_pandas()


def bytes_of(run) -> dict[str, str]:
    files = [p for folder in ("aggregate", "node_aggregate") for p in (run.path / folder).rglob("*.parquet")]
    return {str(p.relative_to(run.path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_merged_scores_are_the_statistics_of_all_prompts(new_run):
    run = new_run(tasks={"ioi": 3}, methods={"eap": "edge"}, statistics=False)
    rng = np.random.default_rng(0)
    shards = [rng.normal(loc=rng.normal(size=GRAPH.n_edges), size=(n, GRAPH.n_edges)) for n in (5, 5, 2)]

    def payload(item):
        return (
            payload_of(item)
            if item.method is None
            else EdgeScores.from_moments(GRAPH, Moments.of(shards[item.shard]))
        )

    commit_all(run, payload)
    assert aggregate(run) == []
    frame = merged(run)
    every = np.concatenate(shards)
    close = {"rtol": 1e-5, "atol": 1e-6}  # the shards hold float32
    np.testing.assert_allclose(frame["score"], every.mean(axis=0), **close)
    np.testing.assert_allclose(frame["score_std"], every.std(axis=0, ddof=1), **close)
    np.testing.assert_allclose(frame["score_sem"], pd.DataFrame(every).sem(), **close)
    half = (frame["ci_high"] - frame["ci_low"]) / 2
    np.testing.assert_allclose(half, 2.200985160082949 * frame["score_sem"], **close)  # 11 degrees of freedom
    np.testing.assert_allclose((frame["ci_high"] + frame["ci_low"]) / 2, frame["score"], **close)
    assert set(frame["n_prompts"]) == {12}
    assert set(frame["n_shards"]) == {3}
    by_rank = frame.sort_values("rank")
    assert by_rank["rank"].tolist() == list(range(1, GRAPH.n_edges + 1))
    assert all(a >= b for a, b in pairwise(by_rank["score"].abs()))
    for column in (
        "sign_agreement",
        "kept_fraction",
        "kept",
    ):  # of single prompts nothing is known, and none decides
        assert frame[column].isna().all()
    assert frame["edge_id"].tolist() == list(range(GRAPH.n_edges))


def test_one_prompt_has_no_spread(new_run):
    run = new_run(tasks={"ioi": 1}, methods={"eap": "edge"}, statistics=False)
    one = EdgeScores.from_moments(GRAPH, Moments.of(np.ones((1, GRAPH.n_edges))))
    commit_all(run, lambda item: payload_of(item) if item.method is None else one)
    aggregate(run)
    frame = merged(run)
    assert (frame["score"] == 1).all()
    for column in ("score_std", "score_sem", "ci_low", "ci_high", "sign_agreement"):
        assert frame[column].isna().all()


def test_two_prompts_have_an_interval_of_thirteen_standard_errors(new_run):
    run = new_run(tasks={"ioi": 1}, methods={"eap": "edge"}, statistics=False)
    two = EdgeScores.from_moments(
        GRAPH, Moments.of(np.stack([np.zeros(GRAPH.n_edges), np.ones(GRAPH.n_edges)]))
    )
    commit_all(run, lambda item: payload_of(item) if item.method is None else two)
    aggregate(run)
    frame = merged(run)
    np.testing.assert_allclose(frame["score_sem"], 0.5)
    np.testing.assert_allclose(frame["ci_high"] - frame["ci_low"], 12.706204736174698)


def test_edges_that_a_shard_did_not_measure_count_where_they_were(new_run):
    run = new_run(tasks={"ioi": 2}, methods={"acdc": "edge"}, statistics=False)
    n_edges = GRAPH.n_edges

    def payload(item):
        if item.method is None:
            return payload_of(item)
        mean, n = np.full(n_edges, 2.0 + item.shard), np.full(n_edges, 2)
        mean[0], n[0] = np.nan, 0  # never measured
        if item.shard == 1:
            mean[1], n[1] = np.nan, 0  # measured by the other shard alone
            mean[2] = -9.0
        kept = np.arange(n_edges) % 2 == item.shard
        return EdgeScores(GRAPH, mean, np.where(n > 0, 0.0, np.nan), n, kept=kept)

    commit_all(run, payload)
    aggregate(run)
    frame = merged(run, "acdc")
    assert frame["n_shards"].tolist()[:4] == [0, 1, 2, 2]
    assert frame["n_prompts"].tolist()[:4] == [0, 2, 4, 4]
    assert np.isnan(frame["score"][0])
    assert frame["score"].tolist()[1:4] == [2.0, (2 - 9) / 2, 2.5]
    assert frame["kept_fraction"].tolist()[:4] == [0.5] * 4
    assert frame["kept"].tolist()[:4] == [True] * 4  # a tie keeps
    assert np.isnan(frame["rank"][0])


def test_what_a_method_measures_while_it_decides_has_no_interval_and_no_sign(new_run):
    run = new_run(tasks={"ioi": 2}, methods={"acdc": "edge"}, statistics=False)
    commit_all(run)
    aggregate(run)
    frame = merged(run, "acdc")
    assert frame["score_std"].notna().any()
    for column in ("ci_low", "ci_high", "sign_agreement"):
        assert frame[column].isna().all()


def test_one_decision_is_a_decision_and_no_share(new_run):
    run = new_run(tasks={"ioi": 1}, methods={"acdc": "edge"}, statistics=False)
    commit_all(run)
    aggregate(run)
    frame = merged(run, "acdc")
    assert frame["kept_fraction"].isna().all()
    decided = payload_of(Item("scores", "ioi", "acdc", 0)).kept
    assert frame["kept"].tolist() == decided.tolist()
    assert open_run(run.path).circuit(method="acdc").mask.tolist() == decided.tolist()


def test_signs_are_counted_over_prompts_where_their_scores_are_kept(new_run):
    run = new_run(
        tasks={"ioi": 3}, methods={"eap": "edge"}, statistics=False, prompt_scores={"eap": "float32"}
    )
    rng = np.random.default_rng(1)
    shards = [rng.integers(-1, 3, size=(2, GRAPH.n_edges)).astype(float) for _ in range(3)]

    def payload(item):
        if item.method is None:
            return payload_of(item)
        rows = shards[item.shard]
        return EdgeScores.from_moments(GRAPH, Moments.of(rows), per_prompt=rows)

    commit_all(run, payload)
    aggregate(run)
    every = np.concatenate(shards)
    mean = every.mean(axis=0)
    assert {-1.0, 0.0, 1.0} == set(np.sign(mean))
    agreement = merged(run)["sign_agreement"]
    np.testing.assert_allclose(agreement, (np.sign(every) == np.sign(mean)).mean(axis=0))


def test_merged_scores_of_an_earlier_version_are_read_as_this_one_would_have_written_them(complete):
    """Then intervals were normal, signs were shards', and the decision was a share alone."""
    aggregate(complete)
    now = {method: open_run(complete.path).scores(method=method) for method in ("eap", "acdc", "patch")}
    for kind, method in (("scores", "eap"), ("scores", "acdc"), ("node_scores", "patch")):
        for task in ("ioi", "gt"):
            path = complete.path / merged_path(TYPES[kind], task, method)
            table, footer = read_parquet(path), read_footer(path)
            sem, ones = table["score_sem"], pa.array(np.ones(len(table)))
            shown = {"ci_low": pc.subtract(table["score"], sem), "ci_high": pc.add(table["score"], sem)}
            shown["sign_agreement"] = ones
            if method == "acdc":
                parts = [
                    payload_of(item).kept
                    for item in complete.items
                    if (item.task, item.method) == (task, method)
                ]
                shown["kept_fraction"] = pa.array(np.mean(parts, axis=0))
            for name, column in shown.items():
                table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
            if "kept" in table.column_names:
                table = table.drop_columns(["kept"])
            write_parquet(
                path,
                table,
                {key: value for key, value in footer.items() if key not in ("interval", "values")},
            )
    for method, expected in now.items():
        pd.testing.assert_frame_equal(open_run(complete.path).scores(method=method), expected)
    task = complete.items[0].task
    kept = now["acdc"].loc[now["acdc"]["task"] == task, "kept"]
    assert open_run(complete.path).circuit(method="acdc", task=task).mask.tolist() == kept.tolist()


def test_nodes_merge_by_node_and_position_though_shards_differ_in_positions(complete):
    aggregate(complete)
    frame = merged(complete, "patch", kind="node_scores")
    spans = [None, "0", "1", "2", "10"]  # "10" in every shard, the others in one each
    keys = [(int(i), None if pd.isna(s) else s) for i, s in zip(frame["node_id"], frame["span"], strict=True)]
    assert keys == [(node, span) for node in (0, 1, 3) for span in spans]
    parts = [payload_of(Item("node_scores", "ioi", "patch", shard)).to_frame() for shard in range(3)]
    every = pd.concat(parts)
    for (node, span), n, score in zip(keys, frame["n_prompts"], frame["score"], strict=True):
        same = every[
            (every["node_id"] == node) & (every["span"].isna() if span is None else every["span"] == span)
        ]
        assert n == same["n_prompts"].sum()
        np.testing.assert_allclose(score, np.average(same["score"], weights=same["n_prompts"]), rtol=1e-5)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_any_cut_into_shards_merges_to_the_same(sizes, seed):
    """However the prompts are cut: mean and standard deviation of all of them."""
    every = np.random.default_rng(seed).normal(size=(sum(sizes), GRAPH.n_edges))
    pool, start = _Pool(EDGE_SCORES), 0
    for shard, size in enumerate(sizes):
        scores = EdgeScores.from_moments(GRAPH, Moments.of(every[start : start + size]))
        pool.add(table_of(scores, GRAPH, shard), GRAPH)
        start += size
    frame = pool.table(GRAPH).to_pandas()
    np.testing.assert_allclose(frame["score"], every.mean(axis=0), atol=1e-5)
    if len(every) > 1:
        np.testing.assert_allclose(frame["score_std"], every.std(axis=0, ddof=1), atol=1e-5)


# --- what the files say, and when they are written ---------------------------------------------------------


def test_equal_shards_give_equal_bytes_whatever_the_order_attempt_and_host(new_run):
    first, second = new_run("first"), new_run("second")
    commit_all(first, attempt=1, host="a", seconds=1.5)
    commit_all(second, order=reversed(second.items), attempt=3, host="b", seconds=9.0)
    assert aggregate(first) == aggregate(second) == []
    assert bytes_of(first) == bytes_of(second)
    assert len(bytes_of(first)) == 6
    before = bytes_of(first)
    aggregate(first)
    assert bytes_of(first) == before


def test_the_footer_knows_the_work_and_not_who_did_it(complete):
    aggregate(complete)
    footer = read_footer(complete.path / merged_path(EDGE_SCORES, "ioi", "eap"))
    assert json.loads(footer["missing"]) == []
    assert json.loads(footer["method"])["name"] == "eap"
    assert not footer.keys() & {"attempt", "host", "seconds", "device", "item_key"}


def test_missing_items_are_listed(run):
    for item in run.items:
        if item != Item("scores", "ioi", "eap", 1):
            run.commit(item, payload_of(item))
    assert aggregate(run) == [Item("scores", "ioi", "eap", 1)]
    footer = read_footer(run.path / merged_path(EDGE_SCORES, "ioi", "eap"))
    assert json.loads(footer["missing"]) == ["ioi/eap/1"]
    assert set(merged(run)["n_prompts"]) == {4}
    run.commit(Item("scores", "ioi", "eap", 1), payload_of(Item("scores", "ioi", "eap", 1)))
    assert aggregate(run) == []
    assert json.loads(read_footer(run.path / merged_path(EDGE_SCORES, "ioi", "eap"))["missing"]) == []


@pytest.mark.parametrize("kind", ["scores", "node_scores", "baseline", "statistics"])
def test_damage_inside_of_a_file_is_found_and_the_item_is_missing_again(complete, kind):
    item = next(item for item in complete.items if item.kind == kind)
    path = complete.path / item.path
    flip_a_bit(path)
    assert complete.done([item]) == {item}  # the footer alone does not show it
    assert aggregate(complete) == [item]
    assert not path.exists()
    assert item not in complete.done()
    complete.commit(item, payload_of(item))
    assert aggregate(complete) == []


def test_what_has_no_shards_has_no_merged_file(run):
    assert sorted(aggregate(run)) == sorted(run.items)
    assert bytes_of(run) == {}


def test_new_merged_scores_are_no_success_until_they_are_evaluated(complete):
    complete.mark_complete()
    aggregate(complete)
    assert not (complete.path / SUCCESS).exists()
