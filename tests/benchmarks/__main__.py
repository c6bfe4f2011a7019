"""`make bench`: every number a ratio within one run, against a named floor; a table, and JSON under results/benchmarks.

CPU seconds of one thread, the best of a few repetitions. Never a test: no time is asserted anywhere. Arguments choose
groups of rows; the record keeps the others as they were.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from pipeline.engine.patchable import patchable
from tests.benchmarks.acdc import acdc_rows, ops_rows, pooled_rows, sweep_rows, tiny_rows, vocabulary_rows
from tests.benchmarks.attribution import attribution_rows, layer_rows, memory_rows
from tests.benchmarks.circuits import circuit_rows
from tests.benchmarks.few_shot import few_shot_rows
from tests.benchmarks.large import large_rows
from tests.benchmarks.measure import row, wall_seconds
from tests.benchmarks.models import gpt2_small_shaped
from tests.benchmarks.orchestration import commit_seconds, schedule_seconds
from tests.benchmarks.overhead import overhead_rows
from tests.benchmarks.paths import path_rows
from tests.benchmarks.planning import planning_rows
from tests.benchmarks.products import product_rows
from tests.benchmarks.rows import row_rows
from tests.benchmarks.simulated import simulated_rows
from tests.benchmarks.start import start_rows
from tests.benchmarks.threads import thread_rows

RESULTS = Path(__file__).parents[2] / "results" / "benchmarks"


def orchestration_rows() -> list[dict[str, Any]]:
    """Fixed costs: `circuits --help`, starting Ray, scheduling and committing an item."""
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
    return rows


def many_items_rows() -> list[dict[str, Any]]:
    """10,000 items, and one worker against two; wants a machine to itself."""
    with tempfile.TemporaryDirectory() as name:
        return overhead_rows(Path(name))


def driver_rows() -> list[dict[str, Any]]:
    """What a driver costs beside a thousand workers, and beside 64 parts of a search."""
    with tempfile.TemporaryDirectory() as name:
        return simulated_rows(Path(name))


def plan_rows() -> list[dict[str, Any]]:
    """Planning from large files, and what is done in a run of many items."""
    with tempfile.TemporaryDirectory() as name:
        return planning_rows(Path(name))


def many_rows() -> list[dict[str, Any]]:
    """Merging and judging 10^7 rows."""
    with tempfile.TemporaryDirectory() as name:
        return row_rows(Path(name))


def main() -> None:
    wanted = set(sys.argv[1:])
    torch.set_num_threads(1)
    hf, weights = gpt2_small_shaped()
    stock = gpt2_small_shaped()[0].requires_grad_(requires_grad=False)
    model = patchable(hf)
    groups = {
        "attribution": lambda: [*attribution_rows(model, stock, weights), *layer_rows()],
        "few_shot": lambda: few_shot_rows(model, weights),
        "products": lambda: product_rows(model),
        "memory": memory_rows,
        "large": large_rows,
        "paths": lambda: path_rows(model, stock, weights),
        "circuits": lambda: circuit_rows(model, stock, weights),
        "acdc": lambda: [*acdc_rows(model, stock, weights), *tiny_rows()],
        "vocabulary": vocabulary_rows,
        "ops": lambda: ops_rows(model),
        "sweep": lambda: sweep_rows(model, weights),
        "pooled": pooled_rows,
        "orchestration": orchestration_rows,
        "start": start_rows,
        "threads": thread_rows,
        "driver": driver_rows,
        "overhead": many_items_rows,
        "planning": plan_rows,
        "rows": many_rows,
    }
    if unknown := wanted - groups.keys():
        raise SystemExit(f"no rows {', '.join(sorted(unknown))}; there are {', '.join(groups)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "bench.json"
    record = json.loads(path.read_text())["rows"] if path.exists() else {}
    for name, make in groups.items():
        if not wanted or name in wanted:
            record[name] = make()
    rows = {name: record[name] for name in groups if name in record}
    path.write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")
    print(f"written to {path.relative_to(Path.cwd())}")


def machine() -> dict[str, Any]:
    """Where the rows come from."""
    processor = platform.processor() or platform.machine()
    return {"processor": processor, "cpus": os.cpu_count(), "torch": torch.__version__}


if __name__ == "__main__":
    main()
