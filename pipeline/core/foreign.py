"""Circuits in other people's words: the JSON of EAP-IG and of the MIB leaderboard, CSV lists of edges, networkx.

Knows names of nodes and edges, scores and membership. Does not know where a file lies, nor who scored. EAP-IG has a
<k> and a <v> per query head. Where ours are those of the model's key-value heads, `a3.kv1<k>` is there the edges of its
query heads: a set has all of them or none, and their scores, which add up to first order, are equal shares of ours and
summed when read.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from pipeline.core.documents import parse_json
from pipeline.core.errors import CircuitsError
from pipeline.core.graph import Graph

if TYPE_CHECKING:
    import networkx as nx

SUFFIXES = (".json", ".csv")
_KEY_OR_VALUE = re.compile(r"(?P<block>.+->a\d{1,9})\.(?P<of>h|kv)(?P<head>\d{1,9})(?P<port><[kv]>)")
_YES, _NO = ("true", "1", "yes"), ("false", "0", "no", "")

Mask = Bool[np.ndarray, " edge"]
Score = Float[np.ndarray, " edge"]
Said = tuple[str, float | None, bool | None]  # an edge's name, its score, whether it is in the circuit


@dataclass(frozen=True)
class Foreign:
    """What a file says of the edges of a graph: scores, NaN where it says none, and the circuit, where it has one."""

    score: Score
    mask: Mask | None


# --- out ---------------------------------------------------------------------------------------------------


def mib_json(graph: Graph, mask: Mask, score: Score | None) -> dict[str, Any]:
    """What EAP-IG's `Graph.from_json` and the MIB leaderboard read; strict JSON.

    All edges are listed with score and membership; a score that was not measured is written as 0.0. Node scores are not
    written, because in that format an unscored node must be a bare NaN.
    """
    known = np.zeros(graph.n_edges) if score is None else np.nan_to_num(score, nan=0.0)
    in_graph = set(graph.edge_senders[mask].tolist())
    nodes = {node.name: {"in_graph": i in in_graph} for i, node in enumerate(graph.senders)}
    nodes["logits"] = {"in_graph": True}
    theirs = Graph(graph.n_layers, graph.n_heads, graph.n_kv_heads, graph.parallel)
    edges: dict[str, Any] = dict.fromkeys(theirs.edge_names)  # in their order
    for edge, name in enumerate(graph.edge_names):
        names = _ungrouped(graph, name)
        for one, share in zip(names, shares(float(known[edge]), len(names)), strict=True):
            edges[one] = {"score": share, "in_graph": bool(mask[edge])}
    cfg = {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": graph.d_model,
    }
    return {"cfg": cfg, "nodes": nodes, "edges": edges}


def shares(score: float, n: int) -> list[float]:
    """`n` numbers as equal as they come whose exact sum rounds to `score`."""
    equal = score / n
    return [*[equal] * (n - 1), score - math.fsum([equal] * (n - 1))]


def to_networkx(graph: Graph, mask: Mask, score: Score | None) -> "nx.MultiDiGraph":
    """The circuit as a graph: nodes have `kind`, `layer` and `head`, and edges `edge` (the name), `port` and `score`,
    where these are known. A key-value head leads to its query heads by edges of the kind `group`."""
    import networkx as nx

    made = nx.MultiDiGraph()
    for node in graph.nodes:
        about = {"kind": node.kind, "layer": node.layer, "head": node.head}
        made.add_node(node.name, **{key: value for key, value in about.items() if value is not None})
    for edge in np.flatnonzero(mask):
        sender, receiver = graph.edge_senders[edge], graph.receivers[graph.edge_receivers[edge]]
        reader = receiver.name.partition("<")[0]
        if receiver.grouped and reader not in made:
            made.add_node(reader, kind="kv_head", layer=receiver.layer, head=receiver.head)
            for fed in graph.senders_fed_by(int(graph.edge_receivers[edge])):
                made.add_edge(reader, graph.senders[fed].name, kind="group")
        name = graph.edge_name(int(edge))
        what: dict[str, Any] = {"kind": "edge", "edge": name, "port": receiver.port}
        what["score"] = None if score is None or math.isnan(score[edge]) else float(score[edge])
        known = {key: value for key, value in what.items() if value is not None}
        made.add_edge(graph.senders[sender].name, reader, key=receiver.port or "", **known)
    made.remove_nodes_from([name for name, degree in list(made.degree) if not degree])
    return made


def graphml(made: "nx.MultiDiGraph") -> str:
    """The graph as GraphML."""
    import networkx as nx

    return "\n".join(nx.generate_graphml(made)) + "\n"


def dot(made: "nx.MultiDiGraph") -> str:
    """The graph in graphviz's language, a rank per layer; lines are as wide as scores are large, red where one is
    negative."""
    largest = max((abs(about.get("score", 0.0)) for *_, about in made.edges(data=True)), default=0.0) or 1.0
    lines = ["digraph circuit {", "  rankdir=BT;", '  node [shape=box, style=rounded, fontname="Helvetica"];']
    ranks: dict[Any, list[str]] = {}
    for name, about in made.nodes(data=True):
        ranks.setdefault((about.get("layer"), about["kind"] == "mlp"), []).append(name)
    for (layer, _), names in ranks.items():
        same = "".join(f' "{name}";' for name in names)
        lines.append(f"  {{ rank=same;{same} }}" if layer is not None else f" {same}")
    for sender, reader, about in made.edges(data=True):
        score = about.get("score", 0.0)
        wide = f"penwidth={0.5 + 4.5 * abs(score) / largest:.3g}"
        look = 'style=dotted, arrowhead="none"' if about["kind"] == "group" else wide
        colour = ', color="#c0392b"' if score < 0 else ""
        label = f', label="{about["port"]}", fontsize=9' if "port" in about else ""
        tip = f', tooltip="{about["edge"]} {score:.4g}"' if "edge" in about else ""
        lines.append(f'  "{sender}" -> "{reader}" [{look}{colour}{label}{tip}];')
    return "\n".join([*lines, "}", ""])


# --- in ----------------------------------------------------------------------------------------------------


def read_circuit(text: str, where: str, graph: Graph) -> Foreign:
    """What a .json or .csv file called `where` says of this graph's edges. CircuitsError, which begins with that name,
    where it is malformed, of a model of another shape, or names what the graph does not have."""
    try:
        return _gathered(graph, _of_csv(text) if where.lower().endswith(".csv") else _of_json(text, graph))
    except (CircuitsError, ValueError, csv.Error) as error:
        raise CircuitsError(f"{where}: {error}") from None


def _of_json(text: str, graph: Graph) -> Iterator[Said]:
    said = parse_json(text, nan=True)  # EAP-IG writes the score of a node that it has not scored as NaN
    if not isinstance(said, dict) or not isinstance(said.get("edges"), dict):
        raise CircuitsError(
            "needs edges: {name: {score: ..., in_graph: ...}}, as EAP-IG's Graph.to_json writes"
        )
    cfg = said.get("cfg")
    if isinstance(cfg, dict):
        mine = {"n_layers": graph.n_layers, "n_heads": graph.n_heads, "parallel_attn_mlp": graph.parallel}
        if graph.d_model is not None:
            mine["d_model"] = graph.d_model
        for key, value in mine.items():
            if (theirs := cfg.get(key)) is not None and theirs != value:
                raise CircuitsError(
                    f"is of a model with {key} {theirs!r}; here it is {value!r}, another model"
                )
    for name, about in said["edges"].items():
        if not isinstance(about, dict):
            raise CircuitsError(f"{name[:80]!r} has {about!r}; give {{score: ..., in_graph: ...}}")
        score, inside = about.get("score"), about.get("in_graph")
        if score is not None and (isinstance(score, bool) or not isinstance(score, int | float)):
            raise CircuitsError(f"{name[:80]!r} has the score {score!r}, which is no number")
        if inside is not None and not isinstance(inside, bool):
            raise CircuitsError(f"{name[:80]!r} has in_graph {inside!r}; give true or false")
        yield name, None if score is None else float(score), inside


def _of_csv(text: str) -> Iterator[Said]:
    rows = csv.DictReader(io.StringIO(text))
    columns = rows.fieldnames or []
    if "edge" not in columns and not {"sender", "receiver"} <= {*columns}:
        raise CircuitsError(
            "needs a column edge (m0->logits), or sender and receiver; and score, in_graph or both"
        )
    inside = next((name for name in ("in_graph", "kept") if name in columns), None)
    for row in rows:
        where = f"line {rows.line_num}"
        if None in row or None in row.values():
            raise CircuitsError(f"{where} has another number of cells than the first line")
        if row.get("span"):
            raise CircuitsError(f"{where} is of the span {row['span'][:40]!r}; a circuit is of all positions")
        word = row[inside].strip().lower() if inside is not None else ""
        if word not in _YES + _NO:
            raise CircuitsError(f"{where} has {inside} {word[:40]!r}; give true or false")
        member = None if inside is None or not word else word in _YES
        yield (
            row.get("edge") or f"{row['sender']}->{row['receiver']}",
            _number(row.get("score"), where),
            member,
        )


def _number(cell: str | None, where: str) -> float | None:
    try:
        return float(cell) if cell else None
    except ValueError:
        raise CircuitsError(f"{where} has the score {str(cell)[:40]!r}, which is no number") from None


def _gathered(graph: Graph, said: Iterable[Said]) -> Foreign:
    """Edge by edge. A file without membership that lists some edges alone is the circuit of these."""
    scores: dict[int, list[float]] = {}
    members: dict[int, list[bool]] = {}
    asked: dict[int, int] = {}  # how many names an edge has in the file's words
    seen: set[str] = set()
    marked = False
    for name, score, inside in said:
        if name in seen:
            raise CircuitsError(f"{name[:80]!r} is there twice")
        seen.add(name)
        if score is not None and math.isinf(score):
            raise CircuitsError(f"{name[:80]!r} has the score {score}, which is no number")
        marked = marked or inside is not None
        ids, n_names = _ids(graph, name)
        parts = [None] * len(ids) if score is None or math.isnan(score) else shares(score, len(ids))
        for edge, part in zip(ids, parts, strict=True):
            asked[edge] = n_names
            members.setdefault(edge, []).append(inside is not False)
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
    found = _KEY_OR_VALUE.fullmatch(name)
    if found is not None and graph.kv == "kv_head" and found["of"] == "h":
        if int(found["head"]) >= graph.n_heads:
            raise CircuitsError(f"no edge {name!r} in this graph ({graph.describe()})")
        return [graph.edge_id(f"{found['block']}.kv{int(found['head']) // group}{found['port']}")], group
    if found is not None and graph.kv == "query_head" and found["of"] == "kv":
        return [graph.edge_id(one) for one in _ungrouped(graph, name)], 1
    return [graph.edge_id(name)], 1


def _ungrouped(graph: Graph, name: str) -> list[str]:
    """The names of an edge where every query head has a <k> and a <v> of its own."""
    found = _KEY_OR_VALUE.fullmatch(name)
    if found is None or found["of"] == "h":
        return [name]
    group = graph.n_heads // graph.n_kv_heads
    first = int(found["head"]) * group
    return [f"{found['block']}.h{first + i}{found['port']}" for i in range(group)]
