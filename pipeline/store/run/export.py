"""Scores and circuits in other people's formats.

Knows the files of EAP-IG and of the MIB leaderboard, and CSV. Does not know how scores are computed.
"""

import json
import re
from dataclasses import dataclass

import numpy as np

from pipeline.core.circuit import Circuit
from pipeline.core.documents import suggest
from pipeline.core.errors import CircuitsError
from pipeline.store.place.atomic import write_atomic
from pipeline.store.place.where import Place, place
from pipeline.store.run.opened import Run

FORMATS = ("mib", "csv")


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
    else those that the method kept, else none.
    """
    if file_format not in FORMATS:
        raise CircuitsError(f"format {file_format!r} is unknown{suggest(file_format, FORMATS)}")
    tasks = run.tasks if task is None else (task,)
    methods = run.methods if method is None else (method,)
    if file_format == "mib":
        methods = tuple(m for m in methods if method is not None or run.level(m) == "edge")
    write = _write_csv if file_format == "csv" else _write_mib
    paths = tuple(write(run, place(folder), t, m, top) for t in tasks for m in methods)
    return Exported(paths, _notes(run, methods) if file_format == "mib" else ())


def _write_csv(run: Run, folder: Place, task: str, method: str, top: int | None) -> Place:
    frame = run.scores(method=method, task=task)
    if top is not None:
        frame = frame.nsmallest(top, "rank")
    path = folder / task / f"{method}.csv"
    write_atomic(path, frame.to_csv(index=False))
    return path


def _write_mib(run: Run, folder: Place, task: str, method: str, top: int | None) -> Place:
    scores = run.edge_scores(method, task)
    if top is not None or scores.kept is not None:
        circuit = Circuit.from_scores(scores, top=top)
    else:
        circuit = Circuit(scores.graph, np.zeros(scores.graph.n_edges, dtype=bool), np.asarray(scores.score))
    path = folder / method / f"{task}_{_model_name(run)}" / "importances.json"
    write_atomic(path, json.dumps(circuit.to_mib_json(), indent=1) + "\n")
    return path


def _model_name(run: Run) -> str:
    """The last part of the model's name in the characters that a folder may have."""
    last = str(run.manifest["model"]["name"]).rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9.-]+", "-", last).strip("-.") or "model"


def _notes(run: Run, methods: tuple[str, ...]) -> tuple[str, ...]:
    """Where the numbers differ from those that EAP-IG would write."""
    notes = ["scores are positive where the edge helps; EAP-IG has the same sign with loss=True"]
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
