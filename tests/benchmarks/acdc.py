"""Exact ACDC: one circuit, a sweep of thresholds, a small model, and two workers in lock-step against one.

A naive ACDC costs at least one stock forward per edge, which is what single circuits are held against. Equality with
it is a matter of tests (`tests/methods`), not of these rows.
"""

import json
import os
import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from flows.real import FOLDER
from pipeline import load_model
from pipeline.config import RunConfig
from pipeline.engine.batch import Batch
from pipeline.engine.patchable import PatchableModel
from pipeline.methods import Acdc
from pipeline.models.load import resolve_model
from pipeline.schedule import make_plan
from pipeline.schedule.drives import run_search, searches
from pipeline.schedule.pools import open_pool
from pipeline.schedule.preparing import prepare
from pipeline.store.run.opened import open_run
from tests.benchmarks.measure import cpu_seconds, row
from tests.benchmarks.models import ioi_like
from tests.benchmarks.ops import operation_rows

SINGLE = (
    ("kl_divergence", 0.1),
    ("kl_divergence", 0.01),
    ("kl_divergence", 0.001),
    ("kl_divergence", 0.0001),
    ("logit_diff", 0.01),
)
SWEPT = tuple(float(t) for t in np.geomspace(0.1, 0.001, 10).round(6))
REPETITIONS = 5


def acdc_rows(model: PatchableModel, stock: Any, weights: str) -> list[dict[str, Any]]:
    """One circuit of the GPT-2 shape, 8 prompts of 10 tokens."""
    batch = model.batch_from_ids(**ioi_like(8))
    forward = _forward_seconds(stock, batch)
    return [_against_forwards(model, batch, forward, m, t, weights) for m, t in SINGLE]


def tiny_rows() -> list[dict[str, Any]]:
    """One circuit of the bundled trained model, and of a pretrained one of five layers where it is at hand."""
    found = []
    for name, task, threshold in (
        ("toy:trained", {"name": "induction", "count": 8}, 0.01),
        (shared("models/stories260K"), _prompts("prompts/pronoun.jsonl"), 0.001),
    ):
        if name.startswith("toy:") or Path(name).is_dir():
            model, batch = small_model(name, task)
            stock = AutoModelForCausalLM.from_pretrained(resolve_model(name).path)
            forward = _forward_seconds(stock, batch)
            what = f"{Path(name).name}, B{batch.n_prompts} T{batch.length}"
            found.append(_against_forwards(model, batch, forward, "kl_divergence", threshold, what, 3))
    return found


def vocabulary_rows() -> list[dict[str, Any]]:
    """One circuit of a language model with a vocabulary of its own, where `make real` has made it, with exact and with
    bounded scores; against forwards with logits at the answer alone."""
    if not FOLDER.is_dir():
        return []
    model, batch = small_model(str(FOLDER), {"name": "ioi", "count": 8})
    stock = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    with torch.no_grad():
        forward = cpu_seconds(
            lambda: stock(input_ids=batch.clean, use_cache=False, logits_to_keep=1).logits, 5
        )
    rows = []
    for threshold in (0.3, 0.1, 0.03):
        for scores in ("exact", "bounded"):
            method = Acdc(threshold=threshold, scores=scores)
            found: list[dict[str, Any]] = []
            seconds = cpu_seconds(lambda m=method, f=found: f.append(m.score(model, [batch]).facts), 1)
            facts, n_edges = found[0], model.graph.n_edges
            note = (
                f"{facts['kept_edges']} of {n_edges:,} edges kept, {facts['tests']:,} tests, {seconds:.1f} s"
            )
            if scores == "bounded":
                note += f", {1 - facts['bounded_tests'] / facts['tests']:.1%} by the whole vocabulary"
            what = f"acdc kl_divergence threshold {threshold:g}, {scores}, SmolLM2 B8 T{batch.length}"
            against = f"edges x stock forward, logits at the answer only ({forward:.2f} s)"
            rows.append(row(what, forward * n_edges / seconds, "x faster", against, note))
    return rows


def ops_rows(model: PatchableModel) -> list[dict[str, Any]]:
    """Operations per tested edge."""
    small = small_model("toy:trained", {"name": "induction", "count": 8})
    return operation_rows(small, (model, model.batch_from_ids(**ioi_like(8))))


def sweep_rows(model: PatchableModel, weights: str) -> list[dict[str, Any]]:
    """Ten thresholds at once against the dearest of them alone; on a small model, against all of them one by one."""
    small, few = small_model("toy:trained", {"name": "induction", "count": 8})
    batch = model.batch_from_ids(**ioi_like(8))
    seconds = [_seconds(small, few, "kl_divergence", t, 3)[0] for t in SWEPT]
    dearest = _seconds(model, batch, "kl_divergence", SWEPT[-1], 1)[0]
    small_sweep = cpu_seconds(lambda: Acdc().sweep(small, [few], SWEPT), 3)
    sweep = cpu_seconds(lambda: Acdc().sweep(model, [batch], SWEPT), 1)
    what, said = "acdc, 10 thresholds in one sweep", f"{SWEPT[-1]:g} to {SWEPT[0]:g}"
    few_said = f"{said}, {small_sweep:.2f} s; toy:trained"
    return [
        row(what, small_sweep / max(seconds), "x", "the dearest one", few_said),
        row(what, small_sweep / sum(seconds), "x", "all of them one by one", few_said),
        row(what, sweep / dearest, "x", "the dearest one", f"{said}, {sweep:.0f} s; {weights}"),
    ]


