"""A private Ray that starts, and workers that import, while it is still being planned what they will compute.

Knows Ray's start and what a worker needs of a machine. Does not know models or jobs, nor whether there will be any.
"""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

from pipeline.core.machines import Need


class Early:
    """Ray and `workers` actors on their way, in a thread of their own; `modules` is what the actors import meanwhile.

    Either a pool takes it over, or it is `abandoned`.
    """

    def __init__(self, workers: int, need: Need, modules: Sequence[str]) -> None:
        self._workers, self._need, self._modules = workers, need, tuple(modules)
        self._actors: Future[list[Any]] = Future()
        self._over = threading.Event()
        self._taken = False
        self._thread = threading.Thread(target=self._live, name="early-ray")
        self._thread.start()

    def taken_into(self, stack: ExitStack) -> list[Any]:
        """The actors, once Ray is up; it ends with the stack. Raises what kept Ray from starting."""
        self._taken = True
        stack.callback(self._end)
        return self._actors.result()

    def abandon(self) -> None:
        """Ends it as soon as it is up, unless a pool has taken it over; returns at once."""
        if not self._taken:
            self._over.set()

    def _end(self) -> None:
        self._over.set()
        self._thread.join()

    def _live(self) -> None:
        """Ray from its start to its end: what it starts dies with the thread that has started it."""
        from pipeline.cluster import connection
        from pipeline.cluster.actor import worker_environment
        from pipeline.cluster.slots import new_actor

        variables = worker_environment(self._need.threads, self._need.gpus)
        try:
            with connection.connected("local", self._workers * self._need.threads, variables):
                actors = [new_actor(self._need) for _ in range(self._workers)]
                for actor in actors:
                    actor.warm.remote(self._modules)
                self._actors.set_result(actors)
                self._over.wait()
        except BaseException as error:
            if self._actors.done():
                raise
            self._actors.set_exception(error)  # whoever takes it over is told
