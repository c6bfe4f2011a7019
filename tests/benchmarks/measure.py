"""How the bench measures: CPU seconds, peak memory, and rows of its table."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


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


def peak_bytes(work: Callable[[], Any]) -> int:
    """How much the resident memory of this process grows at most while `work` runs (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts at what is resident now
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def row(what: str, value: float, unit: str, against: str, note: str = "") -> dict[str, Any]:
    print(f"{what:58s} {value:10.3g} {unit:8s} {against}  {note}", flush=True)
    return {"what": what, "value": value, "unit": unit, "against": against, "note": note}
