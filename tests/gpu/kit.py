"""What every part is given: a device, the time left, what was asked for; and how to time and measure there."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tests.benchmarks.measure import peak_bytes as grown_bytes
from tests.gpu.record import Row

Case = tuple[str, Callable[[], Iterable[Row]]]  # its name, and what measures it


@dataclass(frozen=True)
class Kit:
    """`deadline` is of `time.monotonic`; empty families, methods or shapes mean those that a part chooses."""

    device: torch.device
    deadline: float
    families: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def left(self) -> float:
        """Seconds that the part may still take."""
        return self.deadline - time.monotonic()

    def wants(self, method: str) -> bool:
        return not self.methods or method in self.methods

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.on_cuda:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], repetitions: int = 3, *, warm: bool = True) -> float:
        """The fastest of a few calls: by the clock on a device, in CPU time on the CPU. Repetitions end where a tenth
        of the time left is gone."""
        clock = time.perf_counter if self.on_cuda else time.process_time
        if warm:
            work()
        times: list[float] = []
        end = time.monotonic() + max(0.0, self.left) / 10
        while not times or (len(times) < repetitions and time.monotonic() < end):
            self.wait()
            start = clock()
            work()
            self.wait()
            times.append(clock() - start)
        return min(times)

    def peak_bytes(self, work: Callable[[], Any]) -> int:
        """What `work` takes at most beyond what is held now: of the device's allocator, or of this process."""
        if not self.on_cuda:
            return grown_bytes(work)
        self.wait()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) - before

    def release(self) -> None:
        """Gives back what nobody holds any more."""
        import gc

        gc.collect()
        if self.on_cuda:
            torch.cuda.empty_cache()


def run(cases: Iterator[Case] | list[Case], kit: Kit) -> Iterator[Row]:
    """The rows of all cases; one that raises is a row and the next is run, one without time is a row too."""
    import traceback

    for name, measure in cases:
        if kit.left <= 0:
            yield Row(name, note="no time left", verdict="skipped")
            continue
        try:
            yield from measure()
        except Exception as error:  # noqa: BLE001 - whatever a device makes it raise, the next case is tried
            traceback.print_exc()
            first = (str(error).strip().splitlines() or [""])[0]
            yield Row(name, note=f"{type(error).__name__}: {first}"[:300], verdict="failed")
        kit.release()
