"""How many workers fit where: what one of them needs, against what machines have.

Knows CPUs, GPUs and memory. Does not know Ray, models or configs: sizes come in as numbers.
"""

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

GIB = 2**30


@dataclass(frozen=True)
class Need:
    """What one worker takes. `device_bytes` lie on its devices together, `memory_bytes` in the machine's memory;
    0 asks for nothing."""

    threads: int = 1
    gpus: float = 0
    memory_bytes: int = 0
    device_bytes: int = 0

    def __str__(self) -> str:
        gpus = f"{self.gpus:g} GPU{'s' * (self.gpus > 1)} and " if self.gpus else ""
        return f"{gpus}{self.threads} CPU{'s' * (self.threads > 1)}"


@dataclass(frozen=True)
class Machine:
    """What one machine offers; `None` is not known."""

    cpus: float
    gpus: float = 0
    memory_bytes: int | None = None
    device_bytes: int | None = None  # of its smallest device

    def __str__(self) -> str:
        return f"{self.gpus:g} GPUs and {self.cpus:g} CPUs"


def fits(machine: Machine, need: Need) -> int:
    """How many such workers the machine takes at once; a worker never spans machines."""
    return min((count for count, _ in _limits(machine, need)), default=0)


def capacity(machines: Sequence[Machine], need: Need) -> int:
    """How many such workers all the machines take."""
    return sum(fits(machine, need) for machine in machines)


def reasons(machine: Machine, need: Need) -> str:
    """Why so many fit: every limit as a quotient, for people."""
    return ", ".join(why for _, why in _limits(machine, need))


def gpus_needed(machine: Machine, need: Need) -> int:
    """How many whole devices hold one worker's model and work; 0 where that is not known."""
    return math.ceil(need.device_bytes / machine.device_bytes) if machine.device_bytes else 0


def this_machine() -> Machine:
    """What this machine offers now: cores that this process may use, free memory, NVIDIA's devices."""
    devices = _devices()
    return Machine(
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        gpus=len(devices),
        memory_bytes=free_memory(),
        device_bytes=min(devices, default=None),
    )


def gpus_here() -> int | None:
    """How many GPUs this machine has for us, found without loading anything; None where only Ray can tell."""
    if devices := _devices():
        return len(devices)
    drivers = ("nvidia*", "kfd", "accel*", "vfio")  # of NVIDIA, AMD, Intel and Google
    return None if any(any(Path("/dev").glob(name)) for name in drivers) else 0


def free_memory() -> int:
    """Bytes that new processes of this machine, or of this container, can take."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
        group = Path("/sys/fs/cgroup")  # a container's own limit
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        if limit.isdigit():
            found.append(int(limit) - int((group / "memory.current").read_text(encoding="ascii")))
    except OSError:
        pass
    return min(found) if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _limits(machine: Machine, need: Need) -> list[tuple[int, str]]:
    """(how many fit, why) for everything that limits."""
    limits = [_limit(machine.cpus, need.threads, f"{machine.cpus:g} CPUs", f"{need.threads}")]
    if need.gpus:
        limits.append(_gpu_limit(machine.gpus, need.gpus))
    if need.memory_bytes and machine.memory_bytes is not None:
        free, wanted = machine.memory_bytes / GIB, need.memory_bytes / GIB
        limits.append(_limit(free, wanted, f"{free:.1f} GiB of free memory", f"{wanted:.1f}"))
    if need.gpus and need.device_bytes and machine.device_bytes is not None:
        have, wanted = need.gpus * machine.device_bytes / GIB, need.device_bytes / GIB
        if wanted > have:
            limits.append((0, f"{have:.1f} GiB on {need.gpus:g} devices hold no worker of {wanted:.1f}"))
    return limits


def _limit(have: float, each: float, what: str, divisor: str) -> tuple[int, str]:
    count = sys.maxsize if math.isinf(have) else int(have // each)
    return count, f"{what} / {divisor} = {count}"


def _gpu_limit(have: float, each: float) -> tuple[int, str]:
    """Parts of a device lie on one device, whole ones on one machine."""
    count = int(have) * math.floor(1 / each + 1e-9) if each < 1 else int(have // each)
    return count, f"{have:g} GPUs / {each:g} = {count}"


def _devices() -> list[int]:
    """Bytes of every NVIDIA device that this process may use; asks the driver's tool, so that no torch is needed."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603
        rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines()]
        sizes = {(index, uuid): int(mebibytes) * 2**20 for index, uuid, mebibytes in rows}
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    chosen = None if visible is None else [name.strip() for name in visible.split(",")]
    return [size for names, size in sizes.items() if chosen is None or set(chosen) & set(names)]
