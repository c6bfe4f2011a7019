"""Rows of tables in an order that people read."""

import numpy as np
import pyarrow as pa
import pytest

from flows.printing import print_show, show_facts
from pipeline.core.errors import RunDirectoryError
from pipeline.core.results import BOUNDED_EDGE_SCORES, EDGE_SCORES, ResultType
from pipeline.core.scores import EdgeScores
from pipeline.store.run import schema
from pipeline.store.run.aggregate import aggregate, merged_path
from pipeline.store.run.compact import compact
from pipeline.store.run.files import read_parquet, write_parquet
from pipeline.store.run.opened import open_run
from pipeline.store.run.rows import span_order, table_of
from pipeline.store.run.run_dir import RunDirectory
from tests.store.example import GRAPH, payload_of, plan_of


def test_spans_sort_by_number_whichever_end_they_count_from_and_names_come_last():
    spans = ["subject", "-1", "10", None, "-2", "2", "-10", "0"]
    assert sorted(spans, key=span_order) == [None, "-10", "-2", "-1", "0", "2", "10", "subject"]


def bounded(seed: int, exact: int = 5, dead: int = 6) -> EdgeScores:
    """Scores with errors; that of the edge `exact` has none, the edge `dead` was not measured."""
    rng, n = np.random.default_rng(seed), GRAPH.n_edges
    score, error = rng.normal(size=n), 10.0 ** rng.uniform(-12, 0, size=n)
    n_prompts = np.full(n, 2)
    error[[exact, dead]], score[dead], n_prompts[dead] = np.nan, np.nan, 0
    return EdgeScores(GRAPH, score, np.abs(score), n_prompts, kept=np.isnan(error), error=error)


def test_a_stored_error_bounds_how_far_off_the_stored_score_is():
    scores = bounded(0)
    table = table_of(scores, GRAPH, 0)
    stored, error = (table[name].to_numpy() for name in ("score", "score_error"))
    known = np.isfinite(scores.error)
    off = np.abs(stored.astype(float) - scores.score) + scores.error
    assert (off[known] <= error[known]).all()
    assert (error[known] <= off[known] * (1 + 2**-22)).all()
    assert table["score_error"].is_null().to_pylist() == (~known).tolist()


def test_scores_without_errors_have_the_columns_and_the_declaration_of_before():
    exact = EdgeScores(GRAPH, *np.ones((2, GRAPH.n_edges)), np.ones(GRAPH.n_edges, dtype=int))
    assert table_of(exact, GRAPH, 0).schema.names == [
        *("edge_id", "sender", "receiver", "span", "score", "score_std", "n_prompts", "kept", "shard")
    ]
    assert set(EDGE_SCORES.to_dict()) == {"name", "axes", "value", "merge", "merged", "decides"}
    assert ResultType.from_dict(BOUNDED_EDGE_SCORES.to_dict()).bounded
    assert BOUNDED_EDGE_SCORES == EDGE_SCORES  # read by whatever reads scores of edges


@pytest.fixture
def run(shelf):
    """Two shards of a bounded method, and of one that is not."""
    plan = plan_of({"ioi": 2}, {"eap": "edge", "acdc": "edge"}, statistics=False)
    plan["manifest"]["methods"]["acdc"]["result"] = BOUNDED_EDGE_SCORES.to_dict()
    made = RunDirectory.create(shelf / "run", **plan)
    for item in made.items:
        made.commit(
            item, bounded(item.shard, exact=item.shard) if item.method == "acdc" else payload_of(item)
        )
    assert aggregate(made) == []
    made.mark_complete()
    return made


def test_merged_errors_are_the_mean_of_those_of_the_shards(run):
    shards = [read_parquet(run.path / item.path) for item in run.items if item.method == "acdc"]
    errors = np.stack([np.asarray(table["score_error"].to_pylist(), dtype=float) for table in shards])
    table = read_parquet(run.path / merged_path(BOUNDED_EDGE_SCORES, "ioi", "acdc"))
    assert table.schema == schema.merged(BOUNDED_EDGE_SCORES)
    found = np.asarray(table["score_error"].to_pylist(), dtype=float)
    np.testing.assert_allclose(found[:5], np.nan_to_num(errors).mean(axis=0)[:5])
    assert np.isnan(found[5:7]).tolist() == [False, True]
    assert "score_error" not in read_parquet(run.path / merged_path(EDGE_SCORES, "ioi", "eap")).column_names


def test_readers_see_the_errors_and_null_where_a_method_has_none(run):
    opened = open_run(run.path)
    for level in ("aggregate", "shard"):
        frame = opened.scores(level=level)
        assert frame[frame["method"] == "eap"]["score_error"].isna().all()
        assert frame[frame["method"] == "acdc"]["score_error"].notna().any()
        assert "score_error" not in opened.scores(method="eap", level=level)
    merged = opened.edge_scores("acdc").error
    np.testing.assert_array_equal(merged, opened.scores(method="acdc")["score_error"])
    assert opened.edge_scores("eap").error is None


def test_a_pack_holds_the_errors_of_its_shards(run):
    before = open_run(run.path).scores(method="acdc", level="shard")
    assert compact(run.path).packs
    after = open_run(run.path).scores(method="acdc", level="shard")
    assert before["score_error"].equals(after["score_error"])


def test_a_column_of_errors_that_is_no_number_is_named():
    table = table_of(bounded(0), GRAPH, 0)
    place = table.schema.get_field_index("score_error")
    wrong = table.set_column(place, "score_error", pa.nulls(len(table), pa.string()))
    assert schema.mismatch(wrong.schema, schema.of_type(BOUNDED_EDGE_SCORES)) == (
        "the column score_error is string, not float"
    )


def test_bounded_scores_that_do_not_say_how_far_off_they_are_do_not_pass_for_exact(run):
    """As a version wrote them that had no such column: null there would mean that every score is exact."""
    told, untold = (item for item in run.items if item.method == "acdc")
    path = run.path / untold.path
    facts = {
        key: value for key, value in run.footer(untold).items() if key not in ("rows", "columns", "values")
    }
    write_parquet(path, read_parquet(path).drop_columns("score_error"), facts)
    with pytest.raises(RunDirectoryError, match=r"shard-00001\.parquet.*score_error is missing") as refused:
        open_run(run.path).scores(method="acdc", level="shard")
    assert "\n" not in str(refused.value)
    assert set(run.items) - run.done(rename=False) == {untold}
    assert aggregate(run) == [untold]
    assert not path.exists(), "it is computed anew"
    merged = read_parquet(run.path / merged_path(BOUNDED_EDGE_SCORES, "ioi", "acdc"))
    assert merged["score_error"].equals(run.table(told)["score_error"].cast(pa.float64()))
    assert merged["n_shards"].to_numpy().max() == 1


def test_show_says_how_far_off_bounded_scores_are(run, capsys):
    print_show(show_facts(open_run(run.path), "ioi", "acdc", 5))
    assert "off by at most" in capsys.readouterr().out
    print_show(show_facts(open_run(run.path), "ioi", "eap", 5))
    assert "off by" not in capsys.readouterr().out
