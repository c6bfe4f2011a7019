"""A model that is one GGUF file: its config, its tokenizer, and its weights, dequantised to plain matrices.

Knows the file's header and what transformers leaves out of it. Does not know graphs, configs of runs or patching.

transformers reads the file (it needs torch for that, for the header too) and dequantises with the package `gguf`. It is
shown a folder that holds nothing else: a tokenizer.json beside the file is not the file's, and would be taken. What it
would leave out without a word (scaled rotary frequencies, windows) is refused.
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.core.documents import suggest
from pipeline.core.errors import CircuitsError, ModelError
from pipeline.core.text import first_line
from pipeline.models.encoding import is_failure

SUFFIX = ".gguf"
NOTE = "weights_note"  # the key of config.json under which a converted folder says what its weights are
_BITS = {"F64", "F32", "F16", "BF16"}  # types that hold numbers as they are


@dataclass(frozen=True)
class Header:
    """What a file says of itself: the architecture, how many tensors of each type it holds, and their names."""

    architecture: str
    types: tuple[tuple[str, int], ...]  # the most frequent first
    tensors: tuple[str, ...]

    def note(self, file: str) -> str:
        """What its weights are, in words: every page of such a model says so."""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.types)
        packed = any(kind not in _BITS for kind, _ in self.types)
        return f"weights {'dequantised from' if packed else 'read from'} {file} (tensors: {kinds})"


def find_file(name: str, folder: Path, file: str) -> Path:
    """The file of that name in a folder; ModelError where there is none, or `gguf` is not installed."""
    if not folder.is_dir():
        raise ModelError(
            f"model {name!r}: is no folder, and model.gguf names a file in one; give the folder that holds {file!r}"
        )
    if Path(file).name != file or not file.endswith(SUFFIX):
        raise ModelError(
            f"model.gguf: {file!r} is no name of a {SUFFIX} file; give the name alone, and its folder as model.name"
        )
    path = folder / file
    if not path.is_file():
        there = sorted(one.name for one in folder.glob(f"*{SUFFIX}"))
        raise ModelError(f"model folder {name!r} holds no {file!r}{suggest(file, there)}")
    if find_spec("gguf") is None:
        raise ModelError(
            f"model {file!r}: the package gguf, which reads such files, is not installed; pip install gguf"
        )
    return path


def digest_of(path: Path) -> str:
    """sha256 of the file, by which the model is known."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_header(path: Path) -> Header:
    """The header of a file that transformers reads as it is meant; ModelError for any other."""
    stat = path.stat()
    return _read_header(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4)
def _read_header(path: Path, _size: int, _time: int) -> Header:
    """Reading the vocabulary takes seconds, and several ask."""
    from gguf import GGUFReader, dequantize

    try:
        reader = GGUFReader(path)
        fields = {key: field for key, field in reader.fields.items() if not key.startswith("tokenizer.")}
        architecture = str(fields["general.architecture"].contents())
        one_of_each = {tensor.tensor_type.name: tensor for tensor in reader.tensors}
    except Exception as error:  # noqa: BLE001 - a torn file makes it raise anything
        raise ModelError(
            f"model {path.name!r} does not load: it is no whole GGUF file ({first_line(error)}); fetch it again"
        ) from None
    for kind, tensor in one_of_each.items():
        try:
            dequantize(tensor.data.reshape(-1, tensor.data.shape[-1])[:1], tensor.tensor_type)
        except Exception:  # noqa: BLE001 - whatever it is, this kind is not read
            raise ModelError(
                f"model {path.name!r}: tensors of type {kind} are not dequantised by the package gguf, such as "
                f"{tensor.name}; give another quantisation of the model, or its folder of safetensors"
            ) from None
    _refuse_what_is_left_out(path.name, architecture, {k: f.contents() for k, f in fields.items()}, reader)
    types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
    return Header(architecture, tuple(types.most_common()), tuple(tensor.name for tensor in reader.tensors))


