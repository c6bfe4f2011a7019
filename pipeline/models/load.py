"""Finding and loading a model through transformers and accelerate: identity, config, graph, tokenizer, weights.

Knows names, revisions and files. Does not know patching; loads without torch until weights are asked for. A
local folder is identified by the hash of its files, a hub name by the commit it resolves to: editing a folder
in place makes another run.
"""

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import ModelError
from pipeline.core.graph import Graph, KvGrouping
from pipeline.models.families import family_of
from pipeline.models.placement import check_device_map
from pipeline.models.toy import toy_path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before the hub's client is imported anywhere

DTYPES = ("float32", "bfloat16", "float16", "float64")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class ResolvedModel:
    """A model name with what it stands for at this moment.

    `path` is what transformers loads, `revision` the resolved commit or "local", `fingerprint` the sha256 of
    a folder's files or the commit, `config` the transformers config.
    """

    name: str
    path: str
    revision: str
    fingerprint: str
    config: Any
    is_local: bool
    trust_remote_code: bool = False


def resolve_model(name: str, revision: str = "main", trust_remote_code: bool = False) -> ResolvedModel:
    """What `name` stands for; ModelError for an unknown model or an unsupported architecture."""
    path = str(toy_path(name)) if name.startswith("toy:") else name
    is_local = Path(path).is_dir()
    if is_local and not (Path(path) / "config.json").is_file():
        raise ModelError(
            f"model folder {name!r} holds no config.json; give a folder saved by save_pretrained"
        )
    if not is_local and (path.startswith(("/", ".", "~")) or path.count("/") > 1):
        raise ModelError(
            f"model {name!r}: no such folder; give an existing folder or a hub name such as 'gpt2'"
        )
    if is_local and (Path(path) / "adapter_config.json").exists():
        raise ModelError(
            f"model folder {name!r} holds an adapter (adapter_config.json); merge it into the model and save that"
        )
    config = _load_config(name, path, revision, trust_remote_code)
    family_of(config)
    if not trust_remote_code:
        _refuse_kernels(name, config)
    if is_local:
        fingerprint = _hash_folder(Path(path))
        return ResolvedModel(name, path, "local", fingerprint, config, is_local, trust_remote_code)
    commit = getattr(config, "_commit_hash", None) or revision
    return ResolvedModel(name, path, commit, commit, config, is_local, trust_remote_code)


def graph_of(config: Any, kv: KvGrouping = "query_head") -> Graph:
    """The graph of a transformers config."""
    family = family_of(config)
    n_heads = config.num_attention_heads
    n_kv = getattr(config, "num_key_value_heads", None) or n_heads
    parallel = family.is_parallel(config)
    try:
        return Graph(config.num_hidden_layers, n_heads, n_kv, parallel, kv, d_model=config.hidden_size)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the model's config.json describes no transformer ({_first_line(error)})") from None


def context_length(config: Any) -> int | None:
    """The longest prompt the model can read, in tokens, where its config says so."""
    return getattr(config, "max_position_embeddings", None)


def load_tokenizer(resolved: ResolvedModel) -> Any:
    """The model's tokenizer, or None for a folder without one (prompts are then lists of ids)."""
    if resolved.is_local and not any((Path(resolved.path) / file).is_file() for file in _TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            resolved.path, revision=_revision(resolved), trust_remote_code=resolved.trust_remote_code
        )
    except Exception as error:  # noqa: BLE001 - on damaged files tokenizers raise anything, plain Exception among it
        raise ModelError(
            f"model {resolved.name!r}: its tokenizer does not load ({_first_line(error)})"
        ) from None


def load_weights(
    resolved: ResolvedModel, dtype: str = "float32", device_map: Any = "cpu", max_memory: Any = None
) -> Any:
    """The stock model in evaluation mode, weights frozen, placed by accelerate as `device_map` says.

    Raises ModelError for a device that is not there, when the model does not load, or when weights are missing
    (transformers would draw them at random).
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is unknown; one of {', '.join(DTYPES)}")
    device_map = check_device_map(resolved.name, device_map)
    transformers_logging.disable_progress_bar()
    _quiet()
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            resolved.path,
            revision=_revision(resolved),
            dtype=getattr(torch, dtype),
            device_map=device_map,
            max_memory=max_memory,
            trust_remote_code=resolved.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"model {resolved.name!r} does not load: {_first_line(error)}") from None
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"model {resolved.name!r} lacks {len(missing)} of its weights, such as {missing[0]}: give a folder with "
            "all of them, saved from the model with its language-model head"
        )
    return model.requires_grad_(requires_grad=False).eval()


def _load_config(name: str, path: str, revision: str, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    _quiet()
    try:
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # noqa: BLE001 - a config.json of nonsense makes it raise anything
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"model {name!r} runs its own code; set model.trust_remote_code: true to allow it"
            ) from None
        if Path(path).is_dir():
            raise ModelError(
                f"model folder {name!r}: its config.json does not load ({_first_line(error)}); save the model again"
            ) from None
        raise ModelError(
            f"model {name!r} is unknown: no such folder, and not found on the hub or not reachable "
            f"({_first_line(error)})"
        ) from None


def _refuse_kernels(name: str, config: Any) -> None:
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


def _quiet() -> None:
    """What these libraries warn of is said by an error of ours, in one line, or is nothing to act on."""
    for name in ("transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _revision(resolved: ResolvedModel) -> str:
    return "main" if resolved.is_local else resolved.revision


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def _hash_folder(folder: Path) -> str:
    """sha256 over names and contents of the files that make a model: weights, config, tokenizer."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in {".json", ".safetensors", ".txt", ".model", ".py", ".jinja"}:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            total.update(f"{path.name}:{digest}\n".encode())
    return total.hexdigest()
