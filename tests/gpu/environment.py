"""What the machine and its libraries are, and whether all that computes is there.

Every module of the product but those of Ray's is imported; a product in float32 must be one in float32, since the
product's exactness is counted on it.
"""

import importlib
import pkgutil
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import torch

import pipeline
from tests.gpu import part
from tests.gpu.kit import Case, Kit
from tests.gpu.record import Row, held

LIBRARIES = ("torch", "transformers", "accelerate", "pydantic", "numpy", "pyarrow", "pandas", "jaxtyping")
ABSENT = ("ray", "prefect", "beartype")  # what the kit must not need
WITH_RAY = "pipeline.cluster"


def cases(kit: Kit) -> Iterator[Case]:
    yield "libraries", _libraries
    yield "device", lambda: _device(kit)
    yield "modules", _modules
    yield "float32", lambda: _products(kit)


def _libraries() -> Iterator[Row]:
    found = [f"{name} {_version(name)}" for name in LIBRARIES]
    carried = "carried packages used" if part.CARRIES else "nothing carried"
    yield Row(f"Python {platform.python_version()}", note=f"{', '.join(found)}; {carried}")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(carried)" if name in sys.modules else "missing"


def _device(kit: Kit) -> Iterator[Row]:
    if kit.on_cuda:
        about = torch.cuda.get_device_properties(kit.device)
        note = f"{about.name}, CUDA {torch.version.cuda}, {torch.cuda.device_count()} of them"
        yield Row(str(kit.device), about.total_memory / 2**30, "GiB", note=note)
    else:
        yield Row("cpu", torch.get_num_threads(), "threads", note=platform.processor() or platform.machine())


def _modules() -> Iterator[Row]:
    names = [found.name for found in pkgutil.walk_packages(pipeline.__path__, "pipeline.")]
    names = [name for name in names if not name.startswith(WITH_RAY)]
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            yield Row(name, note=f"does not import: {error}", verdict="failed")
    loaded = [name for name in ABSENT if sys.modules.get(name) is not None]
    note = "all modules but pipeline.cluster"
    yield held(f"of {len(names)} modules import {', '.join(ABSENT)}", len(loaded), 0, note, ", ".join(loaded))


def _products(kit: Kit) -> Iterator[Row]:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 512, 512, generator=generator)
    exact = a.double() @ b.double()
    error = ((a.to(kit.device) @ b.to(kit.device)).cpu().double() - exact).abs().max() / exact.abs().max()
    note = f"TF32 would give about 1e-3; precision {torch.get_float32_matmul_precision()}"
    yield held("a float32 matrix product", float(error), 1e-5, "float64, relative to the largest", note)
