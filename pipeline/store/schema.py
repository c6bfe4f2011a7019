"""The columns of every Parquet file of a run, and whether a file has them.

Knows column names, types and order. Does not know paths, footers or values. Adding a nullable column is
free; any other change raises `SCHEMA_VERSION`, and with it every run key.
"""

import pyarrow as pa

SCHEMA_VERSION = 1

_NAME = pa.dictionary(pa.int32(), pa.string())
_TEXTS = pa.list_(pa.field("element", pa.string()))  # "element" is how Parquet calls them
_IDS = pa.list_(pa.field("element", pa.int32()))


def _schema(**columns: pa.DataType | tuple[pa.DataType]) -> pa.Schema:
    """A schema of required columns; a type in a tuple is nullable."""
    fields = []
    for name, kind in columns.items():
        nullable = isinstance(kind, tuple)
        fields.append(pa.field(name, kind[0] if nullable else kind, nullable=nullable))
    return pa.schema(fields)


SCORES = _schema(
    edge_id=pa.int32(),
    sender=_NAME,
    receiver=_NAME,
    span=(_NAME,),
    score=(pa.float32(),),
    score_std=(pa.float32(),),
    n_prompts=pa.int32(),
    kept=(pa.bool_(),),
    shard=pa.int32(),
)
NODE_SCORES = _schema(
    node_id=pa.int32(),
    node=_NAME,
    span=(_NAME,),
    score=(pa.float32(),),
    score_std=(pa.float32(),),
    n_prompts=pa.int32(),
    shard=pa.int32(),
)
PROMPT_METRICS = _schema(prompt_id=pa.int64(), metric=_NAME, clean=(pa.float64(),), corrupted=(pa.float64(),))

_POOLED = {
    "span": (_NAME,),
    "score": (pa.float64(),),
    "score_std": (pa.float64(),),
    "score_sem": (pa.float64(),),
    "ci_low": (pa.float64(),),
    "ci_high": (pa.float64(),),
    "n_prompts": pa.int32(),
    "n_shards": pa.int32(),
    "rank": (pa.int32(),),
    "sign_agreement": (pa.float64(),),
}
AGGREGATE = _schema(
    edge_id=pa.int32(),
    sender=_NAME,
    receiver=_NAME,
    **_POOLED,
    kept_fraction=(pa.float64(),),  # share of the shards that keep an edge, where several decided
    kept=(pa.bool_(),),  # what they decide together
    boot_low=(pa.float32(),),  # 95 % percentile interval of a bootstrap over prompts, where one was asked for
    boot_high=(pa.float32(),),
)
NODE_AGGREGATE = _schema(node_id=pa.int32(), node=_NAME, **_POOLED)


def prompt_scores(n_edges: int, kind: pa.DataType) -> pa.Schema:
    """A row per prompt with the scores of all edges, by edge id; `kind` is float32 or float16."""
    element = pa.field("element", kind)
    return pa.schema(
        [
            pa.field("prompt_id", pa.int64(), nullable=False),
            pa.field("scores", pa.list_(element, n_edges), nullable=False),
        ]
    )


GRAPH = _schema(
    edge_id=pa.int32(),
    sender=_NAME,
    receiver=_NAME,
    sender_kind=_NAME,
    sender_layer=(pa.int32(),),
    sender_head=(pa.int32(),),
    receiver_kind=_NAME,
    receiver_layer=(pa.int32(),),
    receiver_head=(pa.int32(),),
    receiver_input=(_NAME,),
)
NODES = _schema(node_id=pa.int32(), node=pa.string(), kind=_NAME, layer=(pa.int32(),), head=(pa.int32(),))
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
PROMPTS = _schema(
    task=_NAME,
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
)

PROMPT_ROWS = PROMPTS.remove(0)  # of one task


def mismatch(found: pa.Schema, expected: pa.Schema) -> str | None:
    """What is wrong with a file's columns, or None. A nullable column may be missing, others may be there."""
    for field in expected:
        index = found.get_field_index(field.name)
        if index < 0:
            if not field.nullable:
                return f"the column {field.name} is missing"
        elif found.field(index).type != field.type:
            return f"the column {field.name} is {found.field(index).type}, not {field.type}"
    return None
