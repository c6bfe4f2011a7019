"""Rows of tables in an order that people read."""

from pipeline.store.run.rows import span_order


def test_spans_sort_by_number_whichever_end_they_count_from_and_names_come_last():
    spans = ["subject", "-1", "10", None, "-2", "2", "-10", "0"]
    assert sorted(spans, key=span_order) == [None, "-10", "-2", "-1", "0", "2", "10", "subject"]
