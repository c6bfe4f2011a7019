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

Text = Callable[[Run, str, str, int | None], str]  # of a file, by task, method and number of edges


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
    name, text_of = _FORMATS[file_format]
    paths = []
    for of, id_ in ((of, id_) for of in tasks for id_ in methods):
        paths.append(place(folder) / name.format(task=of, method=id_, model=_model_name(run)))
        write_atomic(paths[-1], text_of(run, of, id_, top))
    return Exported(tuple(paths), _notes(run, methods) if file_format == "mib" else ())


def _csv(run: Run, task: str, method: str, top: int | None) -> str:
    frame = run.scores(method=method, task=task)
    return str((frame if top is None else frame.nsmallest(top, "rank")).to_csv(index=False))


def _drawn(as_text: Callable[[Any], str]) -> Text:
    """The circuit alone as a graph."""

    def text(run: Run, task: str, method: str, top: int | None) -> str:
        scores = run.edge_scores(method, task)
        if top is None and scores.kept is None:
            raise CircuitsError(f"{method} ranks edges and keeps none: say how many the graph has, --top 50")
        return as_text(Circuit.from_scores(scores, top=top).to_networkx())

    return text


def _json(words: Callable[[Circuit], Any]) -> Text:
    """The `top` edges, else those that the method kept, else none, with the scores of all; a list by lines."""

    def text(run: Run, task: str, method: str, top: int | None) -> str:
        scores = run.edge_scores(method, task)
        circuit = Circuit(scores.graph, np.zeros(scores.graph.n_edges, dtype=bool), np.asarray(scores.score))
        if top is not None or scores.kept is not None:
            circuit = Circuit.from_scores(scores, top=top)
        said = words(circuit)
        if isinstance(said, list):
            return "[\n" + ",\n".join(map(json.dumps, said)) + "\n]\n"
        return json.dumps(said, indent=1) + "\n"

    return text


# where the file of a task and method lies, and what is in it
_FORMATS: dict[str, tuple[str, Text]] = {
    "mib": ("{method}/{task}_{model}/importances.json", _json(Circuit.to_mib_json)),
    "csv": ("{task}/{method}.csv", _csv),
    "graphml": ("{task}/{method}.graphml", _drawn(graphml)),
    "dot": ("{task}/{method}.dot", _drawn(dot)),
    "acdc": ("{task}/{method}.acdc.json", _json(Circuit.to_acdc_json)),
    "auto_circuit": ("{task}/{method}.auto_circuit.json", _json(Circuit.to_auto_circuit_json)),
}
FORMATS = tuple(_FORMATS)


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
