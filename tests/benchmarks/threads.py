"""One worker of two threads against two workers of one: how far a second thread shortens each method's work.

Two workers halve the work of many prompts by construction. What a second thread does is measured as the CPU time of
the thread that calls, beside that of a process of one thread: it waits asleep while others finish its operations, so
that on two free processors it would be the time by the clock, and a busy machine changes it little.
`python -m tests.benchmarks.threads N` prints the seconds of each method with N threads, as JSON.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tests.benchmarks.measure import row

REPETITIONS = 3
ASLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}  # while others work
PROMPTS, LENGTH, LAYERS = 8, 16, 8


def thread_rows() -> list[dict[str, Any]]:
    """A row per method; the two numbers of threads take turns, and each counts by its fastest."""
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(REPETITIONS):
        for threads, runs in found.items():
            runs.append(_measured(threads))
    best = {
        threads: {name: min(run[name] for run in runs) for name in runs[0]} for threads, runs in found.items()
    }
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    return [
        row(
            f"{name}, SmolLM2's widths, {LAYERS} layers, B{PROMPTS} T{LENGTH}, 2 threads",
            best[1][name] / best[2][name],
            "x faster",
            "1 thread; 2 workers: 2",
            f"{best[2][name]:.2f} and {best[1][name]:.2f} s of the calling thread, best of {REPETITIONS}; {load}",
        )
        for name in best[1]
    ]


def _measured(threads: int) -> dict[str, float]:
    environment = {**os.environ, **ASLEEP, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "tests.benchmarks.threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _print_seconds(threads: int) -> None:
    import numpy as np
    import torch

    from pipeline.engine.patchable import patchable
    from pipeline.evaluation import circuit_values, selections
    from pipeline.methods import Acdc, Eap, EapIg
    from tests.gpu.kit import Kit
    from tests.gpu.shapes import prompts, stock

    torch.set_num_threads(threads)
    kit = Kit(torch.device("cpu"), float("inf"))
    model = patchable(stock("smollm2", kit, "float32", num_hidden_layers=LAYERS))
    batch, few = prompts(model.config, kit, PROMPTS, LENGTH), prompts(model.config, kit, 2, LENGTH)
    scores = Eap().score(model, [batch])
    masks = np.stack([circuit.mask for _, circuit in selections((0.01, 0.1, 0.5), scores)])
    threshold = float(np.quantile(np.abs(Eap().score(model, [few]).score), 0.99))
    work: dict[str, Callable[[], Any]] = {
        "eap": lambda: Eap().score(model, [batch]),
        "eap_ig, 5 steps": lambda: EapIg(steps=5).score(model, [batch]),
        "3 circuits": lambda: circuit_values(model, [batch], masks),
        "acdc of 2 prompts": lambda: Acdc(threshold=threshold, metric="logit_diff").score(model, [few]),
    }
    print(json.dumps({name: _of_this_thread(one) for name, one in work.items()}))


def _of_this_thread(work: Callable[[], Any]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


if __name__ == "__main__":
    _print_seconds(int(sys.argv[1]))
