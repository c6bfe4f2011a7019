"""The circuit that somebody put beside their prompts: `circuit.json`, in the folder of the prompts.

    {"model": "my-model", "edges": ["input->a0.h0<v>", "a0.h0->logits"]}        or "nodes": ["a0.h0"]

It is that of the model whose folder it lies in, or of the one that it names as the config does. Read are also the
`effective_edges` of the compiled models of tracr, and what `circuits export` writes for MIB. Knows files and names.
Does not know prompts or scores.
"""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.core.documents import parse_json
from pipeline.core.errors import PromptError
from pipeline.core.graph import Graph

FILE = "circuit.json"
MOST = 64 << 20  # bytes


def circuit_beside(prompts: Path, graph: Graph, model: str) -> tuple[str, ...] | None:
    """The edges, or else the nodes, that the file beside `prompts` says; None where there is none, or it says no
    circuit of this model. PromptError for names that the graph does not have."""
    folder = prompts if prompts.is_dir() else prompts.parent
    file = folder / FILE
    if not file.is_file() or file.stat().st_size > MOST:
        return None
    try:
        said = parse_json(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    if not isinstance(said, dict) or not _is_of(said, folder, model):
        return None
    for key in ("edges", "effective_edges", "nodes"):
        if names := _names(said.get(key)):
            nodes = key == "nodes"
            known = [node.name for node in graph.senders] if nodes else graph.edge_names
            _refuse_unknown(file, names, known, "node" if nodes else "edge")
            return names
    return None


def _is_of(said: dict[str, Any], folder: Path, model: str) -> bool:
    """Whether a circuit is that of a model."""
    if (named := said.get("model")) is not None:
        return named == model or (Path(model).is_dir() and named == Path(model).resolve().name)
    return Path(model).is_dir() and Path(model).resolve() == folder.resolve()


def _names(value: Any) -> tuple[str, ...]:
    """The names of a list, or the keys of a mapping but for those that are marked as outside."""
    if isinstance(value, dict):
        return tuple(name for name, about in value.items() if not _outside(about))
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(dict.fromkeys(value))
    return ()


def _outside(about: Any) -> bool:
    return isinstance(about, dict) and about.get("in_graph") is False


def _refuse_unknown(file: Path, names: Iterable[str], known: Iterable[str], what: str) -> None:
    there = set(known)
    for name in names:
        if name not in there:
            near = difflib.get_close_matches(name, there, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise PromptError(f"{file}: {name[:80]!r} is no {what} of this model's graph{hint}")
