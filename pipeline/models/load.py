"""Finding and loading a model through transformers and accelerate: identity, config, graph, tokenizer, weights.

Knows names, revisions and files. Does not know patching; loads without torch until weights are asked for. A
local folder is identified by the hash of its files, a hub name by the commit it resolves to: editing a folder
in place makes another run.
"""

import logging
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.core.documents import looked_in, suggest
from pipeline.core.errors import ModelError
from pipeline.core.graph import Graph, KvGrouping
from pipeline.core.spelling import spelt
from pipeline.core.text import first_line, printable
from pipeline.models import gguf
from pipeline.models.encoding import is_failure
from pipeline.models.families import family_of
from pipeline.models.folder import (
    hash_folder,
    refuse_kernels,
    refuse_layers_without_weights,
    refuse_weights_elsewhere,
    refuse_what_is_no_plain_model,
)
from pipeline.models.later import later, later_within
from pipeline.models.listed import quickly_listed
from pipeline.models.placement import check_device_map
from pipeline.models.toy import toy_path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before the hub's client is imported anywhere

DTYPES = ("float32", "bfloat16", "float16", "float64")
_good: set[str] = set()  # fingerprints of folders whose weights are those that their config.json describes
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class ResolvedModel:
    """A model name with what it stands for at this moment.

    `path` is what transformers loads, `revision` the resolved commit or "local", `fingerprint` the sha256 of
    a folder's files or the commit, `config` the transformers config. `gguf` names the file in `path` that alone is the
    model, and whose sha256 the fingerprint then is.
    """

    name: str
    path: str
    revision: str
    fingerprint: str
    config: Any
    is_local: bool
    trust_remote_code: bool = False
    gguf: str | None = None

    @property
    def note(self) -> str | None:
        """What is to be known of the weights, wherever the model is named; None of most models."""
        if self.gguf is not None:
            return gguf.read_header(self.file).note(self.gguf)
        note = getattr(self.config, gguf.NOTE, None)
        return printable(note)[:300] if isinstance(note, str) and note else None

    @property
    def file(self) -> Path:
        """The one file that the model is."""
        return Path(self.path) / str(self.gguf)


def resolve_model(
    name: str, revision: str = "main", trust_remote_code: bool = False, gguf_file: str | None = None
) -> ResolvedModel:
    """What `name` stands for, or the file `gguf_file` in that folder; ModelError for an unknown model or an unsupported
    architecture."""
    path = str(toy_path(name)) if name.startswith("toy:") else name
    if gguf_file is not None:
        return _resolve_file(name, Path(path), gguf_file)
    is_local = Path(path).is_dir()
    if is_local and not (Path(path) / "config.json").is_file():
        raise ModelError(
            f"model folder {name!r} holds no config.json; give a folder saved by save_pretrained"
        )
    if not is_local and (path.startswith(("/", ".", "~")) or path.count("/") > 1):
        raise ModelError(
            f"model {name!r}: no such folder{looked_in(name)}; give an existing folder or a hub name such as 'gpt2'"
        )
    if is_local and (Path(path) / "adapter_config.json").exists():
        raise ModelError(
            f"model folder {name!r} holds an adapter (adapter_config.json); merge it into the model and save that"
        )
    config = _load_config(name, path, revision, trust_remote_code)
    family_of(config)
    refuse_what_is_no_plain_model(name, config)
    if not trust_remote_code:
        refuse_kernels(name, config)
    if is_local:
        refuse_weights_elsewhere(name, Path(path))
        fingerprint = hash_folder(Path(path))
        return ResolvedModel(name, path, "local", fingerprint, config, is_local, trust_remote_code)
    commit = getattr(config, "_commit_hash", None) or revision
    return ResolvedModel(name, path, commit, commit, config, is_local, trust_remote_code)


def _resolve_file(name: str, folder: Path, gguf_file: str) -> ResolvedModel:
    """A model that is one file: its own config, and its hash."""
    path = gguf.find_file(name, folder, gguf_file)
    gguf.read_header(path)
    config = gguf.read_config(path)
    family_of(config)
    refuse_what_is_no_plain_model(gguf_file, config)
    return ResolvedModel(
        name, str(folder), "local", gguf.digest_of(path), config, is_local=True, gguf=gguf_file
    )


def graph_of(config: Any, kv: KvGrouping = "query_head") -> Graph:
    """The graph of a transformers config."""
    family = family_of(config)
    n_heads = config.num_attention_heads
    n_kv = getattr(config, "num_key_value_heads", None) or n_heads
    parallel = family.is_parallel(config)
    try:
        return Graph(config.num_hidden_layers, n_heads, n_kv, parallel, kv, d_model=config.hidden_size)
    except (TypeError, ValueError) as error:
        raise ModelError(f"the model's config.json describes no transformer ({first_line(error)})") from None


def context_length(config: Any) -> int | None:
    """The longest prompt the model can read, in tokens, where its config says so."""
    return getattr(config, "max_position_embeddings", None)


