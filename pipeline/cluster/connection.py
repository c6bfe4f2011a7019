"""Ray underneath a pool: reaching it, what its machines have, and requests that it can never meet.

Knows Ray's start and its nodes. Does not know actors or jobs.
"""

import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before Ray is imported anywhere: nothing is reported

import ray
from ray.exceptions import RayError

from pipeline.cluster import signals
from pipeline.cluster.imports import OwnJob
from pipeline.cluster.private import bare, private
from pipeline.core.errors import ClusterError, ConfigError
from pipeline.core.machines import Machine, Need, capacity, fits, gpus_needed, reasons, this_machine
from pipeline.core.text import first_line

JOIN_SECONDS = 2.0
KNOCK_SECONDS = 10.0  # in which a cluster must answer; Ray itself asks for minutes
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"  # whoever speaks gRPC answers it with settings of its own
SETTINGS = 4
_found: dict[str, str] = {}  # what workers of the private Ray that is up find in their environment
OBJECT_STORE = 128 * 2**20  # bytes; jobs and reports are small, scores go straight to files


@contextmanager
def connected(address: str, cpus: int, variables: Mapping[str, str]) -> Iterator[None]:
    """Within it Ray is there: a private one of this machine, or the cluster at the address. More workers than cores
    may share them. On this machine all workers find the `variables` in their environment. ConfigError where no
    cluster answers."""
    with ExitStack() as stack:
        options: dict[str, Any] = {"job_config": OwnJob()}
        if address == "local":
            options |= {"include_dashboard": False, "num_cpus": max(cpus, os.cpu_count() or 1)}
            options |= {"object_store_memory": OBJECT_STORE, "_temp_dir": stack.enter_context(private())}
        else:
            _knock(address)
        try:
            with signals.kept(starting=True), bare(variables) if address == "local" else nullcontext():
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
        except (ConnectionError, RuntimeError, ValueError, RayError, SystemExit) as error:
            if address != "local":
                raise _unreachable(address, first_line(error)) from None
            if isinstance(error, ValueError):
                raise
            raise _not_started(error) from None
        except Exception as error:
            if type(error) is not Exception:  # Ray's own word for a node that is too slow to start
                raise
            raise _not_started(error) from None
        stack.callback(_disconnect)
        _hush()
        if address == "local":
            _found.update(variables)
            stack.callback(_found.clear)
        yield


@contextmanager
def answering(address: str) -> Iterator[None]:
    """Ray ends a process whose own node is gone, by a SystemExit wherever it waits, or whatever it asks fails: here
    that is a ClusterError."""
    try:
        yield
    except SystemExit:
        raise lost(address) from None
    except Exception:
        if is_lost(address):
            raise lost(address) from None
        raise


def lost(address: str) -> ClusterError:
    """What is said when Ray has ended beneath a run."""
    if address == "local":
        why = "Ray on this machine has ended (killed, or the machine is out of memory)"
    else:
        why = f"the cluster at {address} no longer answers, or the node of this machine has ended"
    return ClusterError(f"{why}; what has landed stays, and the same command goes on where it was")


def is_lost(address: str) -> bool:
    """Whether a part of the private Ray of this machine has ended; of a cluster nothing is known."""
    driver: Any = getattr(getattr(ray, "_private", None), "worker", None)
    node = getattr(driver, "_global_node", None)
    if address != "local" or node is None:
        return False
    return any(kind in ("gcs_server", "raylet") for kind, _ in node.dead_processes())


def runtime_env(variables: Mapping[str, str]) -> dict[str, Any]:
    """What to ask of Ray, that a worker finds these variables: nothing where all do, and one that Ray has started
    ahead will do."""
    return {} if _found == variables else {"env_vars": dict(variables)}


def _not_started(error: BaseException) -> ClusterError:
    return ClusterError(
        f"Ray did not start on this machine ({first_line(error)}): a part of it was killed, or the machine is "
        "busy or short of memory; the same command tries again, and --local runs without Ray"
    )


def _disconnect() -> None:
    with signals.kept():
        ray.shutdown()


def _knock(address: str) -> None:
    """ConfigError where nothing that could be a cluster's control store answers at an address of a host and a port."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        return  # Ray says itself what it makes of it
    end = time.monotonic() + KNOCK_SECONDS
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS) as there:
                there.sendall(HELLO)
                answer = there.recv(4, socket.MSG_WAITALL)
        except TimeoutError:
            raise _unreachable(address, f"no answer within {KNOCK_SECONDS:.0f} s") from None
        except (OSError, OverflowError, UnicodeError) as error:
            if isinstance(error, ConnectionRefusedError) and time.monotonic() < end:
                time.sleep(0.5)  # its head may be starting at this moment
                continue
            raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from None
        if answer[3:] != bytes([SETTINGS]) and not os.environ.get("RAY_USE_TLS", "0").strip("0"):
            raise _unreachable(address, "something else than Ray listens there")
        return


def _unreachable(address: str, reason: str) -> ConfigError:
    return ConfigError(
        f"cluster.address: {address!r} cannot be reached ({reason}); start Ray there, or use address: local"
    )


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
