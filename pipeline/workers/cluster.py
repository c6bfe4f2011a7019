"""Ray underneath a pool: reaching it, what its machines have, and requests that it can never meet.

Knows Ray's start and its nodes. Does not know actors or jobs.
"""

import logging
import os
import time
from collections import Counter
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported anywhere: nothing is reported

import ray

from pipeline.core.errors import ConfigError
from pipeline.placement import Machine, Need, capacity, fits, gpus_needed, reasons, this_machine
from pipeline.workers import signals

JOIN_SECONDS = 2.0
OBJECT_STORE = 128 * 2**20  # bytes; jobs and reports are small, scores go straight to files


def connect(address: str, cpus: int) -> None:
    """Starts Ray on this machine, or connects to a cluster. More workers than cores may share them."""
    quiet: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    if address == "local":
        quiet |= {"num_cpus": max(cpus, os.cpu_count() or 1), "object_store_memory": OBJECT_STORE}
    try:
        with signals.kept(starting=True):
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address == "local":
            raise
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ConfigError(
            f"cluster.address: {address!r} cannot be reached ({reason}); start Ray there, or use address: local"
        ) from None
    _hush()


def disconnect() -> None:
    """Ends the Ray that `connect` started, or leaves the cluster that it reached."""
    with signals.kept():
        ray.shutdown()


def machines() -> list[Machine]:
    """What the nodes that are there now have in all, whoever uses it."""
    return [
        Machine(
            cpus=node["Resources"].get("CPU", 0),
            gpus=node["Resources"].get("GPU", 0),
            memory_bytes=int(node["Resources"].get("memory", 0)) or None,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def decide(workers: int | None, need: Need, address: str, *, grows: bool) -> int:
    """How many workers to ask for; with None as many as fit. Ray waits in silence for what it does not have.

    ConfigError where not one worker fits a cluster, or fewer than asked for this machine. A cluster with room for
    some starts with these, one that `grows` with none.
    """
    have = machines()
    if address == "local":
        if workers is None:
            here = this_machine()
            if (workers := fits(here, need)) == 0:
                raise ConfigError(_no_room(here, need))
        if (room := capacity(have, need_of_ray(need))) < workers:
            raise ConfigError(_too_little(have, need, workers, room))
        return workers
    wanted = need if workers is None else need_of_ray(need)
    end = time.monotonic() + JOIN_SECONDS
    while (room := capacity(have, wanted)) == 0 and not grows and time.monotonic() < end:
        time.sleep(0.5)  # its machines may be joining at this moment
        have = machines()
    if room == 0 and not grows:
        raise ConfigError(
            f"cluster: no machine at {address} has {need} for a worker"
            f"{_memory_of(need) if workers is None else ''}; it has {describe(have)}; lower "
            "cluster.gpus_per_worker or cluster.threads, or set cluster.wait_minutes if machines will join"
        )
    return workers or max(1, room)


def need_of_ray(need: Need) -> Need:
    """The part of a need that Ray counts."""
    return Need(need.threads, need.gpus)


def describe(have: list[Machine]) -> str:
    """`2 machines with 4 GPUs and 8 CPUs`, and so on for every kind."""
    kinds = Counter(str(machine) for machine in have)
    said = [f"{count} machine{'s' * (count > 1)} with {kind}" for kind, count in kinds.items()]
    return " and ".join(said) or "no machine"


def _too_little(have: list[Machine], need: Need, workers: int, room: int) -> str:
    lower = "cluster.workers or cluster.gpus_per_worker (0 computes on the CPU)"
    if not need.gpus:
        lower = "cluster.workers or cluster.threads"
    return (
        f"cluster: {workers} worker{'s' * (workers > 1)} with {need} each, and Ray has {describe(have)} here, "
        f"enough for {room}; lower {lower}"
    )


def _no_room(here: Machine, need: Need) -> str:
    mend = "lower cluster.batch_size or cluster.threads, or set a number"
    if here.gpus < need.gpus:
        mend = "set cluster.gpus_per_worker: 0 to compute on the CPU"
    elif (devices := gpus_needed(here, need)) > need.gpus:
        mend = f"set cluster.gpus_per_worker: {devices}"
    return f"cluster.workers: auto finds no room for a worker here: {reasons(here, need)}; {mend}"


def _memory_of(need: Need) -> str:
    return f" and {need.memory_bytes / 2**30:.1f} GiB of memory" if need.memory_bytes else ""


def _hush() -> None:
    """Ray prints every actor's death to stdout, whatever `log_to_driver` says; the outcomes report it."""
    driver: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(driver, "_worker_logs_enabled"):
        driver._worker_logs_enabled = False  # noqa: SLF001 - there is no public switch
