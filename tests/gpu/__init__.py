"""The product on a device: is it right there, what does it take, how fast is it. `infra/gpu.md` says how to run it.

`python -m tests.gpu --device cuda` runs from source, with neither Ray nor Prefect nor beartype, in whatever Python has
torch and transformers; what else is missing there is carried (`tests.gpu.wheels`) and found by `carry`. Each part is a
file with `cases(kit)`, run in a process of its own: one that breaks the device breaks no other.
"""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CARRIED = ROOT / "build" / "gpu"
READY = "ready"  # what a part says first, once all is imported
NO_DEVICE = 3  # the exit code of a part on a machine without the device that was asked for


def site(major: int = 3, minor: int = 12) -> Path:
    """Where packages lie that were fetched for that Python, unpacked."""
    return CARRIED / f"cp{major}{minor}"


def carry() -> bool:
    """Puts the carried packages before all others where pydantic is not installed; whether it did."""
    folder = site(*sys.version_info[:2])
    if not folder.is_dir() or importlib.util.find_spec("pydantic") is not None:
        return False
    sys.path.insert(0, str(folder))
    return True
