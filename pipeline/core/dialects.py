"""What others call an edge: ACDC by two hooks of TransformerLens, auto-circuit by names of its own. EAP-IG's are ours.

Knows words. Does not know files or scores, nor whether a graph has the edge. ACDC has edges inside of nodes too: from
what a head reads to its query, key and value (one that is removed ablates all of it), and on to what the node writes,
which are always there. So an edge of theirs is one of ours, `Gate` of a port, or `None`, one that says nothing.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.core.errors import CircuitsError
from pipeline.core.graph import Graph, Node

Index = tuple[int | None, ...]
Hooks = tuple[str, Index, str, Index]  # of an edge: what reads, and what writes

_HOOK = r"(?:blocks\.\d{1,9}\.)?(?:attn\.)?hook_[a-z_]+"
_AT = r"\[[^\]]{0,40}\]"
_PAIR = re.compile(rf"(?P<one>{_HOOK})(?P<at>{_AT})\s*(?:->|<-|,)?\s*(?P<other>{_HOOK})(?P<other_at>{_AT})")
_BLOCK = re.compile(r"blocks\.(?P<layer>\d{1,9})\.(?P<what>(?:attn\.)?hook_[a-z_]+)")
_PORTS = {f"hook_{port}_input": port for port in "qkv"}
_GATES = {f"attn.hook_{port}": port for port in "qkv"}
APART = "is of single positions; a circuit is of all"
WHOLE = "reads q, k and v as one; run auto-circuit with separate_qkv=True"

_NAMED = re.compile(
    r"(?P<end>Resid (?:Start|End))|MLP (?P<mlp>\d{1,9})|A(?P<layer>\d{1,9})\.(?P<head>\d{1,9})(?:\.(?P<port>[QKV]))?"
)


@dataclass(frozen=True)
class Gate:
    """What a head does with all that a port reads: without it, no edge into the port is in the circuit."""

    port: str


Edge = str | Gate | None


# --- in ----------------------------------------------------------------------------------------------------


def meant(name: str, graph: Graph) -> Edge:
    """Our name of an edge that is called so by any of them; CircuitsError where it is of no such graph as ours."""
    if "hook_" in name:
        if (pair := _PAIR.fullmatch(name.strip())) is None:
            raise CircuitsError(
                "is no pair of hooks, as in blocks.1.hook_mlp_in[:]<-blocks.0.hook_mlp_out[:]"
            )
        return of_hooks(pair["one"], _index(pair["at"]), pair["other"], _index(pair["other_at"]), graph)
    sender, arrow, receiver = name.partition("->")
    if arrow and (sender[:1].isupper() or receiver[:1].isupper()):
        return f"{_named(sender, reads=False)}->{_named(receiver, reads=True)}"
    return name


def of_hooks(one: str, at: Sequence[Any], other: str, other_at: Sequence[Any], graph: Graph) -> Edge:
    """Our name of ACDC's edge between two hooks, in whichever order they are given."""
    found = dict([_place(one, at, graph), _place(other, other_at, graph)])
    if found.keys() == {"reads", "gate"} and found["reads"] == found["gate"]:
        return Gate(found["gate"])
    reader = found.get("reads", found.get("gate"))
    if reader is None or "writes" not in found:
        raise CircuitsError("leads from no node that writes to one that reads")
    if reader.partition("<")[0] == found["writes"]:
        return None
    return f"{found['writes']}->{reader}"


def _place(hook: str, at: Sequence[Any], graph: Graph) -> tuple[str, str]:
    """What a hook with its index does, and the node's name."""
    if hook in ("hook_embed", "hook_pos_embed"):
        raise CircuitsError(
            f"has {hook}, and our input is tokens and positions together; run ACDC with use_pos_embed=False"
        )
    found = _BLOCK.fullmatch(hook)
    if found is None:
        raise CircuitsError(f"has the hook {hook[:80]!r}, which is none of ACDC's")
    layer, what = int(found["layer"]), found["what"]
    port = _PORTS.get(what) or _GATES.get(what)
    of_head = port is not None or what == "attn.hook_result"
    match tuple(at):
        case (None, None, int(head)) if of_head and not isinstance(head, bool) and head >= 0:
            node = f"a{layer}.h{head}"
        case (None,) | (None, None, None) if not of_head:
            node = f"m{layer}"
        case (None, None, None) | (None,) | ():
            raise CircuitsError(f"has no head for {hook}; it is given as [:, :, 3]")
        case _:
            raise CircuitsError(APART)
    if port is not None:
        return "gate" if what in _GATES else "reads", f"{node}<{port}>"
    if what in ("attn.hook_result", "hook_mlp_out"):
        return "writes", node
    if what == "hook_mlp_in":
        return "reads", node
    if what == "hook_resid_pre" and layer == 0:
        return "writes", "input"
    if what == "hook_resid_post" and layer == graph.n_layers - 1:
        return "reads", "logits"
    if what in ("hook_resid_pre", "hook_resid_post"):
        raise CircuitsError(
            f"has {hook}; here the first is blocks.0.hook_resid_pre and the last "
            f"blocks.{graph.n_layers - 1}.hook_resid_post, so it is of another model"
        )
    raise CircuitsError(WHOLE if what == "hook_attn_in" else f"has the hook {hook}, which is none of ACDC's")


