"""The shapes of what others write of edges: EAP-IG's JSON and `to_pt`, ACDC's edges, auto-circuit's edges and pruning
scores, CSV. Each becomes a list of edges with what is said of them.

Knows text and plain data. Does not know which edges a graph has, nor where a file lies; what an edge is called is
`dialects`'.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core import dialects
from pipeline.core.errors import CircuitsError
from pipeline.core.exported import per_query_head
from pipeline.core.graph import Graph

_YES, _NO = ("true", "1", "yes"), ("false", "0", "no", "")
_SHOWN = 80
_WANTED = (
    "is nothing that EAP-IG, ACDC or auto-circuit write: needs edges: {name: {score: ..., in_graph: ...}}, a list of "
    "edges, or scores by module"
)


@dataclass(frozen=True)
class Said:
    """An edge by the name that the file has for it, its score, whether it is in the circuit, and the line."""

    name: str
    edge: dialects.Edge
    score: float | None
    inside: bool | None
    line: int | None = None


class EdgeError(CircuitsError):
    """One edge of a file is wrong."""

    def __init__(self, name: str, why: str, line: int | None = None) -> None:
        super().__init__(f"{name[:_SHOWN]!r} {why}")
        self.name, self.line = name, line


# --- shapes of documents -----------------------------------------------------------------------------------


def of_csv(text: str, graph: Graph) -> Iterator[Said]:
    """The edges of a table with a row for each. CircuitsError with the line of what cannot be read."""
    rows = csv.DictReader(io.StringIO(text))
    columns = rows.fieldnames or []
    if "edge" not in columns and not {"sender", "receiver"} <= {*columns}:
        raise CircuitsError(
            "needs a column edge (m0->logits), or sender and receiver; and score, in_graph or both"
        )
    inside = next((name for name in ("in_graph", "kept", "present") if name in columns), None)
    for row in rows:
        where = f"line {rows.line_num}"
        if None in row or None in row.values():
            raise CircuitsError(f"{where} has another number of cells than the first line")
        if row.get("span"):
            raise CircuitsError(f"{where} is of the span {row['span'][:40]!r}; a circuit is of all positions")
        word = row[inside].strip().lower() if inside is not None else ""
        if word not in _YES + _NO:
            raise CircuitsError(f"{where} has {inside} {word[:40]!r}; give true or false")
        name = row.get("edge") or "->".join(
            row[end] + row.get(f"{end}_index", "") for end in ("sender", "receiver")
        )
        member = None if inside is None or not word else word in _YES
        cell = row.get("score")
        try:
            score = float(cell) if cell else None
        except ValueError:
            raise CircuitsError(f"{where} has the score {str(cell)[:40]!r}, which is no number") from None
        yield _said(name, score, member, graph, rows.line_num)


def of_data(data: Any, graph: Graph) -> Iterator[Said]:
    """The edges of what a file held, whichever of the shapes it has; CircuitsError where it has none of them."""
    if isinstance(data, list):
        return (_of_entry(one, graph) for one in data)
    if not isinstance(data, dict):
        raise CircuitsError(_WANTED)
    _same_model(data.get("cfg"), graph)
    if "edges_scores" in data:
        return _of_matrix(data, graph)
    if "prune_scores" in data:
        return _of_modules(data["prune_scores"], data.get("edges"), graph)
    if isinstance(data.get("edges"), dict):
        data = data["edges"]
    if data and all(isinstance(name, tuple) for name in data):
        return (_of_entry([name, value], graph) for name, value in data.items())
    if any(isinstance(name, str) and _is_module(name) for name in data):
        return _of_modules(data, None, graph)
    if not data or any(isinstance(name, str) and ("->" in name or "hook_" in name) for name in data):
        return (_of_entry([name, value], graph) for name, value in data.items())
    sets = list(_sets_below(data))
    if len(sets) > 1:
        names = ", ".join("/".join(path)[:_SHOWN] for path, _ in sets[:3])
        raise CircuitsError(f"has {len(sets)} sets of scores ({names} ...); save one of them alone")
    if not sets:
        raise CircuitsError(_WANTED)
    return _of_modules(sets[0][1], None, graph)


def _same_model(cfg: Any, graph: Graph) -> None:
    if not isinstance(cfg, dict):
        return
    mine = {"n_layers": graph.n_layers, "n_heads": graph.n_heads, "parallel_attn_mlp": graph.parallel}
    if graph.d_model is not None:
        mine["d_model"] = graph.d_model
    for key, value in mine.items():
        if (theirs := cfg.get(key)) is not None and theirs != value:
            raise CircuitsError(f"is of a model with {key} {theirs!r}; here it is {value!r}, another model")


def _of_entry(entry: Any, graph: Graph) -> Said:
    """An edge, its name or ACDC's four words, alone or followed by its score, its membership or both."""
    what, *about = entry if isinstance(entry, list | tuple) and not _is_quadruple(entry) else [entry]
    if len(about) == 1 and isinstance(about[0], dict):
        about = [about[0].get("score"), about[0].get("in_graph")]
        if about[1] is not None and not isinstance(about[1], bool):
            raise EdgeError(str(what), f"has in_graph {about[1]!r}; give true or false")
    marks = [one for one in about if isinstance(one, bool)]
    scores = [one for one in about if one is not None and not isinstance(one, bool)]
    name = _spoken(what) if _is_quadruple(what) else what
    if not isinstance(name, str):
        raise CircuitsError(
            f"has {str(entry)[:_SHOWN]} for an edge; give its name, or ACDC's four words of it"
        )
    if len(marks) > 1 or len(scores) > 1 or not all(isinstance(one, int | float) for one in scores):
        shown = scores[0] if len(scores) == 1 else about
        raise EdgeError(name, f"has the score {str(shown)[:_SHOWN]!r}, which is no number")
    score, inside = float(scores[0]) if scores else None, marks[0] if marks else None
    return _said(name, score, inside, graph, hooks=what if _is_quadruple(what) else None)


