"""A private Ray that starts, and workers that import, while it is still being planned what they will compute.

Knows Ray's start and what a worker needs of a machine. Does not know models or jobs, nor whether there will be any. One
for all of this process, as Ray is: a pool that opens takes over what suits it.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any

import ray

from pipeline.cluster import connection
from pipeline.cluster.actor import worker_environment
from pipeline.cluster.slots import new_actor
from pipeline.core.errors import ClusterError
from pipeline.core.machines import Need


class _Early:
    """Ray and its first actors, in a thread of their own: what Ray starts dies with the thread that has started it."""

    def __init__(self, workers: int, need: Need, modules: Sequence[str]) -> None:
        self.need = need
        self._workers, self._modules = workers, tuple(modules)
        self._actors: Future[list[Any]] = Future()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._live, name="early-ray")
        self._thread.start()

    def actors(self) -> list[Any]:
        """The actors, once Ray is up. Raises what kept it from starting."""
        return self._actors.result()

    def end(self, *, wait: bool) -> None:
        """Ends Ray as soon as it is up."""
        self._over.set()
        if wait:
            self._thread.join()

    def _live(self) -> None:
        variables = worker_environment(self.need.threads, self.need.gpus)
        try:
            with connection.connected("local", self._workers * self.need.threads, variables):
                actors = [new_actor(self.need) for _ in range(self._workers)]
                for actor in actors:
                    actor.warm.remote(self._modules)
                self._actors.set_result(actors)
                self._over.wait()
        except BaseException as error:
            if self._actors.done():
                raise
            self._actors.set_exception(error)


_on_its_way: list[_Early] = []


@contextmanager
def on_its_way(workers: int, need: Need, modules: Sequence[str]) -> Iterator[None]:
    """Starts a private Ray with so many workers, which import the modules. What no pool has taken over within ends by
    itself: nobody waits for that."""
    if not ray.is_initialized() and not _on_its_way:
        _on_its_way.append(_Early(workers, connection.need_of_ray(need), modules))
    try:
        yield
    finally:
        while _on_its_way:
            _on_its_way.pop().end(wait=False)


def taken_over(address: str, need: Need, stack: ExitStack) -> list[Any]:
    """The workers that are on their way and suit, once their Ray is up; it ends with the stack. None where there are
    none, and where it has not started: on a machine that was too busy the next attempt may be luckier."""
    if not _on_its_way:
        return []
    early = _on_its_way.pop()
    if address != "local" or early.need != connection.need_of_ray(need):
        early.end(wait=True)
        return []
    try:
        actors = early.actors()
    except ClusterError:
        early.end(wait=True)
        return []
    stack.callback(early.end, wait=True)
    return actors
