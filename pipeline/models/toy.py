"""The small models that come with the package: where they are, and what is known about them.

Knows names and folders. Does not know how the weights came about nor how to load them: each is a stock GPT-2
folder like any other.
"""

import json
from pathlib import Path

from pipeline.core.errors import ModelError

FOLDERS = {"toy:planted": "planted", "toy:trained": "trained"}


def toy_path(name: str) -> Path:
    """The folder of a bundled model; ModelError for a name that is none."""
    if name not in FOLDERS:
        raise ModelError(f"no bundled model {name!r}; there are {' and '.join(FOLDERS)}")
    return Path(__file__).parent / "toys" / FOLDERS[name]


def known_circuit(name: str) -> tuple[str, ...]:
    """The edges that a bundled model's circuit consists of, by construction.

    ModelError for a model whose circuit nobody knows, such as a trained one.
    """
    file = toy_path(name) / "circuit.json"
    if not file.is_file():
        raise ModelError(f"the circuit of {name} is not known: it was trained; toy:planted has a known one")
    return tuple(json.loads(file.read_text(encoding="utf-8"))["edges"])
