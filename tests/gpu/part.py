"""One part in a process of its own: its rows, a line of JSON each, on what was its standard output.

python -m tests.gpu.part NAME DEVICE SECONDS '{"families": [...], ...}'
"""

import json
import os
import sys
import time
from dataclasses import asdict, replace
from importlib import import_module

from tests.gpu import NO_DEVICE, READY, carry

CARRIES = carry()  # before anything is imported that may be carried
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def main(name: str, device: str, seconds: str, chosen: str) -> None:
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no row
    import torch

    from tests.gpu.kit import Kit, run

    place = torch.device(device if ":" in device or device == "cpu" else f"{device}:0")
    if place.type == "cuda" and torch.cuda.device_count() <= (place.index or 0):
        print(
            f"this machine has {torch.cuda.device_count()} CUDA devices and no {place}; try --device cpu",
            file=sys.stderr,
        )
        sys.exit(NO_DEVICE)
    part = import_module(f"tests.gpu.{name}")
    print(json.dumps(READY), file=rows, flush=True)
    deadline = time.monotonic() + float(
        seconds
    )  # without imports, which a machine's first process waits long for
    kit = Kit(place, deadline, **{key: tuple(value) for key, value in json.loads(chosen).items()})
    if place.type == "cpu":
        torch.set_num_threads(1)
    for row in run(part.cases(kit), kit):
        print(json.dumps(asdict(replace(row, part=name))), file=rows, flush=True)
    os._exit(0)  # all is said: what libraries do at the end takes time, and may fail


if __name__ == "__main__":
    main(*sys.argv[1:])
