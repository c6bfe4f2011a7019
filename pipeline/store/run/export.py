"""Scores and circuits in other people's formats.

Knows which files there are and where they lie; `core.exported` knows what is in them. Does not know how scores are
computed.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.circuit import Circuit
from pipeline.core.documents import suggest
from pipeline.core.errors import CircuitsError
from pipeline.core.exported import dot, graphml
from pipeline.store.place.atomic import write_atomic
from pipeline.store.place.where import Place, place
from pipeline.store.run.opened import Run

FORMATS = ("mib", "csv", "graphml", "dot", "acdc", "auto_circuit")


@dataclass(frozen=True)
class Exported:
    """The files that were written, and what their reader has to know."""

    paths: tuple[Place, ...]
    notes: tuple[str, ...]


def export(
    run: Run,
    file_format: str,
    folder: str | Place,
    *,
    task: str | None = None,
    method: str | None = None,
    top: int | None = None,
) -> Exported:
    """Writes the merged scores of the run, or of one task or method, under `folder`.

    `csv`: `{task}/{method}.csv` with the columns of `load_scores`, the first `top` rows by rank. `mib`: the
    layout of the leaderboard, `{method}/{task}_{model}/importances.json`; in the circuit are the `top` edges,
    else those that the method kept, else none. `acdc` and `auto_circuit`: `{task}/{method}.acdc.json` and
    `.auto_circuit.json`, edges and scores in their words. `graphml` and `dot`: `{task}/{method}.graphml` and `.dot`,
    the circuit alone, which they need.
    """
    if file_format not in FORMATS:
        raise CircuitsError(f"format {file_format!r} is unknown{suggest(file_format, FORMATS)}")
    tasks = run.found_on if task is None else (task,)
    methods = run.methods if method is None else (method,)
    if file_format != "csv":
        methods = tuple(m for m in methods if method is not None or run.level(m) == "edge")
    write = _WRITE[file_format]
    paths = tuple(write(run, place(folder), t, m, top) for t in tasks for m in methods)
    return Exported(paths, _notes(run, methods) if file_format == "mib" else ())


def _write_csv(run: Run, folder: Place, task: str, method: str, top: int | None) -> Place:
    frame = run.scores(method=method, task=task)
    if top is not None:
        frame = frame.nsmallest(top, "rank")
    path = folder / task / f"{method}.csv"
    write_atomic(path, frame.to_csv(index=False))
    return path


def _write_graphml(run: Run, folder: Place, task: str, method: str, top: int | None) -> Place:
    return _write_graph(run, folder / task / f"{method}.graphml", task, method, top, graphml)


def _write_dot(run: Run, folder: Place, task: str, method: str, top: int | None) -> Place:
    return _write_graph(run, folder / task / f"{method}.dot", task, method, top, dot)


def _write_graph(
    run: Run, path: Place, task: str, method: str, top: int | None, as_text: Callable[[Any], str]
) -> Place:
    scores = run.edge_scores(method, task)
    if top is None and scores.kept is None:
        raise CircuitsError(f"{method} ranks edges and keeps none: say how many the graph has, --top 50")
    write_atomic(path, as_text(Circuit.from_scores(scores, top=top).to_networkx()))
    return path


def _write_mib(run: Run, folder: Place, task: str, method: str, top: int | None) -> Place:
    path = folder / method / f"{task}_{_model_name(run)}" / "importances.json"
    return _write_json(path, _circuit_of(run, method, task, top).to_mib_json())


def _write_acdc(run: Run, folder: Place, task: str, method: str, top: int | None) -> Place:
    circuit = _circuit_of(run, method, task, top)
    return _write_json(folder / task / f"{method}.acdc.json", circuit.to_acdc_json())


def _write_auto_circuit(run: Run, folder: Place, task: str, method: str, top: int | None) -> Place:
    circuit = _circuit_of(run, method, task, top)
    return _write_json(folder / task / f"{method}.auto_circuit.json", circuit.to_auto_circuit_json())


def _circuit_of(run: Run, method: str, task: str, top: int | None) -> Circuit:
    """The `top` edges, else those that the method kept, else none; with the scores of all."""
    scores = run.edge_scores(method, task)
    if top is not None or scores.kept is not None:
        return Circuit.from_scores(scores, top=top)
    return Circuit(scores.graph, np.zeros(scores.graph.n_edges, dtype=bool), np.asarray(scores.score))


def _write_json(path: Place, said: Any) -> Place:
    by_edge = "[\n" + ",\n".join(map(json.dumps, said)) + "\n]"
    text = by_edge if isinstance(said, list) else json.dumps(said, indent=1)
    write_atomic(path, text + "\n")
    return path


_WRITE = {
    "csv": _write_csv,
    "mib": _write_mib,
    "graphml": _write_graphml,
    "dot": _write_dot,
    "acdc": _write_acdc,
    "auto_circuit": _write_auto_circuit,
}


def _model_name(run: Run) -> str:
    """The last part of the model's name in the characters that a folder may have."""
    last = str(run.manifest["model"]["name"]).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9.-]+", "-", last).strip("-.") or "model"


def _notes(run: Run, methods: tuple[str, ...]) -> tuple[str, ...]:
    """Where the numbers differ from those that EAP-IG would write."""
    grouped = run.graph.kv == "kv_head" and run.graph.n_kv_heads < run.graph.n_heads
    notes = (
        ["a <k> or <v> of a key-value head is there those of its query heads, in equal shares"]
        if grouped
        else []
    )
    notes += ["scores are positive where the edge helps; EAP-IG has the same sign with loss=True"]
    parameters = [run.manifest["methods"][method]["parameters"] for method in methods]
    if ablations := sorted({p["ablation"] for p in parameters} - {"corrupted"}):
        notes.append(
            f"under {', '.join(ablations)} our `input` is token and position embeddings, EAP-IG's the former "
            "alone: scores of input->* edges differ"
        )
    post_norm = run.manifest["model"].get("post_norm")
    if post_norm == "own":
        notes.append(
            "post_norm: own: heads write their share behind the norm after attention, where MIB norms the sum of kept "
            "and exchanged heads: circuits have another faithfulness there; run with model.post_norm: mixed"
        )
    if post_norm == "mixed" and {p.get("name") for p in parameters} & {"eap", "eap_ig"}:
        notes.append(
            "EAP-IG multiplies gradients by what heads change in front of the norm after attention, eap and eap_ig by "
            "what that changes behind it: scores of edges from heads differ; run with model.post_norm: mib for its own"
        )
    return tuple(notes)
