"""A search of ACDC that is cut off after some seconds, between two receivers."""

import time
from dataclasses import dataclass

from pipeline.engine.batch import Batch
from pipeline.engine.patchable import PatchableModel
from pipeline.methods import Acdc
from pipeline.methods.collective import LocalWorkers
from pipeline.methods.work import Work
from tests.gpu.kit import Kit


@dataclass(frozen=True)
class Searched:
    """What a search did in its seconds: by the clock on a device, in CPU time on the CPU."""

    seconds: float
    tests: int
    kept: int
    rounds: int
    receivers: int
    cut_off: bool

    @property
    def said(self) -> str:
        return (
            f"{'cut off' if self.cut_off else 'done'} after {self.receivers} receivers that something reads"
        )


def search(kit: Kit, model: PatchableModel, batch: Batch, method: Acdc, limit: float) -> Searched:
    """The search for one circuit, ended after the receiver at which `limit` seconds are over."""
    clock = time.perf_counter if kit.on_cuda else time.process_time
    end = time.monotonic() + limit
    this = method.ready(model, None, None)
    kit.wait()
    start = clock()
    workers = LocalWorkers(this.part(Work(model, [batch], this.metric, this.ablation)))
    drive = this.drive({"": this}, model.graph, workers, "float32")
    receivers = 0
    for _ in drive.steps({}):
        receivers += 1
        if time.monotonic() > end:
            break
    kit.wait()
    seconds = clock() - start
    facts = drive.results()[""].facts
    return Searched(
        seconds, facts["tests"], facts["kept_edges"], facts["rounds"], receivers, time.monotonic() > end
    )
