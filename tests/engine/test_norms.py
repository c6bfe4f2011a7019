"""Norm modules are recognised by what they compute; gradients through the formula are autograd's."""

import pytest
import torch
from torch import nn
from transformers.models.cohere.modeling_cohere import CohereLayerNorm
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from pipeline.core.graph import Graph
from pipeline.engine.norms import formula_of
from pipeline.engine.patchable import patchable
from pipeline.engine.receiver_gradients import LayerGradients, add_receiver_gradients
from tests.oracles import models
from tests.oracles.float64 import float64_throughout

WIDTH = 16
NORMS = {
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "layer norm without bias": lambda: CohereLayerNorm(WIDTH),
    "rms norm": lambda: LlamaRMSNorm(WIDTH),
    "rms norm with a gain of 1 + w": lambda: Gemma2RMSNorm(WIDTH),
}


class Unknown(nn.Module):
    """A norm of another kind, with the attributes of a known one."""

    def __init__(self):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(WIDTH)), 1e-5

    def forward(self, x):
        return self.weight * x / (x.abs().mean(-1, keepdim=True) + self.eps)


def perturbed(norm):
    torch.manual_seed(0)
    for parameter in norm.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return norm.double().requires_grad_(requires_grad=False)


@pytest.mark.parametrize("name", NORMS)
def test_a_known_norm_is_seen_as_its_formula(name):
    norm = perturbed(NORMS[name]())
    formula = formula_of(norm)
    assert formula is not None
    assert formula.centred == ("layer" in name)
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    with float64_throughout():
        expected = norm(x) - (norm.bias if getattr(norm, "bias", None) is not None else 0)
    torch.testing.assert_close(formula.normalised(x)[0] * formula.gain, expected, rtol=1e-10, atol=1e-10)


def test_an_unknown_norm_has_no_formula():
    assert formula_of(perturbed(Unknown())) is None


@pytest.mark.parametrize("kv", ["query_head", "kv_head"])
@pytest.mark.parametrize("norm", [*NORMS, "unknown", "none"])
def test_gradients_at_receivers_are_those_of_autograd(norm, kv):
    model = patchable(models.build("llama"), kv=kv)
    make = {"unknown": Unknown, "none": nn.Identity}.get(norm) or NORMS[norm]
    block = model.parts.blocks[0]
    object.__setattr__(block, "norm1", perturbed(make()))
    object.__setattr__(block, "norm2", perturbed(make()))
    graph: Graph = model.graph
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    d_head = block.projections.weights["q"].shape[1]
    ports = {port: random(2, block.n_heads, 3, d_head) for port in ("q", "k", "v")}
    layer = LayerGradients(random(2, 3, WIDTH), random(2, 3, WIDTH), ports, random(2, 3, WIDTH))
    out = torch.empty(graph.receivers_per_layer, 2, 3, WIDTH, dtype=torch.float64)
    with float64_throughout():
        add_receiver_gradients(out, block, graph, layer, slice(0, 2), fresh=True)
        once = out.clone()
        add_receiver_gradients(out, block, graph, layer, slice(0, 2), fresh=False)
        torch.testing.assert_close(out, 2 * once)
        x = layer.resid.clone().requires_grad_()
        for receiver in range(graph.receivers_per_layer - 1):
            port = graph.receivers[receiver].port
            heads = graph.heads_fed_by(receiver)
            weight = block.projections.weights[port][heads[0] // (1 if port == "q" else block.kv_group)]
            read = torch.einsum("btd,wd->btw", block.norm1(x), weight)
            value = sum((read * ports[port][:, head]).sum() for head in heads)
            torch.testing.assert_close(once[receiver], torch.autograd.grad(value, x)[0])
        x = layer.mid.clone().requires_grad_()
        value = (block.norm2(x) * layer.mlp_in).sum()
        torch.testing.assert_close(once[-1], torch.autograd.grad(value, x)[0])
