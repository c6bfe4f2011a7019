"""The dense network with parts of it detached, so that plain autograd takes them as constant. An oracle.

Changes the formulas of a family while it is open: nothing but what gradients see is different.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from torch import Tensor

from tests.oracles.dense import Dense
from tests.oracles.families import base
from tests.oracles.families.cohere import Cohere
from tests.oracles.families.gemma import Gemma2


@contextmanager
def frozen(
    dense: Dense, *, norm: bool = False, attention: bool = False, activation: bool = False, gate: str = "live"
) -> Iterator[None]:
    """While open, gradients through `dense` take denominators of norms, attention patterns, act(x) / x or act(gate) as
    constant; of a gate that is `half` the product passes half of its gradient."""
    family = dense.family
    gated = any("gate" in name for name in dense.weights)

    def scaled(x: Tensor, eps: float) -> Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt().detach()

    def centred(x: Tensor, eps: float) -> Tensor:
        return scaled(x - x.mean(-1, keepdim=True), eps)

    def layer_norm(x: Tensor, name: str, eps: float) -> Tensor:
        return centred(x, eps) * dense.weights[f"{name}.weight"] + dense.weights[f"{name}.bias"]

    epsilon = getattr(family.config, "rms_norm_eps", None)
    pattern, linear = family.pattern, family.linear

    def halved(x: Tensor, name: str, transposed: bool = False) -> Tensor:
        if name.endswith("down_proj"):
            x = x / 2 + (x / 2).detach()
        return linear(x, name, transposed)

    with pytest.MonkeyPatch.context() as patch:
        if norm:
            patch.setattr(family, "layer_norm", layer_norm)
            patch.setattr(family, "scaled_to_rms_one", scaled)
            if isinstance(family, Gemma2):
                patch.setattr(family, "norm", lambda x, name: scaled(x, epsilon) * family.gain(name))
            if isinstance(family, Cohere):
                patch.setattr(
                    family, "_normed", lambda x, gain: centred(x, family.config.layer_norm_eps) * gain
                )
        if attention:
            patch.setattr(family, "pattern", lambda *args: pattern(*args).detach())
        if gate == "half":
            patch.setattr(family, "linear", halved)
        for name, act in list(base.ACTIVATIONS.items()):
            if gate == "frozen" and gated:
                patch.setitem(base.ACTIVATIONS, name, lambda x, act=act: act(x).detach())
            elif activation:
                patch.setitem(base.ACTIVATIONS, name, lambda x, act=act: x * (act(x) / x).detach())
        yield
