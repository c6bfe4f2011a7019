"""Items, shards and the hashes of plain data."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.items import Item, canonical_json, digest

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("item", "name", "path"),
    [
        (Item("statistics", "ioi", None, 0), "ioi/statistics/0", "statistics/task=ioi/means.safetensors"),
        (Item("baseline", "ioi", None, 3), "ioi/baseline/3", "prompt_metrics/task=ioi/shard-00003.parquet"),
        (Item("scores", "ioi", "eap", 12), "ioi/eap/12", "scores/task=ioi/method=eap/shard-00012.parquet"),
        (Item("node_scores", "a", "b", 0), "a/b/0", "node_scores/task=a/method=b/shard-00000.parquet"),
    ],
)
def test_names_and_paths(item, name, path):
    assert item.name == name
    assert str(item.path) == path
    assert Item.from_dict(json.loads(json.dumps(item.to_dict()))) == item


def test_items_are_ordered_and_hashable():
    items = [Item("scores", "b", "x", 1), Item("scores", "b", "x", 0), Item("baseline", "z", None, 9)]
    assert sorted(items) == [items[2], items[1], items[0]]
    assert len({*items, Item("scores", "b", "x", 1)}) == 3


@pytest.mark.parametrize(
    ("kind", "method", "shard"), [("scores", None, 0), ("baseline", "eap", 0), ("baseline", None, -1)]
)
def test_items_that_cannot_be_are_refused(kind, method, shard):
    with pytest.raises(ValueError, match="no such item"):
        Item(kind, "ioi", method, shard)


@given(plain)
def test_canonical_json_reads_back_and_ignores_the_order_of_keys(value):
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(_reversed(value)) == text
    assert text.isascii()


def _reversed(value):
    if isinstance(value, dict):
        return {key: _reversed(inner) for key, inner in reversed(value.items())}
    return [_reversed(inner) for inner in value] if isinstance(value, list) else value


@given(plain, plain)
def test_different_data_has_different_digests(one, other):
    assert (digest(one) == digest(other)) == (canonical_json(one) == canonical_json(other))


def test_a_digest_is_the_same_in_another_process():
    code = "from pipeline.core.items import digest; print(digest({'b': [1, 2.5, None], 'a': 'é'}))"
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert out.stdout.strip() == digest({"a": "é", "b": [1, 2.5, None]})


def test_what_is_no_number_has_no_digest():
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(float("nan"))
