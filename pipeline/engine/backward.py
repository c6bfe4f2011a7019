"""What a gradient is blind to: parts of the network whose backward pass takes something as constant.

The forward pass stays what it is, to the last bit. RelP (arXiv 2508.21258) is `norm`, `activation` frozen and `gate`
half; GIM (arXiv 2505.17630) freezes norms. Knows hooks on norms and MLPs; attention is told by whoever records it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.core.errors import ModelError
from pipeline.engine.norms import NormFormula, formula_of
from pipeline.models.adapters import Block, Parts

Rule = Literal["live", "frozen"]
_ACTIVATIONS = ("act", "act_fn", "activation_fn")
_GATES = ("gate_proj", "gate_up_proj")


@dataclass(frozen=True)
class BackwardRules:
    """How gradients pass; all live is the true gradient.

    - `norm` frozen: the denominator of every norm is constant, its mean is not (norms of q and k included)
    - `attention` frozen: patterns are constant, gradients reach values alone
    - `activation` frozen: act(x) is x times the constant act(x) / x
    - `gate`, of MLPs that multiply act(gate) with another projection: frozen, act(gate) is constant; half, the product
      passes half of its gradient to both
    """

    norm: Rule = "live"
    attention: Rule = "live"
    gate: Literal["live", "frozen", "half"] = "live"
    activation: Rule = "live"

    @contextmanager
    def applied(self, parts: Parts) -> Iterator[None]:
        """While open, gradients through norms and MLPs of the model's modules follow these rules. ModelError for a rule
        that the model has no place for."""
        handles: list[Any] = []
        try:
            if self.norm == "frozen":
                handles += [
                    norm.register_forward_hook(_with_denominator(formula)) for norm, formula in _norms(parts)
                ]
            for block in parts.blocks:
                handles += self._in_mlp(block)
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _in_mlp(self, block: Block) -> Iterator[Any]:
        gated = [module for module in block.module.modules() if any(hasattr(module, name) for name in _GATES)]
        if self.gate == "half":
            for owner in gated:
                if not isinstance(down := getattr(owner, "down_proj", None), nn.Module):
                    raise ModelError(
                        "gate: half has no place in a mixture of experts; leave it live or frozen"
                    )
                yield down.register_forward_pre_hook(_half)
        if self.activation == "live" and self.gate != "frozen":
            return
        for owner in block.module.modules():
            for name, child in owner.named_children():
                if name not in _ACTIVATIONS:
                    continue
                if self.gate == "frozen" and owner in gated:
                    yield child.register_forward_hook(_constant)
                elif self.activation == "frozen":
                    yield child.register_forward_hook(_linear_in_its_input)


LIVE = BackwardRules()


def _norms(parts: Parts) -> list[tuple[nn.Module, NormFormula]]:
    """Every norm of the model with its formula; one that two readers share is there once."""
    found: dict[int, nn.Module] = {id(parts.final_norm): parts.final_norm}
    for block in parts.blocks:
        for norm in (block.norm1, block.norm2, block.post_attn, block.post_mlp, block.q_norm, block.k_norm):
            if norm is not None and not isinstance(norm, nn.Identity):
                found[id(norm)] = norm
    norms = [(norm, formula_of(norm)) for norm in found.values()]
    if parts.blocks[0].joint_qk or any(formula is None for _, formula in norms):
        raise ModelError(
            "norm: frozen needs norms over one head or the whole stream, and this model has others"
        )
    return [(norm, formula) for norm, formula in norms if formula is not None]


def _with_denominator(formula: NormFormula) -> Callable[..., Tensor]:
    """A hook that gives what the norm gives, whose gradient takes the denominator as constant."""

    def hook(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        x: Tensor = args[0]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        rstd = formula.normalised(wide)[1].detach()[..., None]
        if formula.centred:
            wide = wide - wide.mean(-1, keepdim=True)
        passing = (wide * rstd * formula.gain.to(x.device)).to(output.dtype)
        return output.detach() + (passing - passing.detach())

    return hook


def _constant(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Tensor:
    return output.detach()


def _linear_in_its_input(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    x: Tensor = args[0]
    there = x.detach()
    slope = torch.where(there == 0, 0.0, output.detach() / torch.where(there == 0, 1.0, there))
    passing = x * slope
    return output.detach() + (passing - passing.detach())


def _half(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    x: Tensor = args[0]
    passing = 0.5 * x
    return (x.detach() + (passing - passing.detach()), *args[1:])
