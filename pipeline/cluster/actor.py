"""The process around one model replica: what a Ray actor does between being born and being killed.

Knows that the model is opened once and that exceptions travel as values. Does not know what a job is, nor
Ray: `slots` makes the actor out of this class.
"""

import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

from pipeline.workers.jobs import Failure, Opener, Work, attempt


class Worker:
    """Opens its work once, then does one job at a time.

    Exceptions come back as `Failure` values: an exception class that the driver cannot unpickle would hide
    the reason otherwise, and a raised one says nothing of host and device.
    """

    def __init__(self) -> None:
        self._work: Work | None = None

    def warm(self, modules: Sequence[str]) -> None:
        """Imports what it will need while nobody knows yet for which model. What cannot be is told when it starts."""
        for name in modules:
            with suppress(Exception):
                import_module(name)

    def start(self, opener: Opener) -> tuple[tuple[str, int], Failure | None]:
        """(host and process id, None) once the model is loaded; or why it cannot be."""
        me = socket.gethostname(), os.getpid()
        try:
            self._work = opener()
        except Exception as error:  # noqa: BLE001 - the driver decides what it means
            return me, Failure.of(error)
        return me, None

    def run(self, job: Any, number: int) -> tuple[Any, Failure | None, float]:
        """(result, failure, seconds) of attempt `number` at the job."""
        if self._work is None:
            raise RuntimeError("this worker has not been started")
        return attempt(self._work, job, number)


def worker_environment(threads: int, gpus: float) -> dict[str, str]:
    """Environment that must stand before torch is loaded.

    The number of threads decides the order of summation, and with it the last bits of every score; a worker
    without GPUs must not find any, and Ray leaves that variable unset.
    """
    env = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    env |= {"TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
    if gpus == 0:
        env["CUDA_VISIBLE_DEVICES"] = ""
    return env
