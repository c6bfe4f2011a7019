"""What `torch.save` wrote, as plain data: lists, dicts, numbers and words as they are, tensors as arrays.

Knows torch's archive. Does not know what is in it for. Nothing of it is executed: torch reads it with `weights_only`,
which makes tensors and plain values and refuses whatever else a pickle may ask for.
"""

import io
import zipfile
from typing import Any

import numpy as np

from pipeline.core.errors import CircuitsError

_DEEPEST = 8


def read_saved(content: bytes) -> Any:
    """The data of the bytes of a file. CircuitsError where it is none of torch's archives, holds objects of Python,
    tensors larger than the file, or kinds of tensors that are no arrays."""
    _check_archive(content)
    import torch

    try:
        data = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torn or hostile bytes make it raise anything
        last = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise CircuitsError(
                "holds objects of Python beside tensors and plain values, which are never loaded; save it without "
                "them, or as JSON"
            ) from None
        raise CircuitsError(f"is torn or nothing that torch.save wrote ({last[0][:120]})") from None
    return _plain(data, len(content), _DEEPEST)


def _check_archive(content: bytes) -> None:
    """Refuses what is no archive, and what would be more than the file's own bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        raise CircuitsError(
            "is no archive of torch.save; a pickle is never loaded, so save it with torch.save (ACDC's save_subgraph "
            "does), or as JSON"
        ) from None
    packed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
    if packed or sum(part.file_size for part in parts) > len(content):
        raise CircuitsError(
            "is an archive whose parts are larger than the file; save it anew with torch.save"
        )


def _plain(value: Any, most: int, deep: int) -> Any:
    import torch

    if not deep:
        raise CircuitsError("is nested too deeply")
    if isinstance(value, torch.Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.numel() > most:
            raise CircuitsError(
                f"has a tensor of the kind {value.dtype}, {value.layout}; give floats or bools"
            )
        value = value.detach()
        if value.is_floating_point() and value.dtype != torch.float64:
            value = value.float()  # numpy has no bfloat16
        found: np.ndarray = value.numpy()
        return found if found.ndim else found.item()
    if isinstance(value, dict):
        return {key: _plain(one, most, deep - 1) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(one, most, deep - 1) for one in value)
    return value
