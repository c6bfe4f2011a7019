"""One model in two places: weights kept on the CPU (on disk, where the device is the CPU) and fetched layer by layer,
layers that compute on the device and on the CPU, and on two devices where there are two.

Float32, against the model in one place.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

from pipeline import load_model
from pipeline.core.errors import ModelError
from pipeline.engine.patchable import patchable
from pipeline.methods import Eap
from pipeline.models.families import family_of
from tests.gpu.kit import Case, Kit
from tests.gpu.parity import ALLOWED, ASKED, batch_of, error_of, rounded, values_of
from tests.gpu.record import Row, held

KINDS = ("llama", "gpt2", "gemma2", "mixtral")


def cases(kit: Kit) -> Iterator[Case]:
    yield "weights elsewhere", lambda: _offloaded(kit)
    for kind in KINDS:
        yield f"{kind} in two places", lambda kind=kind: _spread(kit, kind, torch.device("cpu"))
    if kit.on_cuda and torch.cuda.device_count() > 1:
        other = next(i for i in range(torch.cuda.device_count()) if i != kit.device.index)
        for kind in KINDS:
            yield f"{kind} on two devices", lambda kind=kind: _spread(kit, kind, torch.device("cuda", other))


def _offloaded(kit: Kit) -> Iterator[Row]:
    """accelerate keeps such weights where they are and computes on the device."""
    here, there = (str(kit.device), "cpu") if kit.on_cuda else ("cpu", "disk")
    before = {"model.embed_tokens": here, "model.rotary_emb": here, "model.layers.0": here}
    after = dict.fromkeys(("model.layers.1", "model.norm", "lm_head"), there)
    with tempfile.TemporaryDirectory() as folder:
        rounded("llama", Path(folder))
        whole, parted = load_model(folder), load_model(folder, device_map=before | after)
        patching = {n for n, method in ASKED.items() if not method.needs.gradient}
        what = f"llama, the last layer's weights on {there}"
        yield _held(what, values_of(kit, whole), values_of(kit, parted), patching | {"circuits"})
        try:
            Eap().score(parted, [batch_of(parted)])
        except ModelError as error:
            yield Row("gradients of such weights are refused", verdict="ok", note=str(error))
        else:
            yield Row("gradients of such weights are refused", verdict="wrong", note="they were computed")


def _spread(kit: Kit, kind: str, other: torch.device) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        rounded(kind, Path(folder))
        whole = load_model(folder)
        model = patchable(spread(load_model(folder).hf, kit.device, other))
    yield _held(f"{kind}, layers from the second on {other}", values_of(kit, whole), values_of(kit, model))


def spread(hf: Any, first: torch.device, other: torch.device) -> Any:
    """Puts the layers from the second on `other` and the rest on `first`, with the hooks that accelerate would add."""
    if getattr(hf.config, "_experts_implementation", None) is not None:
        hf.set_experts_implementation("eager")
    base = hf.base_model
    blocks = list(base.get_submodule(family_of(hf.config).blocks).children())
    hf.to(first)
    for block in blocks[1:]:
        block.to(other)
    later = {module for block in blocks[1:] for module in block.modules()}
    for module in list(hf.modules()):
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if module in blocks or own:
            place = other if module in later else first
            add_hook_to_module(module, AlignDevicesHook(execution_device=place))
    return hf


def _held(what: str, whole: Any, parted: Any, only: set[str] | None = None) -> Row:
    names = [name for name in whole if only is None or name in only]
    errors = {name: error_of(parted[name](), whole[name]()) for name in names}
    note = ", ".join(f"{name} {error:.0e}" for name, error in errors.items())
    return held(what, max(errors.values()), ALLOWED["float32"], "one place, the CPU", note)
