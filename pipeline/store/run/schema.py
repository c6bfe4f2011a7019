"""The columns of every Parquet file of a run, and whether a file has them.

Knows column names, types and order. Does not know paths, footers or values. Adding a nullable column is
free; any other change raises `SCHEMA_VERSION`, and with it every run key.
"""

from typing import Any

import pyarrow as pa

from pipeline.core.results import ResultType

SCHEMA_VERSION = 1

NAME = pa.dictionary(pa.int32(), pa.string())
_TEXTS = pa.list_(pa.field("element", pa.string()))  # "element" is how Parquet calls them
_IDS = pa.list_(pa.field("element", pa.int32()))


def required(**columns: pa.DataType | tuple[pa.DataType]) -> pa.Schema:
    """A schema of required columns; a type in a tuple is nullable."""
    fields = []
    for name, kind in columns.items():
        nullable = isinstance(kind, tuple)
        fields.append(pa.field(name, kind[0] if nullable else kind, nullable=nullable))
    return pa.schema(fields)


# The columns of an axis; the first is its key.
_AXES: dict[str, dict[str, Any]] = {
    "edge": {"edge_id": pa.int32(), "sender": NAME, "receiver": NAME},
    "node": {"node_id": pa.int32(), "node": NAME},
    "span": {"span": (NAME,)},
    "span_to": {"span_to": (NAME,)},
    "token": {"token": NAME},
    "quantity": {"quantity": NAME},
    "prompt": {"prompt_id": pa.int64()},
}


def columns_of(axis: str) -> dict[str, Any]:
    """The columns of an axis with their types, the key first; a number where nothing else is said."""
    return _AXES.get(axis, {axis: pa.int32()})


def key_of(axis: str) -> str:
    """The column whose value tells the rows of an axis apart."""
    return next(iter(columns_of(axis)))


_ERROR = "_error"


def error_of(result: ResultType) -> str:
    """The column that says how far off a value is at most, where values are bounded; null where one is exact."""
    return f"{result.value}{_ERROR}"


def of_type(result: ResultType) -> pa.Schema:
    """The columns of an item's file that holds such a result."""
    columns = {name: kind for axis in result.axes for name, kind in columns_of(axis).items()}
    columns[result.value] = (pa.float32(),)
    if result.merge == "moments":
        columns[f"{result.value}_std"] = (pa.float32(),)
        if result.bounded:
            columns[error_of(result)] = (pa.float32(),)
        columns["n_prompts"] = pa.int32()
    if result.decides:
        columns["kept"] = (pa.bool_(),)
    return required(**columns, shard=pa.int32())


def merged(result: ResultType) -> pa.Schema:
    """The columns of the table over all shards."""
    columns = {name: kind for axis in result.axes for name, kind in columns_of(axis).items()}
    value = result.value
    if result.merge == "concat":
        return required(**columns, **{value: (pa.float32(),)})
    columns |= {
        name: (pa.float64(),) for name in (value, f"{value}_std", f"{value}_sem", "ci_low", "ci_high")
    }
    if result.bounded:
        columns[error_of(result)] = (pa.float64(),)
    columns |= {"n_prompts": pa.int32(), "n_shards": pa.int32(), "rank": (pa.int32(),)}
    columns["sign_agreement"] = (pa.float64(),)
    if result.decides:
        columns["kept_fraction"] = (pa.float64(),)  # share of the shards that keep, where several decided
        columns["kept"] = (pa.bool_(),)  # what they decide together
        # 95 % percentile interval of a bootstrap over prompts, where one was asked for
        columns |= {"boot_low": (pa.float32(),), "boot_high": (pa.float32(),)}
    return required(**columns)


FILTERED = required(prompt_id=pa.int64(), kept=pa.bool_(), reason=(pa.string(),), said=pa.int32())
PROMPT_METRICS = required(prompt_id=pa.int64(), metric=NAME, clean=(pa.float64(),), corrupted=(pa.float64(),))


def prompt_scores(n_edges: int, kind: pa.DataType) -> pa.Schema:
    """A row per prompt with the scores of all edges, by edge id; `kind` is float32 or float16."""
    element = pa.field("element", kind)
    return pa.schema(
        [
            pa.field("prompt_id", pa.int64(), nullable=False),
            pa.field("scores", pa.list_(element, n_edges), nullable=False),
        ]
    )


GRAPH = required(
    edge_id=pa.int32(),
    sender=NAME,
    receiver=NAME,
    sender_kind=NAME,
    sender_layer=(pa.int32(),),
    sender_head=(pa.int32(),),
    receiver_kind=NAME,
    receiver_layer=(pa.int32(),),
    receiver_head=(pa.int32(),),
    receiver_input=(NAME,),
)
NODES = required(node_id=pa.int32(), node=pa.string(), kind=NAME, layer=(pa.int32(),), head=(pa.int32(),))
_SPANS = pa.list_(
    pa.field(
        "element",
        pa.struct(
            [
                pa.field("name", pa.string(), nullable=False),
                pa.field("first", pa.int32(), nullable=False),  # token
                pa.field("end", pa.int32(), nullable=False),  # the token after the last
                pa.field("text", pa.string()),  # what it is in the clean prompt, where that is text
                pa.field("start", pa.int32()),  # character of the clean prompt, where it was given by that
            ]
        ),
    )
)
_TARGETS = pa.struct(
    [
        pa.field("target", pa.string(), nullable=False),
        pa.field("read", pa.string()),  # the span after which answers are read, and its last token
        pa.field("at", pa.int32()),
        pa.field(
            "answers", pa.list_(pa.field("element", _IDS))
        ),  # all tokens of each, where some have several
        pa.field("wrong_answers", pa.list_(pa.field("element", _IDS))),
        pa.field("corrupted_answers", _TEXTS),
        pa.field("corrupted_answer_ids", _IDS),
    ]
)
PROMPTS = required(
    task=NAME,
    shard=pa.int32(),
    prompt_id=pa.int64(),
    clean=(pa.string(),),
    corrupted=(pa.string(),),
    answers=_TEXTS,
    wrong_answers=_TEXTS,
    clean_ids=(_IDS,),
    corrupted_ids=(_IDS,),
    answer_ids=(_IDS,),
    wrong_answer_ids=(_IDS,),
    source=(pa.string(),),
    spans=(_SPANS,),
    notes=(pa.string(),),  # JSON; the column is there where a file of pairs says more than the fields
    targets=(_TARGETS,),  # likewise: where answers are other than one token behind the prompt
)

PROMPT_ROWS = PROMPTS.remove(0)  # of one task
PROMPT_EXTRAS = ("notes", "targets")  # columns that are there where they hold something


def mismatch(found: pa.Schema, expected: pa.Schema) -> str | None:
    """What is wrong with a file's columns, or None. A nullable column may be missing, unless nothing in it says that a
    value is exact; others may be there."""
    for field in expected:
        index = found.get_field_index(field.name)
        if index < 0:
            if not field.nullable or field.name.endswith(_ERROR):
                return f"the column {field.name} is missing"
        elif found.field(index).type != field.type:
            return f"the column {field.name} is {found.field(index).type}, not {field.type}"
    return None
