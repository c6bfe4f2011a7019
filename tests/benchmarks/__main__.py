"""`make bench`: every number a ratio within one run, against a named floor; a table, and JSON under results/benchmarks.

CPU seconds of one thread, the best of a few repetitions. Never a test: no time is asserted anywhere.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from pipeline.engine.attribution import gradients
from pipeline.engine.patchable import PatchableModel, patchable
from pipeline.methods import Acdc, Eap, EapIg
from pipeline.metrics import get_metric
from tests.benchmarks.models import gpt2_small_shaped, ioi_like
from tests.benchmarks.orchestration import commit_seconds, schedule_seconds, start_seconds

RESULTS = Path(__file__).parents[2] / "results" / "benchmarks"


def cpu_seconds(work: Callable[[], Any], repetitions: int = 3) -> float:
    """Process CPU time of the fastest of a few calls."""
    times = []
    for _ in range(repetitions):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def wall_seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def row(what: str, value: float, unit: str, against: str, note: str = "") -> dict[str, Any]:
    print(f"{what:58s} {value:10.3g} {unit:8s} {against}  {note}", flush=True)
    return {"what": what, "value": value, "unit": unit, "against": against, "note": note}


def stock_floor(
    model: PatchableModel,
    ids: dict[str, torch.Tensor],
    forwards: int,
    backwards: int,
    logits_to_keep: int = 0,
) -> float:
    """Stock forwards without gradients plus stock forward-backwards with respect to the input, weights frozen."""
    options = {"use_cache": False, "logits_to_keep": logits_to_keep}
    hf, clean = model.hf, ids["clean"]
    embeddings = hf.get_input_embeddings()(clean).detach()

    def work() -> None:
        with torch.no_grad():
            for _ in range(forwards):
                hf(input_ids=clean, **options)
        for _ in range(backwards):
            x = embeddings.clone().requires_grad_()
            logits = hf(inputs_embeds=x, **options).logits[:, -1]
            logits.gather(1, ids["answers"]).sum().backward()

    return cpu_seconds(work)


def attribution_rows(model: PatchableModel, weights: str) -> list[dict[str, Any]]:
    """EAP and EAP-IG against their floors, 8 prompts of 32 tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = {name: torch.randint(0, 60, (8, 32), generator=generator) for name in ("clean", "corrupted")}
    ids["answers"] = torch.randint(0, 40, (8, 1), generator=generator)
    ids["wrong_answers"] = (ids["answers"] + 1) % 40
    batch = model.batch_from_ids(**ids)
    rows = []
    run = cpu_seconds(lambda: gradients(model, batch, model.objective(get_metric("logit_diff"), batch)))
    for method, forwards, backwards in ((Eap(), 1, 1), (EapIg(steps=5), 2, 5)):
        ours = cpu_seconds(lambda method=method: method.score(model, [batch]), 2)
        for keep, logits in ((0, "logits everywhere"), (1, "logits at the answer only")):
            floor = stock_floor(model, ids, forwards, backwards, keep)
            against = f"{forwards} stock forwards + {backwards} forward-backwards, {logits}"
            rows.append(row(f"{method.id}, B8 T32", ours / floor, "x floor", against, weights))
            if method.id == "eap":
                rows.append(row("  its forward-backward alone", run / floor, "x floor", against, weights))
    return rows


def acdc_rows(model: PatchableModel, weights: str) -> list[dict[str, Any]]:
    """Exact ACDC against a naive one that costs at least one stock forward per edge, 8 prompts of 10 tokens."""
    batch = model.batch_from_ids(**ioi_like(8))
    forward = cpu_seconds(lambda: model.hf(input_ids=batch.clean, use_cache=False), 5)
    rows = []
    for metric, threshold in (
        ("kl_divergence", 0.1),
        ("kl_divergence", 0.01),
        ("kl_divergence", 0.001),
        ("logit_diff", 0.01),
    ):
        method = Acdc(threshold=threshold, metric=metric)
        scores = []
        seconds = cpu_seconds(
            lambda method=method, scores=scores: scores.append(method.score(model, [batch])), 1
        )
        facts = scores[0].facts
        kept = facts["kept_edges"] / model.graph.n_edges
        note = f"{kept:.2%} kept, {facts['tests']} tests, {seconds:.1f} s; {weights}"
        naive = forward * model.graph.n_edges
        rows.append(
            row(
                f"acdc {metric} threshold {threshold:g}",
                naive / seconds,
                "x faster",
                "edges x stock forward",
                note,
            )
        )
    return rows


def orchestration_rows() -> list[dict[str, Any]]:
    """Fixed costs: `circuits --help`, starting Ray and Prefect, scheduling and committing an item."""
    circuits = [sys.executable, "-m", "flows.cli"]
    help_seconds = min(
        wall_seconds(lambda: subprocess.run([*circuits, "--help"], check=True, capture_output=True))
        for _ in range(3)
    )
    rows = [row("circuits --help", help_seconds, "s", "wall")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        milliseconds = 1e3 * commit_seconds(folder)
        rows.append(row("commit of one item, 32,491 edges, with fsync", milliseconds, "ms", "wall"))
        start, each = schedule_seconds(1000)
        what = "scheduling one item, 2 Ray workers, no work"
        rows.append(row(what, 1e3 * each, "ms", "wall, mean of 1,000"))
        rows.append(row("start of 2 Ray workers (Ray itself included)", start, "s", "wall"))
        rows.append(row("start of Ray and Prefect side by side", start_seconds(folder), "s", "wall"))
    return rows


def main() -> None:
    torch.set_num_threads(1)
    hf, weights = gpt2_small_shaped()
    model = patchable(hf)
    rows = [*attribution_rows(model, weights), *acdc_rows(model, weights), *orchestration_rows()]
    machine = {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "bench.json"
    path.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(f"written to {path.relative_to(Path.cwd())}")


if __name__ == "__main__":
    main()
