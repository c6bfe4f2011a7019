"""Scores and circuits in other people's words: the JSON of EAP-IG and of the MIB leaderboard, ACDC's hooks,
auto-circuit's pruning scores, networkx.

Knows graphs, scores and membership. Does not know where a file lies, nor who scored. All of them have a <k> and a <v>
per query head. Where ours are those of the model's key-value heads, `a3.kv1<k>` is there the edges of its query heads:
a set has all of them or none, and their scores, which add up to first order, are equal shares of ours.
"""

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from pipeline.core import dialects
from pipeline.core.graph import Graph

if TYPE_CHECKING:
    import networkx as nx

KEY_OR_VALUE = re.compile(r"(?P<block>.+->a\d{1,9})\.(?P<of>h|kv)(?P<head>\d{1,9})(?P<port><[kv]>)")

Mask = Bool[np.ndarray, " edge"]
Score = Float[np.ndarray, " edge"]


def mib_json(graph: Graph, mask: Mask, score: Score | None) -> dict[str, Any]:
    """What EAP-IG's `Graph.from_json` and the MIB leaderboard read; strict JSON.

    All edges are listed with score and membership; a score that was not measured is written as 0.0. Node scores are not
    written, because in that format an unscored node must be a bare NaN.
    """
    in_graph = set(graph.edge_senders[mask].tolist())
    nodes = {node.name: {"in_graph": i in in_graph} for i, node in enumerate(graph.senders)}
    nodes["logits"] = {"in_graph": True}
    said = by_query_head(graph, mask, score)
    edges = {name: {"score": share, "in_graph": inside} for name, (share, inside) in said.items()}
    cfg = {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": graph.d_model,
    }
    return {"cfg": cfg, "nodes": nodes, "edges": edges}


def acdc_json(graph: Graph, mask: Mask, score: Score | None) -> list[Any]:
    """ACDC's edges, those inside of nodes too: [[reads, index, writes, index], present, effect]. Its `load_subgraph`
    takes {(a, tuple(i), b, tuple(j)): present for (a, i, b, j), present, _ in these}. A port is open where the circuit
    has an edge into it."""
    theirs = per_query_head(graph)
    listed: list[Any] = []
    open_ports: set[str] = set()
    for edge, (share, inside) in enumerate(by_query_head(graph, mask, score).values()):
        one = theirs.edge(edge)
        listed.append([_listed(dialects.hooks_of(theirs, one.sender, one.receiver)), inside, share])
        if inside:
            open_ports.add(one.receiver.name)
    for hooks, port in dialects.inside(theirs):
        listed.append([_listed(hooks), port is None or port in open_ports, None])
    return listed


def auto_circuit_json(graph: Graph, mask: Mask | None, score: Score | None) -> dict[str, Any]:
    """auto-circuit's pruning scores, a list per module whose rows are its heads, and the names of the circuit's edges,
    where there is one."""
    theirs = per_query_head(graph)
    said = by_query_head(graph, np.zeros(graph.n_edges, dtype=bool) if mask is None else mask, score)
    values = np.asarray([share for share, _ in said.values()])
    scores: dict[str, Any] = {}
    for module, nodes, by_head in dialects.modules(theirs):
        rows = [values[theirs.edges_into(theirs.receiver_index(node.name))].tolist() for node in nodes]
        scores[module] = rows if by_head else rows[0]
    made: dict[str, Any] = {"prune_scores": scores}
    if mask is not None:
        kept = [theirs.edge(edge) for edge, (_, inside) in enumerate(said.values()) if inside]
        made["edges"] = [dialects.called(one.sender, one.receiver) for one in kept]
    return made


def _listed(hooks: dialects.Hooks) -> list[Any]:
    return [list(part) if isinstance(part, tuple) else part for part in hooks]


def per_query_head(graph: Graph) -> Graph:
    """The graph in which every query head has a <k> and a <v> of its own."""
    return Graph(graph.n_layers, graph.n_heads, graph.n_kv_heads, graph.parallel, d_model=graph.d_model)


def by_query_head(graph: Graph, mask: Mask, score: Score | None) -> dict[str, tuple[float, bool]]:
    """Score and membership of every edge of the graph of query heads, in its order; what was not measured is 0.0."""
    known = np.zeros(graph.n_edges) if score is None else np.nan_to_num(score, nan=0.0)
    said: dict[str, Any] = dict.fromkeys(per_query_head(graph).edge_names)
    for edge, name in enumerate(graph.edge_names):
        names = ungrouped(graph, name)
        for one, share in zip(names, shares(float(known[edge]), len(names)), strict=True):
            said[one] = share, bool(mask[edge])
    return said


def shares(score: float, n: int) -> list[float]:
    """`n` numbers as equal as they come whose exact sum rounds to `score`."""
    equal = score / n
    return [*[equal] * (n - 1), math.fsum([score, *[-equal] * (n - 1)])]  # the rest, rounded once


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


def ungrouped(graph: Graph, name: str) -> list[str]:
    """The names of an edge where every query head has a <k> and a <v> of its own."""
    found = KEY_OR_VALUE.fullmatch(name)
    if found is None or found["of"] == "h":
        return [name]
    group = graph.n_heads // graph.n_kv_heads
    first = int(found["head"]) * group
    return [f"{found['block']}.h{first + i}{found['port']}" for i in range(group)]
