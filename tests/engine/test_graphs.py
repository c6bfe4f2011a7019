"""Attribution in static shapes has the scores of any other shape; and what a graph replays reads nothing that has gone,
and asks the device for nothing while it is captured: shown by graphs of the CPU, which repeat what was dispatched."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from pipeline.engine import graphs
from pipeline.engine import patchable as runs
from pipeline.engine.patchable import patchable
from pipeline.methods import Eap, EapIg
from tests.oracles import models
from tests.oracles.float64 import float64_throughout

LONG = (pytest.mark.slow, pytest.mark.long)
METHODS = (Eap(positions="last"), EapIg(steps=2, metric="kl_divergence"))
# Of every way in which masks, positions, norms and attention are made one; the others by hand.
KINDS = [
    kind if kind in ("gpt2", "gemma2", "gemma3", "gptj", "mixtral") else pytest.param(kind, marks=LONG)
    for kind in models.KINDS
]


class CpuGraph(TorchDispatchMode):
    """A graph of a device that is none: replays every operation into the tensors that the first run has left."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self):
        with torch.no_grad():
            for func, args, kwargs, before in self.calls:
                again = func(*args, **kwargs)
                held = {storage(x) for x in tensors((args, kwargs))}
                for old, new in zip(tensors(before), tensors(again), strict=True):
                    if storage(old) not in held:  # neither a view of an input nor written in place
                        old.copy_(new)


def tensors(tree):
    return [x for x in tree_flatten(tree)[0] if isinstance(x, torch.Tensor)]


def storage(x):
    return x.untyped_storage().data_ptr()


@pytest.fixture
def captured(monkeypatch):
    """The CPU has graphs; a list of those that were made."""
    made = []

    def graph():
        made.append(CpuGraph())
        return made[-1]

    class Stream:
        def wait_stream(self, _other):
            pass

    monkeypatch.setattr(graphs, "captures", lambda _device: True)
    for name, stand_in in {
        "CUDAGraph": graph,
        "graph": lambda graph, **_: graph,
        "graph_pool_handle": lambda: (0, 0),
        "Stream": Stream,
        "current_stream": Stream,
        "stream": lambda _: nullcontext(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return made


def batches(model):
    """Two that are of one shape once they are padded, with a prefix, and one without."""
    found = []
    for seed, (length, shared, padded) in enumerate(((8, 5, -2), (7, 4, 2), (7, 1, 0))):
        generator = torch.Generator().manual_seed(seed)
        clean, corrupted = torch.randint(1, models.VOCABULARY, (2, 2, length), generator=generator)
        corrupted[:, :shared] = clean[:, :shared]
        mask = torch.ones(2, length, dtype=torch.long)
        if padded > 0:
            mask[1, :padded] = 0
        elif padded < 0:
            mask[1, padded:] = 0
        answers = torch.randint(1, models.VOCABULARY - 4, (2, 1), generator=generator)
        found.append(model.batch_from_ids(clean, corrupted, answers, answers + 4, attention_mask=mask))
    return found


def scores(model):
    with float64_throughout():
        return [method.score(model, batches(model)).score for method in METHODS]


@pytest.mark.parametrize("kind", KINDS)
def test_static_shapes_change_no_score(kind, captured, monkeypatch):
    for module in (graphs, runs):
        monkeypatch.setattr(module, "COLUMNS", 4)
    model = patchable(models.build(kind))
    expected = scores(model)
    refused = kind in models.MIXTURES  # their loop over experts asks which are chosen
    for asked in (False, True):
        monkeypatch.setattr(graphs, "captures", lambda _device, asked=asked: asked)
        model.graphs = graphs.Graphs()
        warned = (
            pytest.warns(RuntimeWarning, match="CUDA graphs are off") if asked and refused else nullcontext()
        )
        with warned:
            found = scores(model)
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)
    assert (model.graphs.refused is not None) == refused, model.graphs.refused
    if not refused:  # with a prefix and without, from ids and from embeddings, forward and backward
        assert len(captured) == 2 * 2 * 2, "shapes come back"


def test_without_graphs_it_is_said_why_and_passes_run(monkeypatch):
    """This machine has no CUDA: what torch says then is what is told."""
    monkeypatch.setattr(graphs, "captures", lambda _device: True)
    model = patchable(models.build("gpt2"), cuda_graphs=True)
    with pytest.warns(RuntimeWarning, match="CUDA graphs are off, passes run without: ") as warned:
        scores(model)
    assert len(warned) == 1