def load_tokenizer(resolved: ResolvedModel) -> Any:
    """The model's tokenizer, or None for a folder without one (prompts are then lists of ids)."""
    if resolved.gguf is not None:
        return gguf.read_tokenizer(resolved.file)
    if resolved.is_local and not any((Path(resolved.path) / file).is_file() for file in _TOKENIZER_FILES):
        return None
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            resolved.path,
            config=resolved.config,  # or it is read again
            revision=_revision(resolved),
            trust_remote_code=resolved.trust_remote_code,
        )
    except BaseException as error:  # on damaged files tokenizers raise anything, plain Exception among it
        if not is_failure(error):
            raise
        raise ModelError(
            f"model {resolved.name!r}: its tokenizer does not load ({first_line(error)})"
        ) from None


def check_weights(resolved: ResolvedModel) -> None:
    """Raises ModelError unless the weights are those that config.json describes: each there, in its shape.

    Told from names and shapes, as transformers reads them; no weight is read and no memory taken. Of a GGUF file the
    header has been read; whether its weights fit is seen where they are. Equal files are looked at once per process.
    """
    if resolved.gguf is not None or (resolved.is_local and resolved.fingerprint in _good):
        return
    if resolved.is_local:
        refuse_layers_without_weights(resolved.name, Path(resolved.path), resolved.config.num_hidden_layers)
    _, found = _from_pretrained(resolved, device_map="meta", ignore_mismatched_sizes=True)
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"model {resolved.name!r} lacks {len(missing)} of its weights, such as {missing[0]}: give a folder with "
            "all of them, saved from the model with its language-model head"
        )
    if other := sorted(found["mismatched_keys"]):
        weight, has, wants = other[0]
        raise ModelError(
            f"model {resolved.name!r} does not load: {len(other)} of its weights have another shape than its "
            f"config.json says, such as {weight}, {list(has)} and not {list(wants)}; give the config.json that was "
            "saved with them"
        )
    if resolved.is_local:
        _good.add(resolved.fingerprint)


def load_weights(
    resolved: ResolvedModel, dtype: str = "float32", device_map: Any = "cpu", max_memory: Any = None
) -> Any:
    """The stock model in evaluation mode, weights frozen, placed by accelerate as `device_map` says.

    Raises ModelError for a device that is not there, when the model does not load, or when weights are missing
    (transformers would draw them at random, in as much memory as config.json asks for).
    """
    dtype = spelt(dtype, DTYPES)
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is unknown{suggest(dtype, DTYPES)}")
    device_map = check_device_map(resolved.name, device_map)
    check_weights(resolved)
    if resolved.gguf is not None:
        model = gguf.read_weights(
            resolved.file, resolved.config, dtype, device_map=device_map, max_memory=max_memory
        )
        return model.requires_grad_(requires_grad=False).eval()
    model, _ = _from_pretrained(resolved, dtype=dtype, device_map=device_map, max_memory=max_memory)
    return model.requires_grad_(requires_grad=False).eval()


def _from_pretrained(resolved: ResolvedModel, *, dtype: str = "float32", **how: Any) -> tuple[Any, Any]:
    """The model and what transformers found on the way; ModelError when it does not load."""
    import torch
    from transformers.utils import logging as transformers_logging

    from pipeline.models.stock import AutoModelForCausalLM

    transformers_logging.disable_progress_bar()
    _quiet()
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            resolved.path,
            config=resolved.config,  # which is copied
            revision=_revision(resolved),
            dtype=getattr(torch, dtype),
            trust_remote_code=resolved.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **how,
        )
    except Exception as error:  # noqa: BLE001 - a config.json of nonsense makes it raise anything
        raise ModelError(f"model {resolved.name!r} does not load: {first_line(error)}") from None
    return model, found


def dtype_name(model: Any) -> str:
    """What a model's numbers are, as configs write it."""
    return str(model.dtype).removeprefix("torch.")


def _load_config(name: str, path: str, revision: str, trust_remote_code: bool) -> Any:
    configs = _configs()
    _quiet()
    try:
        return configs.from_pretrained(
            path, revision=revision, trust_remote_code=trust_remote_code, dtype=None, torch_dtype=None
        )  # ours says what numbers are; its own would be looked up in torch
    except Exception as error:  # noqa: BLE001 - a config.json of nonsense makes it raise anything
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"model {name!r} runs its own code; set model.trust_remote_code: true to allow it"
            ) from None
        if Path(path).is_dir():
            raise ModelError(
                f"model folder {name!r}: its config.json does not load ({first_line(error)}); save the model again"
            ) from None
        raise ModelError(
            f"model {name!r} is unknown: no such folder{looked_in(name)}, and not found on the hub or not reachable "
            f"({first_line(error)})"
        ) from None


@cache
def _configs() -> Any:
    """transformers' reader of configs, imported once."""
    with quickly_listed():
        later("transformers.models")  # a list of all, made by reading the files of each
        with later_within("torch"):  # which is for rotary frequencies: reading a config asks for none
            from transformers import AutoConfig
    return AutoConfig


def _quiet() -> None:
    """What these libraries warn of is said by an error of ours, in one line, or is nothing to act on."""
    for name in ("transformers", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _revision(resolved: ResolvedModel) -> str:
    return "main" if resolved.is_local else resolved.revision
