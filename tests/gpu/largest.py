"""The largest batch of prompts that eap scores at once on the device, against the largest that `plan` would say fits.

Doubled until the memory is gone; a CPU's is not filled: there it ends at a few prompts. The engine divides work that
does not fit where it can, and a size counts as long as it is done.
"""

from collections.abc import Iterator

import torch

from pipeline.engine.attribution import is_out_of_memory
from pipeline.methods import Eap
from pipeline.models.footprint import Footprint
from tests.gpu.kit import Case, Kit
from tests.gpu.record import Row
from tests.gpu.shapes import chosen, prompts, wrapped

LENGTH = 32
MOST_ON_CPU = 16


def cases(kit: Kit) -> Iterator[Case]:
    for name in chosen(kit):
        yield f"{name}, largest batch", lambda name=name: _rows(kit, name)


def _rows(kit: Kit, name: str) -> Iterator[Row]:
    model = wrapped(name, kit, "bfloat16")
    footprint = Footprint(model.config, model.graph, "bfloat16")
    memory = torch.cuda.mem_get_info(kit.device)[1] if kit.on_cuda else 0

    def fits(count: int) -> bool:
        return footprint.weights() + footprint.passes(count, LENGTH) <= memory

    planned = 1
    while fits(2 * planned):
        planned *= 2
    size, said = 0, "no time left"
    while kit.left > 0:
        if not kit.on_cuda and size == MOST_ON_CPU:
            said = "not tried further on a CPU"
            break
        try:
            Eap().score(model, [prompts(model.config, kit, max(1, 2 * size), LENGTH)])
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            said = "twice as many are too many"
            break
        size = max(1, 2 * size)
        kit.release()
    against = f"{planned} by plan" if kit.on_cuda else ""
    yield Row(f"{name} bfloat16, eap, largest batch T{LENGTH}", size, "prompts", against, said)
