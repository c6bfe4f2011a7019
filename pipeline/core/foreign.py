"""What files of others say of the edges of a graph: EAP-IG's and MIB's JSON and .pt, ACDC's edges, auto-circuit's edges
and pruning scores, CSV with a row per edge.

Knows the shapes of what they write, as text or as plain data. Does not know where a file lies, nor how `torch.save`
wrote it (`pipeline.models.saved`); what they call an edge is in `dialects`. Where ours are those of the model's
key-value heads, the scores of an edge's query heads are summed, and a set has all of them or none.
"""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from pipeline.core import dialects
from pipeline.core.documents import parse_json
from pipeline.core.errors import CircuitsError
from pipeline.core.exported import KEY_OR_VALUE, per_query_head, shares, ungrouped
from pipeline.core.graph import Graph

TEXT, SAVED = (".json", ".csv"), (".pt", ".pth", ".pkl")
SUFFIXES = TEXT + SAVED
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


@dataclass(frozen=True)
class Foreign:
    """What a file says of the edges of a graph: scores, NaN where it says none, and the circuit, where it has one."""

    score: Float[np.ndarray, " edge"]
    mask: Bool[np.ndarray, " edge"] | None


def read_circuit(text: str, where: str, graph: Graph) -> Foreign:
    """What a .json or .csv file called `where` says of this graph's edges. CircuitsError, which begins with that name,
    where it is malformed, of a model of another shape, or names what the graph does not have."""
    try:
        if where.lower().endswith(".csv"):
            return _gathered(graph, _of_csv(text, graph))
        # EAP-IG writes the score of a node that it has not scored as NaN
        return _gathered(graph, _of_data(parse_json(text, nan=True), graph))
    except _EdgeError as error:
        line = error.line or _line_of(text, error.name)
        raise CircuitsError(f"{where}: {'' if line is None else f'line {line}: '}{error}") from None
    except (CircuitsError, ValueError, csv.Error) as error:
        raise CircuitsError(f"{where}: {error}") from None


def read_data(data: Any, where: str, graph: Graph) -> Foreign:
    """The same of what a file held as plain data, its tensors as arrays."""
    try:
        return _gathered(graph, _of_data(data, graph))
    except (CircuitsError, ValueError) as error:
        raise CircuitsError(f"{where}: {error}") from None


class _EdgeError(CircuitsError):
    """One edge of a file is wrong."""

    def __init__(self, name: str, why: str, line: int | None = None) -> None:
        super().__init__(f"{name[:_SHOWN]!r} {why}")
        self.name, self.line = name, line


def _line_of(text: str, name: str) -> int | None:
    """The line of a JSON text in which a name is first, None where all is one line."""
    place = text.find(f'"{name}"')
    return text.count("\n", 0, place) + 1 if place >= 0 and "\n" in text.strip() else None


# --- shapes of documents -----------------------------------------------------------------------------------


def _of_csv(text: str, graph: Graph) -> Iterator[Said]:
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


def _of_data(data: Any, graph: Graph) -> Iterator[Said]:
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
            raise _EdgeError(str(what), f"has in_graph {about[1]!r}; give true or false")
    marks = [one for one in about if isinstance(one, bool)]
    scores = [one for one in about if one is not None and not isinstance(one, bool)]
    name = _spoken(what) if _is_quadruple(what) else what
    if not isinstance(name, str):
        raise CircuitsError(
            f"has {str(entry)[:_SHOWN]} for an edge; give its name, or ACDC's four words of it"
        )
    if len(marks) > 1 or len(scores) > 1 or not all(isinstance(one, int | float) for one in scores):
        shown = scores[0] if len(scores) == 1 else about
        raise _EdgeError(name, f"has the score {str(shown)[:_SHOWN]!r}, which is no number")
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
        inside = {one.edge for one in _of_data(edges, graph)} if edges else set()
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


# --- edge by edge ------------------------------------------------------------------------------------------


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
        raise _EdgeError(name, str(error), line) from None
    if score is not None and math.isinf(score):
        raise _EdgeError(name, f"has the score {score}, which is no number", line)
    return Said(name, edge, score, inside, line)


def _gated(said: Iterable[Said]) -> Iterator[Said]:
    """Edges of the residual stream alone. Where the file has gates, an edge into a port whose gate is shut or not there
    is not in the circuit."""
    listed = list(said)
    gates = [(one.edge.port, one.inside) for one in listed if isinstance(one.edge, dialects.Gate)]
    open_ports = {port for port, inside in gates if inside is not False}
    for one in listed:
        if not isinstance(one.edge, str):
            continue
        port = one.edge.partition("->")[2]
        shut = bool(gates) and port.endswith(">") and port not in open_ports
        yield Said(one.name, one.edge, one.score, False, one.line) if shut else one


def _gathered(graph: Graph, said: Iterable[Said]) -> Foreign:
    """Edge by edge. A file without membership that lists some edges alone is the circuit of these."""
    scores: dict[int, list[float]] = {}
    members: dict[int, list[bool]] = {}
    asked: dict[int, int] = {}  # how many names an edge has in the file's words
    seen: set[str] = set()
    marked = False
    for one in _gated(said):
        name = str(one.edge)
        if name in seen:
            raise _EdgeError(one.name, "is there twice; leave one out", one.line)
        seen.add(name)
        marked = marked or one.inside is not None
        try:
            ids, n_names = _ids(graph, name)
        except CircuitsError as error:
            raise _EdgeError(one.name, f"is not in this model: {error}", one.line) from None
        score = math.nan if one.score is None else one.score
        parts = [None] * len(ids) if math.isnan(score) else shares(score, len(ids))
        for edge, part in zip(ids, parts, strict=True):
            asked[edge] = n_names
            members.setdefault(edge, []).append(one.inside is not False)
            if part is not None:
                scores.setdefault(edge, []).append(part)
    if not seen:
        raise CircuitsError("lists no edge")
    values, mask = np.full(graph.n_edges, np.nan), np.zeros(graph.n_edges, dtype=bool)
    for edge, n_names in asked.items():
        marks, parts_of = members[edge], scores.get(edge, [])
        if len({*marks}) > 1 or len(marks) < n_names or len(parts_of) not in (0, n_names):
            raise CircuitsError(
                f"has some of the query heads of {graph.edge_name(edge)!r} and not all: take it with model.kv: "
                "query_head"
            )
        mask[edge] = marks[0]
        if parts_of:
            values[edge] = math.fsum(parts_of)
    whole = not marked and len(asked) == graph.n_edges  # a list of all edges is a list of scores
    return Foreign(values, None if whole else mask)


def _ids(graph: Graph, name: str) -> tuple[list[int], int]:
    """The edges that a name stands for, and how many such names each of them has."""
    group = graph.n_heads // graph.n_kv_heads
    found = KEY_OR_VALUE.fullmatch(name)
    if found is not None and graph.kv == "kv_head" and found["of"] == "h":
        if int(found["head"]) >= graph.n_heads:
            raise CircuitsError(f"no edge {name!r} in this graph ({graph.describe()})")
        return [graph.edge_id(f"{found['block']}.kv{int(found['head']) // group}{found['port']}")], group
    if found is not None and graph.kv == "query_head" and found["of"] == "kv":
        return [graph.edge_id(one) for one in ungrouped(graph, name)], 1
    return [graph.edge_id(name)], 1