def _is_quadruple(entry: Any) -> bool:
    """Whether this is ACDC's (receiver, index, sender, index)."""
    return (
        isinstance(entry, list | tuple)
        and len(entry) == 4
        and all(isinstance(entry[i], str) and isinstance(entry[i + 1], list | tuple) for i in (0, 2))
    )


def _spoken(hooks: Sequence[Any]) -> str:
    """ACDC's four words as ACDC prints them."""
    ends = (
        f"{hook}[{', '.join(':' if one is None else str(one) for one in at)}]"
        for hook, at in (hooks[:2], hooks[2:])
    )
    return "<-".join(ends)


def _of_matrix(data: Mapping[str, Any], graph: Graph) -> Iterator[Said]:
    """EAP-IG's `to_pt`: scores and membership by writing and reading node."""
    theirs = per_query_head(graph)
    senders, receivers = data.get("src_nodes"), data.get("dst_nodes")
    expected = [node.name for node in theirs.senders], [node.name for node in theirs.receivers]
    for names, mine in zip((senders, receivers), expected, strict=True):
        if not isinstance(names, list) or [str(name) for name in names] != mine:
            raise CircuitsError(f"is of a model with other nodes than this ({graph.describe()})")
    shape = len(expected[0]), len(expected[1])
    scores, inside = (_array(data, key, shape) for key in ("edges_scores", "edges_in_graph"))
    for name, sender, receiver in zip(
        theirs.edge_names, theirs.edge_senders, theirs.edge_receivers, strict=True
    ):
        yield _said(name, float(scores[sender, receiver]), bool(inside[sender, receiver]), graph)


def _array(data: Mapping[str, Any], key: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        found = np.asarray(data.get(key))
    except ValueError:  # of lists of several lengths
        raise CircuitsError(f"{key} has rows of several lengths; its shape is {shape}") from None
    if found.dtype.kind not in "bif":
        raise CircuitsError(f"{key} is no array of numbers")
    if found.shape != shape:
        apart = ": " + dialects.APART if found.ndim == len(shape) + 1 else ", and so of another model"
        raise CircuitsError(f"{key} has the shape {found.shape}; here it is {shape}{apart}")
    return found


def _is_module(name: str) -> bool:
    return name.startswith("blocks.") and "hook_" in name and "[" not in name


def _sets_below(data: Mapping[Any, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Scores by module that lie below names of tasks and methods, as auto-circuit keeps them."""
    for name, value in data.items():
        if isinstance(value, dict) and len(path) < 3:
            here = (*path, str(name))
            if any(isinstance(key, str) and _is_module(key) for key in value):
                yield here, value
            else:
                yield from _sets_below(value, here)


def _of_modules(scores: Any, edges: Any, graph: Graph) -> Iterator[Said]:
    """auto-circuit's pruning scores: of each module a row per head and a column per node that it reads; truth values
    are a circuit."""
    theirs = per_query_head(graph)
    known = list(dialects.modules(theirs))
    if not isinstance(scores, dict):
        raise CircuitsError("prune_scores: give {module: scores}")
    for module in scores:
        if module not in {name for name, *_ in known}:
            _refuse_module(str(module), graph)
    inside = None
    if edges is not None:
        inside = {one.edge for one in of_data(edges, graph)} if edges else set()
    for module, nodes, by_head in known:
        if module not in scores:
            raise CircuitsError(f"lacks {module}; it is of another model than this ({graph.describe()})")
        reads = int(theirs.senders_read[theirs.receiver_index(nodes[0].name)])
        found = _array(scores, module, (len(nodes), reads) if by_head else (reads,))
        is_set = found.dtype.kind == "b"
        for node, row in zip(nodes, np.atleast_2d(found), strict=True):
            for sender, value in zip(theirs.senders, row, strict=False):
                name = f"{sender.name}->{node.name}"
                member = bool(value) if is_set else None if inside is None else name in inside
                yield _said(name, None if is_set else float(value), member, graph)


def _refuse_module(module: str, graph: Graph) -> None:
    if module.endswith("hook_attn_in"):
        raise CircuitsError(f"{module} {dialects.WHOLE}")
    raise CircuitsError(f"has {module[:_SHOWN]!r}, which this model has not ({graph.describe()})")


# --- one edge -------------------------------------------------------------------------------------------


def _said(
    name: str,
    score: float | None,
    inside: bool | None,
    graph: Graph,
    line: int | None = None,
    hooks: Sequence[Any] | None = None,
) -> Said:
    try:
        if hooks is None:
            edge = dialects.meant(name, graph)
        else:
            one, at, other, other_at = hooks
            edge = dialects.of_hooks(one, at, other, other_at, graph)
    except CircuitsError as error:
        raise EdgeError(name, str(error), line) from None
    if score is not None and math.isinf(score):
        raise EdgeError(name, f"has the score {score}, which is no number", line)
    return Said(name, edge, score, inside, line)