def _refuse_what_is_left_out(file: str, architecture: str, fields: dict[str, Any], reader: Any) -> None:
    """Raises ModelError for what changes the model and is not read: transformers would load another one."""
    rotary = [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_")]
    scaling = fields.get(f"{architecture}.rope.scaling.type")
    found = None
    if rotary:
        found = f"scaled rotary frequencies ({rotary[0]})"
    elif scaling not in (None, "none"):
        found = f"rope scaling ({scaling})"
    elif architecture == "llama" and fields.get("llama.attention.sliding_window"):
        found = "a sliding window"
    if found:
        raise ModelError(
            f"model {file!r} has {found}, which transformers leaves out of a GGUF file; give the model's folder of "
            "safetensors instead"
        )


def read_config(path: Path) -> Any:
    """The transformers config; ModelError for an architecture that transformers does not read from such files."""
    from transformers import AutoConfig

    with _alone(path) as folder:
        try:
            return AutoConfig.from_pretrained(folder, gguf_file=path.name)
        except Exception as error:  # noqa: BLE001 - metadata of nonsense makes it raise anything
            raise _unread(path, error) from None


def read_tokenizer(path: Path) -> Any:
    """The file's own tokenizer; ModelError where transformers cannot make one of it."""
    stat = path.stat()
    return _read_tokenizer(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1)
def _read_tokenizer(path: Path, _size: int, _time: int) -> Any:
    from transformers import AutoTokenizer

    with _alone(path) as folder:
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
        except BaseException as error:  # tokenizers raise what is no Exception
            if not is_failure(error):
                raise
            raise _unread(path, error, "its tokenizer") from None
    tokenizer.name_or_path = path.name  # not the folder that it was shown
    return tokenizer


def read_weights(path: Path, config: Any, dtype: str = "float32", **placing: Any) -> Any:
    """A plain model with the file's weights in `dtype`, as `config` says, placed by accelerate.

    transformers' own model knows itself as quantised, so its weights go into a fresh one. ModelError where weights are
    missing or do not fit.
    """
    import torch
    import transformers
    from transformers.utils import logging as transformers_logging

    from pipeline.models.stock import AutoModelForCausalLM

    transformers_logging.disable_progress_bar()
    # releases that could keep weights packed are told not to
    packed = getattr(transformers, "GgufConfig", None)
    how = {} if packed is None else {"quantization_config": packed(dequantize=True)}
    number = getattr(torch, dtype)
    with _alone(path) as folder, _no_bar():
        try:
            read, found = AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=path.name, dtype=number, output_loading_info=True, **how
            )
        except Exception as error:  # noqa: BLE001 - weights of other shapes, types that it does not know
            raise _unread(path, error) from None
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"model {path.name!r} lacks {len(missing)} of its weights, such as {missing[0]}; give a whole file"
        )
    weights = {name: value.detach() for name, value in read.state_dict().items()}
    plain, found = type(read).from_pretrained(
        None, config=config, state_dict=weights, dtype=number, output_loading_info=True, **placing
    )
    if left := sorted(found["missing_keys"] | found["unexpected_keys"]):
        raise ModelError(
            f"model {path.name!r}: {left[0]} has no place in its architecture; give another file"
        )
    return plain


def convert(path: Path, folder: Path, note: str | None = None) -> None:
    """Writes the model of a file as a plain folder: float32 weights, config, tokenizer; the same bytes every time.

    The folder is there when it is whole: it is made beside its place, under a hidden name, and moved.
    """
    note = note or read_header(path).note(path.name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for stale in folder.parent.glob(f".{folder.name}.making-*"):  # of a conversion that was killed
        shutil.rmtree(stale, ignore_errors=True)
    making = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.making-"))
    try:
        making.chmod(0o755)
        config = read_config(path)
        model = read_weights(path, config)
        setattr(model.config, NOTE, note)
        model.save_pretrained(making)
        read_tokenizer(path).save_pretrained(making)
        for file in making.iterdir():
            file.chmod(0o644)
            with file.open("rb") as written:
                os.fsync(written.fileno())
        making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """A folder in which the file is the only one."""
    with tempfile.TemporaryDirectory(prefix="circuits-gguf-") as name:
        folder = Path(name)
        (folder / path.name).symlink_to(path.resolve())
        yield folder


@contextlib.contextmanager
def _no_bar() -> Iterator[None]:
    """Without the bar that transformers draws while it dequantises, which no setting turns off."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield


def _unread(path: Path, error: BaseException, what: str = "") -> ModelError:
    """One line for what transformers says of a file."""
    return ModelError(
        f"model {path.name!r}: {what + ' ' if what else ''}does not load from GGUF ({first_line(error)[:200]}); give "
        "the model's folder of safetensors instead"
    )


def main(argv: list[str] | None = None) -> int:
    """`python -m pipeline.models.gguf FILE FOLDER`: a file that is read often, converted once."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.models.gguf", description=convert.__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args(argv)
    try:
        if asked.folder.exists():
            raise ModelError(f"{asked.folder}: is there already; give a new folder")
        convert(find_file(str(asked.file.parent), asked.file.parent, asked.file.name), asked.folder)
    except CircuitsError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{asked.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
