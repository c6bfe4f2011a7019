"""What a model folder may hold: what is refused by its config.json and its index, and the hash that it is known by.

Knows files and keys. Does not know architectures, tokens or tensors; loads nothing.
"""

import hashlib
from pathlib import Path
from typing import Any

from pipeline.core.documents import parse_json
from pipeline.core.errors import ModelError

_COUNTS = (
    *("num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_size"),
    *("vocab_size", "max_position_embeddings"),
)
_TEXTS = ("merges.txt", "vocab.txt")  # of tokenizers; other files of text are notes


def refuse_what_is_no_plain_model(name: str, config: Any) -> None:
    """Raises ModelError for sizes that are none, for quantised weights, which are not the matrices that are read here,
    and for a text model within another."""
    for key in _COUNTS:
        value = getattr(config, key, None)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ModelError(
                f"model {name!r}: its config.json describes no transformer ({key} is {str(value)[:40]}, and must be 1 "
                "or more); save the model again"
            )
    if (quantised := getattr(config, "quantization_config", None)) is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise ModelError(
            f"model {name!r} is quantised ({str(method or 'quantization_config')[:40]} in its config.json), and scores "
            "are of plain weights; give the model that was quantised, or one that was dequantised and saved"
        )
    if getattr(config, "text_config", None) is not None:
        raise ModelError(
            f"model {name!r}: its config.json has a text_config, which a {config.model_type} has not; remove that key, "
            "or give the text model saved by itself"
        )


def refuse_kernels(name: str, config: Any) -> None:
    """Raises ModelError for a config that names attention or experts to be fetched from somewhere: compiled code."""
    own = {
        "attn_implementation": (None, "eager", "sdpa", "flex_attention"),
        "experts_implementation": (None, "eager", "batched_mm", "grouped_mm"),
    }
    for key, known in own.items():
        if (found := getattr(config, f"_{key}", None)) not in known:
            raise ModelError(
                f"model {name!r}: its config.json asks for {key} {str(found)[:80]!r}, which runs code from elsewhere; "
                "remove that key from it"
            )


def refuse_weights_elsewhere(name: str, folder: Path) -> None:
    """Raises ModelError for an index of weights that names files which do not lie in the folder itself: what is there
    is the model, by the hash of its files."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    try:
        files = set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(
            f"model folder {name!r}: {index.name} is no index of weights; save the model again"
        ) from None
    for file in sorted(map(str, files)):
        if file in ("", ".", "..") or "/" in file or "\\" in file:
            raise ModelError(
                f"model folder {name!r}: {index.name} names {file[:80]!r}, which does not lie in the folder itself; "
                "put all weights beside config.json"
            )
        if not (folder / file).is_file():
            raise ModelError(
                f"model folder {name!r}: {index.name} names {file[:80]!r}, which is not there; give all of its files"
            )


def refuse_layers_without_weights(name: str, folder: Path, n_layers: int) -> None:
    """Raises ModelError where there are fewer weights than layers: that many layers are not even set up."""
    from safetensors import SafetensorError, safe_open

    found = 0
    try:
        for file in folder.glob("*.safetensors"):
            with safe_open(file, framework="numpy") as weights:
                found += len(weights.keys())
    except (OSError, SafetensorError):
        return  # said where they are loaded
    if 0 < found < n_layers:
        raise ModelError(
            f"model {name!r} lacks most of its weights: its config.json says {n_layers:,} layers and there are "
            f"{found:,} weights in all; give a folder with all of them"
        )


def hash_folder(folder: Path) -> str:
    """sha256 over names and contents of the files that make a model: weights, config, tokenizer."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        read = path.suffix in {".json", ".safetensors", ".model", ".py", ".jinja"} or path.name in _TEXTS
        if read and path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.name}:{digest}\n".encode())
    return total.hexdigest()