def pooled_rows() -> list[dict[str, Any]]:
    """A pooled search by two Ray workers of one thread each against one, best of five, and what the driver adds."""
    best, rows = {}, []
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            best[workers] = min(_pooled(Path(folder), workers), key=lambda pair: pair[0])
    seconds = {workers: found[0] for workers, found in best.items()}
    note = f"{seconds[1]:.1f} s and {seconds[2]:.1f} s wall, best of {REPETITIONS}"
    rows.append(row("acdc pooled, 2 workers", seconds[1] / seconds[2], "x faster", "1 worker", note))
    facts = best[2][1]
    own = 1e3 * (seconds[2] - facts["workers_seconds"]) / facts["rounds"]
    rows.append(
        row("coordinator's own time per round of questions", own, "ms", "wall", f"{facts['rounds']} rounds")
    )
    return rows


def _pooled(folder: Path, workers: int) -> list[tuple[float, dict[str, Any]]]:
    """(seconds, facts) of the same search, again and again by the same workers."""
    narrow = shared("models/bench-12l-d192")
    trained = Path(narrow).is_dir()
    prompts = folder / "prompts.jsonl"
    if trained:
        prompts.write_text(_as_lines(64))
    task = {"name": "file", "path": str(prompts)} if trained else {"name": "induction", "count": 64}
    config = RunConfig.model_validate(
        {
            "name": "pooled",
            "model": {"name": narrow if trained else "toy:trained"},
            "tasks": [task],
            "methods": [{"name": "acdc", "threshold": 0.01}],
            "cluster": {"workers": workers, "batch_size": 8, "threads": 1},
            "output": str(folder),
        }
    )
    found = []
    with closing(prepare(config)) as session, closing(open_pool(session, local=False)) as pool:
        ((item,),) = searches(session)
        for _ in range(1 + REPETITIONS):  # the first waits for the workers to load the model
            shutil.rmtree(session.path / "decisions", ignore_errors=True)
            run_search(session, (item,), pool)
            (footer,) = open_run(session.path).footers().query("item == @item.name").to_dict("records")
            found.append((footer["seconds"], json.loads(footer["facts"])))
    return found[1:]


def _against_forwards(
    model: PatchableModel,
    batch: Batch,
    forward: float,
    metric: str,
    threshold: float,
    note: str,
    repetitions: int = 1,
) -> dict[str, Any]:
    seconds, facts = _seconds(model, batch, metric, threshold, repetitions)
    n_edges = model.graph.n_edges
    note = f"{facts['kept_edges'] / n_edges:.2%} kept, {facts['tests']} tests, {seconds:.2f} s; {note}"
    what = f"acdc {metric} threshold {threshold:g}"
    return row(what, forward * n_edges / seconds, "x faster", "edges x stock forward", note)


def _seconds(
    model: PatchableModel, batch: Batch, metric: str, threshold: float, repetitions: int
) -> tuple[float, dict[str, Any]]:
    """CPU seconds of one search, and its facts."""
    found: list[dict[str, Any]] = []
    method = Acdc(threshold=threshold, metric=metric)
    seconds = cpu_seconds(lambda: found.append(method.score(model, [batch]).facts), repetitions)
    return seconds, found[0]


def _forward_seconds(stock: Any, batch: Batch) -> float:
    with torch.no_grad():
        return cpu_seconds(lambda: stock(input_ids=batch.clean, use_cache=False), 7)


def small_model(name: str, task: dict[str, Any]) -> tuple[PatchableModel, Batch]:
    """A model, and the prompts of a task as one batch."""
    config = RunConfig.model_validate(
        {"name": "small", "model": {"name": name}, "tasks": [task], "methods": [{"name": "acdc"}]}
    )
    (tokens,) = make_plan(config).tokens.values()
    model = load_model(name)
    return model, model.batch(tokens)


def shared(path: str) -> str:
    return str(Path(os.environ.get("CIRCUITS_DATA", "../shared")) / path)


def _prompts(path: str) -> dict[str, Any]:
    return {"name": "file", "path": shared(path), "limit": 8}


def _as_lines(n_prompts: int) -> str:
    """Prompts of token ids as a file of them holds them."""
    columns = {key: value.tolist() for key, value in ioi_like(n_prompts).items()}
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return "".join(json.dumps(one) + "\n" for one in rows)
