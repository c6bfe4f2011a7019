"""A norm module seen as its formula, so that many gradients go through it in one pass over memory.

    y = gain * xh (+ bias),  xh = (x - mean) * rstd,  where only some norms subtract the mean

Which formula a module follows is found by trying it on random inputs: a norm that follows none is left to
autograd. Does not know where norms are in a model.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.models.dense import device_of

# How far a formula may be from its module; 16-bit modules round what they return.
_TOLERANCE = {torch.bfloat16: 2e-2, torch.float16: 2e-3}


@dataclass(frozen=True)
class NormFormula:
    """Gain, epsilon, and whether the mean is subtracted."""

    gain: Float[Tensor, " d_model"]
    eps: float
    centred: bool

    def normalised(
        self, x: Float[Tensor, "*lead d_model"]
    ) -> tuple[Float[Tensor, "*lead d_model"], Float[Tensor, "*lead"]]:
        """xh and the reciprocal standard deviation, in float32 or wider."""
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        rstd = torch.rsqrt(x.square().mean(-1) + self.eps)
        return x * rstd[..., None], rstd

    def folded(self, weight: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead d_model"]:
        """Weights that read y, as they read xh: with the gain, and blind to the mean where that is subtracted."""
        weight = weight * self.gain
        return weight - weight.mean(-1, keepdim=True) if self.centred else weight


@torch.no_grad()
def formula_of(norm: nn.Module) -> NormFormula | None:
    """The formula of a norm over the last axis, or None when it has none of the known ones."""
    weight, bias = getattr(norm, "weight", None), getattr(norm, "bias", None)
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if weight is None or eps is None or weight.ndim != 1 or weight.is_meta:
        return None
    device, wide = device_of(norm), torch.promote_types(weight.dtype, torch.float32)
    x = torch.randn(4, len(weight), generator=torch.Generator().manual_seed(0)) * 3 + 1
    x = x.to(device, weight.dtype)
    expected = norm(x).to(wide)
    scale = expected.abs().max()
    for centred in (True, False):
        for offset in (0.0, 1.0):
            formula = NormFormula(weight.to(wide) + offset, float(eps), centred)
            found = formula.normalised(x)[0] * formula.gain
            if bias is not None:
                found = found + bias
            if (found - expected).abs().max() <= _TOLERANCE.get(weight.dtype, 1e-5) * scale:
                return formula
    return None
