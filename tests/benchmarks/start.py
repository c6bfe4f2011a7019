"""From the command to the first item, against what Ray alone needs for its first actor.

Knows processes. The two take turns, and each counts by its fastest: whatever else the machine does meets both. Beside
the time by the clock stand the CPU seconds of all their processes until then, which a busy machine changes less.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import psutil

from tests.benchmarks.measure import row

REPETITIONS = 3

_RAY = """
import ray
ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=2**27)

@ray.remote
class Actor:
    def answer(self):
        return 1

ray.get(Actor.remote().answer.remote())
print("[1/1] answered", flush=True)
"""
_CONFIG = """
name: tiny
model: toy:trained
tasks: [{name: induction, count: 3}]
methods: [eap]
shards: {prompts: 1}
"""


@dataclass(frozen=True)
class Start:
    """Seconds until the first answer: by the clock, and of all processors by all processes."""

    wall: float
    cpu: float


def start_rows() -> list[dict[str, Any]]:
    """`circuits run` of three items on one worker against Ray's first actor."""
    found: dict[str, list[Start]] = {"ray": [], "circuits": []}
    for _ in range(REPETITIONS):
        found["ray"].append(_until_answer([sys.executable, "-c", _RAY]))
        with tempfile.TemporaryDirectory() as name:
            config = Path(name) / "config.yaml"
            config.write_text(f"{_CONFIG}output: {name}\n")
            found["circuits"].append(_until_answer([sys.executable, "-m", "flows.cli", "run", str(config)]))
    wall, cpu = (
        {who: min(map(of, starts)) for who, starts in found.items()}
        for of in (lambda start: start.wall, lambda start: start.cpu)
    )

    def against(what: str, seconds: dict[str, float]) -> dict[str, Any]:
        load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
        note = f"{seconds['circuits']:.1f} s and {seconds['ray']:.1f} s, the least of {REPETITIONS} in turn; {load}"
        return row(
            f"circuits run, {what}",
            seconds["circuits"] / seconds["ray"],
            "x",
            "Ray's first actor alone",
            note,
        )

    return [
        against("from the command to the first item", wall),
        against("CPU of all processes until then", cpu),
    ]


def _until_answer(words: list[str]) -> Start:
    """Runs the command to its end; what it took until its first answer."""
    begin = perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        assert child.stdout is not None
        said = []
        for line in child.stdout:
            said.append(line)
            if line.startswith("[1/"):
                start = Start(perf_counter() - begin, _cpu(psutil.Process(child.pid)))
                break
        else:
            raise RuntimeError(f"no answer: {''.join(said)}")
        child.stdout.read()
    return start


def _cpu(process: psutil.Process) -> float:
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        try:
            total += sum(one.cpu_times()[:4])
        except psutil.Error:
            continue
    return total
