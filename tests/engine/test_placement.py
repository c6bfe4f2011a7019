"""A model spread over devices, or kept off them, gives the same scores, and every tensor is where it is used."""

import numpy as np
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module

from pipeline import load_model
from pipeline.ablations import collect_statistics, record
from pipeline.core.errors import ModelError
from pipeline.engine import edits
from pipeline.engine.edits import Add, Mask, Replace, Site, run
from pipeline.engine.emptied import Emptied
from pipeline.engine.patchable import PatchableModel, patchable
from pipeline.evaluation.faithfulness import circuit_values
from pipeline.methods import (
    Acdc,
    Attention,
    Eap,
    EapIg,
    EdgePatching,
    Knockout,
    LogitLens,
    NodePatching,
    PathPatching,
)
from pipeline.models.adapters import find_parts
from pipeline.models.families import family_of
from pipeline.models.load import graph_of
from tests import typed
from tests.engine.places import MisplacedError, Places
from tests.oracles import models

ONE, TWO, THREE = (torch.device(f"cuda:{i}") for i in range(3))
METHODS = (EdgePatching(), NodePatching(), Eap(), EapIg(steps=2), Acdc(threshold=0.01))
READ = (
    LogitLens(),
    Knockout.model_validate({"from": "start"}),
    Attention.model_validate({"from": "start"}),
    NodePatching(positions="from_end", as_="by position"),
    EdgePatching(positions="start", direction="denoising", as_="at a span"),
)
PATHS = (PathPatching(receivers=("m0", "m1")), PathPatching(receivers=("m1", "logits"), reading="ioi"))


def batch_for(model):
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(1, models.VOCABULARY, (2, 3, 6), generator=generator)
    start = {"start": torch.arange(6).expand(3, 6) < 2}
    answers = (torch.tensor([1, 2, 3]), torch.tensor([4, 5, 6]))
    return model.batch_from_ids(clean, corrupted, *answers, spans=start)


def spread(hf, places):
    """Puts the first layer on one pretended device, the others on the next, the final norm on a third, and the
    rest beside the first layer, with the hooks that accelerate would add."""
    hf.requires_grad_(requires_grad=False)
    if getattr(hf.config, "_experts_implementation", None) is not None:
        hf.set_experts_implementation("eager")  # other kernels ask what a CUDA device can do
    base, family = hf.base_model, family_of(hf.config)
    blocks = list(base.get_submodule(family.blocks).children())
    device_of = dict.fromkeys(hf.modules(), ONE)
    device_of |= {module: TWO for block in blocks[1:] for module in block.modules()}
    device_of |= dict.fromkeys(base.get_submodule(family.final_norm).modules(), THREE)
    for module, device in device_of.items():
        places.put(module, device)
    for module in list(hf.modules()):
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if module in blocks or own:
            add_hook_to_module(module, AlignDevicesHook(execution_device=device_of[module]))
    return PatchableModel(hf, find_parts(hf), graph_of(hf.config))


def everything(model):
    """What every method gives, circuits of many edges and of few, gradients of shares of edges, and an edited run."""
    batches = [batch_for(model)]
    found = {method.id: method.score(model, batches).score for method in (*METHODS, *PATHS)}
    found |= {method.id: numbers(method.score(model, batches)) for method in READ}
    found |= ablated(model, batches)
    kept = np.random.default_rng(0).random((4, model.graph.n_edges)) < [[0.9], [0.5], [0.1], [0.03]]
    found["circuits"] = circuit_values(model, batches, kept)
    return found | {"shares": gradients_of_shares(model, batches[0]), "edited": edited(model, batches[0])}


def numbers(result):
    return result.value if hasattr(result, "value") else result.score


def ablated(model, batches):
    """What zeros and means replace."""
    found, statistics = {}, collect_statistics(model, batches)
    half = np.arange(model.graph.n_edges)[None] % 2 > 0
    for ablation in ("zero", "mean", "mean_positional"):
        how = {"ablation": ablation, "statistics": statistics}
        found[f"eap {ablation}"] = Eap().score(model, batches, **how).score
        found[f"circuits {ablation}"] = circuit_values(model, batches, half, **how)
    return found


def gradients_of_shares(model, batch):
    runs = record(model, batch, "corrupted")
    executor = model.executor(runs.clean, runs.answer_pos)
    emptied = Emptied.of(model.parts, model.graph, executor, runs.clean, runs.values)
    weights = torch.full((model.graph.n_edges,), 0.5, dtype=torch.float64).requires_grad_()
    hidden = run(model, batch, [Mask(weights, emptied)], [Site("normed")], grad=True)[Site("normed")]
    return torch.autograd.grad(hidden.sum(), weights)[0].numpy()


def edited(model, batch):
    at = batch.real & (torch.arange(batch.length, device=model.device) > 2)
    vector = torch.ones(model.config.hidden_size)
    changes = [
        edits.Knockout(1, (0,), at, ~at),
        Add(Site("residual", 1), vector, at),
        Add(Site("mlp", 0), vector, at),
    ]
    changes.append(Replace(Site("z", 1), torch.zeros(()), at, head=1))
    found = run(model, batch, changes, [Site("logits"), Site("heads", 1), Site("residual", 2)])
    return np.concatenate([value.cpu().flatten().numpy() for value in found.values()])


@pytest.fixture
def unchecked():
    """Of types and shapes, whose checks cost several times what is computed: the same functions are checked wherever
    else a kind is tested."""
    with typed.unchecked():
        yield


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("kind", models.KINDS)
def test_every_tensor_of_a_layer_is_on_the_device_of_that_layer(kind):
    heads = {"heads": 2, "kv_heads": 1}  # ACDC tries every edge, and where a tensor is depends on no head
    expected = everything(patchable(models.build(kind, **heads).float()))
    with Places() as places:
        model = spread(models.build(kind, **heads).float(), places)
        assert {str(ONE), str(TWO)} <= set(model.devices)
        found = everything(model)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_tensor_left_on_another_device_is_noticed():
    with Places() as places:
        model = spread(models.build("llama").float(), places)
        run = model.capture(batch_for(model))
        with pytest.raises(MisplacedError):
            _ = run.layers[0].mid + run.layers[1].mid


def test_a_tensor_made_without_a_device_is_on_the_cpu_and_noticed():
    with Places() as places:
        real = batch_for(spread(models.build("llama").float(), places)).real
        with pytest.raises(MisplacedError):
            _ = real & (torch.arange(6) > 2)


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
