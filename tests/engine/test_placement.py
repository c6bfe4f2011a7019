"""A model spread over devices, or kept off them, gives the same scores, and every tensor is where it is used."""

import numpy as np
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

from pipeline import load_model
from pipeline.core.errors import ModelError
from pipeline.engine.patchable import PatchableModel, patchable
from pipeline.methods import Acdc, Eap, EapIg, EdgePatching, NodePatching
from pipeline.models.adapters import find_parts
from pipeline.models.families import family_of
from pipeline.models.load import graph_of
from tests.engine.places import MisplacedError, Places
from tests.oracles import models

ONE, TWO = torch.device("cuda:0"), torch.device("cuda:1")
METHODS = (EdgePatching(), NodePatching(), Eap(), EapIg(steps=2), Acdc(threshold=0.01))


def batch_for(model):
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(1, models.VOCABULARY, (2, 3, 6), generator=generator)
    return model.batch_from_ids(clean, corrupted, torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]))


def spread(hf, places):
    """Puts the first layer on one pretended device and the rest on another, as accelerate would."""
    hf.requires_grad_(requires_grad=False)
    if getattr(hf.config, "_experts_implementation", None) is not None:
        hf.set_experts_implementation("eager")  # other kernels ask what a CUDA device can do
    base, family = hf.base_model, family_of(hf.config)
    blocks = list(base.get_submodule(family.blocks).children())
    later = [*blocks[1:], base.get_submodule(family.final_norm)]
    second = {module for part in later for module in part.modules()}
    for module in hf.modules():
        places.put(module, ONE)
    for module in second:
        places.put(module, TWO)
    for module in list(hf.modules()):
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if module in blocks or own:
            device = TWO if module in second else ONE
            add_hook_to_module(module, AlignDevicesHook(execution_device=device))
    return PatchableModel(hf, find_parts(hf), graph_of(hf.config))


@pytest.mark.parametrize("kind", models.KINDS)
def test_every_tensor_of_a_layer_is_on_the_device_of_that_layer(kind):
    plain = patchable(models.build(kind).float())
    expected = [method.score(plain, [batch_for(plain)]).score for method in METHODS]
    with Places() as places:
        model = spread(models.build(kind).float(), places)
        assert model.devices == (str(ONE), str(TWO))
        found = [method.score(model, [batch_for(model)]).score for method in METHODS]
    for method, a, b in zip(METHODS, found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=method.name)


def test_a_tensor_left_on_another_device_is_noticed():
    with Places() as places:
        model = spread(models.build("llama").float(), places)
        run = model.capture(batch_for(model))
        with pytest.raises(MisplacedError):
            _ = run.layers[0].mid + run.layers[1].mid


@pytest.fixture
def folder(tmp_path):
    return models.save(models.build("llama").float(), tmp_path / "model")


@pytest.fixture
def on_disk(folder):
    """The model with its last layer, final norm and head on disk."""
    device_map = {
        "model.embed_tokens": "cpu",
        "model.rotary_emb": "cpu",
        "model.layers.0": "cpu",
        "model.layers.1": "disk",
        "model.norm": "disk",
        "lm_head": "disk",
    }
    return load_model(folder, device_map=device_map)


def test_weights_on_disk_give_the_same_scores(folder, on_disk):
    plain = load_model(folder)
    assert on_disk.parts.offloaded
    for method in (EdgePatching(), NodePatching(), Acdc(threshold=0.01)):
        found = method.score(on_disk, [batch_for(on_disk)]).score
        np.testing.assert_array_equal(found, method.score(plain, [batch_for(plain)]).score)


def test_gradients_of_weights_on_disk_are_refused_with_the_reason(on_disk):
    with pytest.raises(ModelError, match=r"gradients need all weights on devices.*edge_patching or acdc"):
        Eap().score(on_disk, [batch_for(on_disk)])


@pytest.mark.parametrize("device_map", ["cuda:7", {"": "cuda:7"}, {"model": "cpu", "lm_head": 7}])
def test_a_device_that_is_not_there_is_named(folder, device_map, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ModelError, match="device_map names cuda:7 and this machine has 2 CUDA devices"):
        load_model(folder, device_map=device_map)


def test_a_device_that_is_no_device_is_named(folder):
    with pytest.raises(ModelError, match="device_map names 'gpu0', which is no device here"):
        load_model(folder, device_map="gpu0")
