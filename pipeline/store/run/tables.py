"""Metrics of prompts, graphs and prompts to and from tables.

Knows the meaning of columns. Does not know where files lie, footers or runs.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.documents import parse_json
from pipeline.core.errors import RunDirectoryError
from pipeline.core.graph import Graph, Node
from pipeline.core.prompts import Answer, Piece, PromptPair, Sequences, Text, TokenPair
from pipeline.store.run import schema
from pipeline.store.run.rows import edge_columns, nullable

# --- baseline ----------------------------------------------------------------------------------------------


def metrics_table(prompt_ids: Sequence[int], values: Mapping[str, tuple[Any, Any]]) -> pa.Table:
    """A row per metric and prompt, from {metric: (clean, corrupted)} with one number per prompt each; none where no
    method asks for a metric."""
    names = [name for name in values for _ in prompt_ids]
    sides = [np.concatenate([np.zeros(0), *(pair[side] for pair in values.values())]) for side in (0, 1)]
    return pa.table(
        [
            pa.array(np.tile(np.asarray(prompt_ids, dtype=np.int64), len(values))),
            pa.array(names, pa.string()).dictionary_encode(),
            *(nullable(side, pa.float64()) for side in sides),
        ],
        schema=schema.PROMPT_METRICS,
    )


# --- graph -------------------------------------------------------------------------------------------------


def graph_table(graph: Graph) -> pa.Table:
    """A row per edge with the kind, layer and head of both ends, and the port of the receiver."""
    senders, receivers = graph.edge_senders, graph.edge_receivers
    columns = [
        *edge_columns(graph),
        *(column.take(pa.array(senders)) for column in _node_columns(graph.senders)),
        *(column.take(pa.array(receivers)) for column in _node_columns(graph.receivers)),
        _names([node.port for node in graph.receivers]).take(pa.array(receivers)),
    ]
    return pa.table(columns, schema=schema.GRAPH)


def nodes_table(graph: Graph) -> pa.Table:
    """A row per node: the senders by index, then logits."""
    ids = pa.array(np.arange(len(graph.nodes), dtype=np.int32))
    names = pa.array([node.name for node in graph.nodes])
    return pa.table([ids, names, *_node_columns(graph.nodes)], schema=schema.NODES)


def _node_columns(nodes: Sequence[Node]) -> list[pa.Array]:
    return [
        _names([node.kind for node in nodes]),
        pa.array([node.layer for node in nodes], pa.int32()),
        pa.array([node.head for node in nodes], pa.int32()),
    ]


def _names(values: Sequence[str | None]) -> pa.DictionaryArray:
    return pa.array(values, pa.string()).dictionary_encode()


# --- prompts -----------------------------------------------------------------------------------------------


def prompts_table(prompts: Mapping[str, Sequence[Sequence[TokenPair]]]) -> pa.Table:
    """A row per prompt from {task: shards of prompts}. What was given as token ids has no text, and there is no column
    of notes where no prompt has any."""
    return joined(
        (task, prompt_rows(tokens, [shard] * len(tokens)))
        for task, shards in prompts.items()
        for shard, tokens in enumerate(shards)
    )


def joined(parts: Iterable[tuple[str, pa.Table]], columns: Sequence[str] | None = None) -> pa.Table:
    """One table of (task, rows of its prompts), as in the file: these columns, or those that hold something."""
    tasks, tables = [], []
    for task, rows in parts:
        tasks.append(pa.repeat(pa.scalar(task), len(rows)))
        tables.append(rows)
    rows = pa.concat_tables(tables) if tables else schema.PROMPT_ROWS.empty_table()
    names = pa.chunked_array(tasks, pa.string()).dictionary_encode()
    table = rows.add_column(0, "task", names).cast(schema.PROMPTS).combine_chunks()
    if columns is not None:
        return table.select(columns)
    empty = [name for name in schema.PROMPT_EXTRAS if table[name].null_count == len(table)]
    return table.drop_columns(empty) if empty else table


def prompt_rows(tokens: Sequence[TokenPair], shards: Sequence[int]) -> pa.Table:
    """A row per prompt, with its shard, without the name of their task."""
    pairs = [token.pair for token in tokens]
    columns = [
        list(shards),
        [token.prompt_id for token in tokens],
        [_words(pair.clean) for pair in pairs],
        [_words(pair.corrupted) for pair in pairs],
        [[_words(answer) for answer in pair.answers] for pair in pairs],
        [[_words(answer) for answer in pair.wrong_answers] for pair in pairs],
        _ids([token.clean for token in tokens]),
        _ids([token.corrupted for token in tokens]),
        _ids([token.answers for token in tokens]),
        _ids([token.wrong_answers for token in tokens]),
        [pair.source for pair in pairs],
        [[_span(token, name) for name in token.spans] or None if token.spans else None for token in tokens],
        [json.dumps(pair.notes, ensure_ascii=False) if pair.notes else None for pair in pairs],
        [_target(token) for token in tokens],
    ]
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, field.type)
        for column, field in zip(columns, schema.PROMPT_ROWS, strict=True)
    ]
    return pa.table(arrays, schema=schema.PROMPT_ROWS)


def _ids(rows: Sequence[tuple[int, ...]]) -> pa.ListArray:
    """Token ids, a list for each row."""
    offsets = np.zeros(len(rows) + 1, dtype=np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values = np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def prompts_of(table: pa.Table) -> list[TokenPair]:
    """The prompts of rows of such a table, in tokens, as they were written."""
    return [_prompt(row) for row in table.to_pylist()]


def _prompt(row: dict[str, Any]) -> TokenPair:
    if row.get("clean_ids") is None:
        raise RunDirectoryError(
            f"prompt {row['prompt_id']} of task {row['task']} has no token ids; plan the run again"
        )
    clean, corrupted, answers, wrong = (
        tuple(row[key] or ()) for key in ("clean_ids", "corrupted_ids", "answer_ids", "wrong_answer_ids")
    )
    named = row.get("spans") or []  # runs of earlier versions have no such column
    pair = PromptPair(
        clean=_text_or_ids(row["clean"], clean),
        corrupted=_text_or_ids(row["corrupted"], corrupted),
        answers=_answers(row["answers"], answers),
        wrong_answers=_answers(row["wrong_answers"], wrong),
        source=row["source"] or "",
        spans={span["name"]: _piece(span) for span in named},
        notes=_notes(row.get("notes")),
    )
    spans = {span["name"]: (span["first"], span["end"]) for span in named}
    token = TokenPair(row["prompt_id"], clean, corrupted, answers, wrong, pair, spans)
    return token if row.get("targets") is None else _targeted(token, row["targets"])


def _target(token: TokenPair) -> dict[str, Any] | None:
    """A cell of the column `targets`; None for answers of one token behind the prompt."""
    pair, several = token.pair, token.sequences
    if pair.target == "token" and several is None and pair.read is None and not token.corrupted_answers:
        return None
    given = pair.corrupted_answers
    return {
        "target": pair.target,
        "read": pair.read,
        "at": token.read,
        "answers": several and [list(tokens) for tokens in several.answers],
        "wrong_answers": several and [list(tokens) for tokens in several.wrong_answers],
        "corrupted_answers": [_words(answer) for answer in given] if given else None,
        "corrupted_answer_ids": list(token.corrupted_answers) or None,
    }


def _targeted(token: TokenPair, cell: dict[str, Any]) -> TokenPair:
    """The prompt with what the column says of its answers."""
    several = None
    if cell["answers"] is not None:
        several = Sequences(*(tuple(map(tuple, cell[name] or ())) for name in ("answers", "wrong_answers")))
    others = tuple(cell["corrupted_answer_ids"] or ())
    pair = replace(
        token.pair,
        target=cell["target"],
        read=cell["read"],
        corrupted_answers=_answers(cell["corrupted_answers"] or [], others),
    )
    if several is not None and not all(
        isinstance(word, str) for word in (*pair.answers, *pair.wrong_answers)
    ):
        pair = replace(pair, answers=several.answers, wrong_answers=several.wrong_answers)
    return replace(token, pair=pair, sequences=several, read=cell["at"], corrupted_answers=others)


def _notes(text: str | None) -> dict[str, Any]:
    try:
        notes = parse_json(text) if text else {}
    except ValueError:
        notes = None
    if not isinstance(notes, dict):
        raise RunDirectoryError(
            "prompts.parquet: the notes of a prompt are no JSON object; plan the run again"
        )
    return notes


def _span(token: TokenPair, name: str) -> dict[str, Any]:
    """A row of the column `spans`."""
    first, end = token.spans[name]
    piece, clean = token.pair.spans.get(name), token.pair.clean
    row: dict[str, Any] = {"name": name, "first": first, "end": end, "text": None, "start": None}
    if isinstance(piece, str):
        row["text"] = piece
    elif piece is not None and isinstance(clean, str):
        row |= {"text": clean[slice(*piece)], "start": piece[0]}
    return row


def _piece(span: dict[str, Any]) -> Piece:
    text, start = span["text"], span["start"]
    if text is None:
        return span["first"], span["end"]
    return text if start is None else (start, start + len(text))


def _words(value: Text | Answer) -> str | None:
    return value if isinstance(value, str) else None


def _text_or_ids(text: str | None, ids: tuple[int, ...]) -> Text:
    return ids if text is None else text


def _answers(words: list[str | None], ids: tuple[int, ...]) -> tuple[str | int, ...]:
    """The answers as given: words, or ids where there were no words."""
    if any(word is None for word in words):
        return ids
    return tuple(word for word in words if word is not None)
