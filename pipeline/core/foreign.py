"""What a file of somebody else's says of the edges of a graph: scores, and a circuit.

Knows a graph and a list of edges with what is said of them (`said` has them from a file's text or data). Does not know
where a file lies, nor how `torch.save` wrote it (`pipeline.models.saved`). Where ours are those of the model's
key-value heads, the scores of an edge's query heads are summed, and a set has all of them or none.
"""

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from pipeline.core import dialects
from pipeline.core.documents import parse_json
from pipeline.core.errors import CircuitsError
from pipeline.core.exported import KEY_OR_VALUE, shares, ungrouped
from pipeline.core.graph import Graph
from pipeline.core.said import EdgeError, Said, of_csv, of_data

TEXT, SAVED = (".json", ".csv"), (".pt", ".pth", ".pkl")
SUFFIXES = TEXT + SAVED


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
            return _gathered(graph, of_csv(text, graph))
        # EAP-IG writes the score of a node that it has not scored as NaN
        return _gathered(graph, of_data(parse_json(text, nan=True), graph))
    except EdgeError as error:
        line = error.line or _line_of(text, error.name)
        raise CircuitsError(f"{where}: {'' if line is None else f'line {line}: '}{error}") from None
    except (CircuitsError, ValueError, csv.Error) as error:
        raise CircuitsError(f"{where}: {error}") from None


def read_data(data: Any, where: str, graph: Graph) -> Foreign:
    """The same of what a file held as plain data, its tensors as arrays."""
    try:
        return _gathered(graph, of_data(data, graph))
    except (CircuitsError, ValueError) as error:
        raise CircuitsError(f"{where}: {error}") from None


def _line_of(text: str, name: str) -> int | None:
    """The line of a JSON text in which a name is first, None where all is one line."""
    place = text.find(f'"{name}"')
    return text.count("\n", 0, place) + 1 if place >= 0 and "\n" in text.strip() else None


# --- edge by edge ------------------------------------------------------------------------------------------


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
            raise EdgeError(one.name, "is there twice; leave one out", one.line)
        seen.add(name)
        marked = marked or one.inside is not None
        try:
            ids, n_names = _ids(graph, name)
        except CircuitsError as error:
            raise EdgeError(one.name, f"is not in this model: {error}", one.line) from None
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