def _index(text: str) -> Index:
    """`[:, :, 3]` as (None, None, 3); what is no number stays out of every pattern as -1."""
    parts = [part.strip() for part in text[1:-1].split(",")]
    return tuple(None if part in (":", "COLON") else int(part) if part.isdecimal() else -1 for part in parts)


def _named(name: str, *, reads: bool) -> str:
    """Our name of one of auto-circuit's nodes."""
    found = _NAMED.fullmatch(name)
    if found is None:
        raise CircuitsError(f"has {name[:40]!r}, which is no node of auto-circuit's factorized graph")
    if found["end"]:
        if (found["end"] == "Resid End") != reads:
            raise CircuitsError(f"has {found['end']!r} at the wrong end")
        return "logits" if reads else "input"
    if found["mlp"]:
        return f"m{int(found['mlp'])}"
    node = f"a{int(found['layer'])}.h{int(found['head'])}"
    if reads and not found["port"]:
        raise CircuitsError(f"{name} {WHOLE}")
    if not reads and found["port"]:
        raise CircuitsError(f"has {name!r}, which writes nothing")
    return f"{node}<{found['port'].lower()}>" if reads else node


# --- out, and both ways ------------------------------------------------------------------------------------


def hooks_of(graph: Graph, sender: Node, receiver: Node) -> Hooks:
    """ACDC's edge of two of our nodes, of query heads all."""
    return (*_reading(graph, receiver), *_writing(sender))


def inside(graph: Graph) -> Iterator[tuple[Hooks, str | None]]:
    """ACDC's edges inside of nodes, and the port that each is the gate of."""
    for node in graph.senders[1:]:
        if node.kind == "mlp":
            yield (*_writing(node), f"blocks.{node.layer}.hook_mlp_in", (None,)), None
            continue
        at: Index = (None, None, node.head)
        for port in "qkv":
            gate = f"blocks.{node.layer}.attn.hook_{port}"
            yield (*_writing(node), gate, at), None
            yield (gate, at, f"blocks.{node.layer}.hook_{port}_input", at), f"{node.name}<{port}>"


def modules(graph: Graph) -> Iterator[tuple[str, list[Node], bool]]:
    """auto-circuit's masks: module, the nodes that read there, whether the mask has a row for each."""
    for layer in range(graph.n_layers):
        nodes = [node for node in graph.receivers if node.layer == layer]
        for port in ("q", "k", "v"):
            yield f"blocks.{layer}.hook_{port}_input", [node for node in nodes if node.port == port], True
        yield f"blocks.{layer}.hook_mlp_in", [node for node in nodes if node.kind == "mlp"], False
    yield f"blocks.{graph.n_layers - 1}.hook_resid_post", [graph.receivers[-1]], False


def called(sender: Node, receiver: Node) -> str:
    """auto-circuit's name of an edge."""
    ends = {"input": "Resid Start", "logits": "Resid End"}

    def name(node: Node) -> str:
        if node.kind == "mlp":
            return f"MLP {node.layer}"
        if node.kind == "head":
            return f"A{node.layer}.{node.head}" + (f".{node.port.upper()}" if node.port else "")
        return ends[node.kind]

    return f"{name(sender)}->{name(receiver)}"


def _reading(graph: Graph, node: Node) -> tuple[str, Index]:
    if node.kind == "head":
        return f"blocks.{node.layer}.hook_{node.port}_input", (None, None, node.head)
    if node.kind == "mlp":
        return f"blocks.{node.layer}.hook_mlp_in", (None,)
    return f"blocks.{graph.n_layers - 1}.hook_resid_post", (None,)


def _writing(node: Node) -> tuple[str, Index]:
    if node.kind == "head":
        return f"blocks.{node.layer}.attn.hook_result", (None, None, node.head)
    return (f"blocks.{node.layer}.hook_mlp_out" if node.kind == "mlp" else "blocks.0.hook_resid_pre"), (None,)
