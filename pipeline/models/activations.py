"""One kernel for an activation that transformers spells out in eight.

`gelu_new` is 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): torch's own tanh GELU, which needs neither the
passes over memory nor what autograd keeps of them. Equal to rounding; the self-check at load compares with
logits that the untouched model gave.
"""

from torch import nn

from pipeline.models.stock import NewGELUActivation


def fuse_activations(model: nn.Module) -> None:
    """Replaces the activation modules of `model` for which there is one kernel."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, nn.GELU(approximate="tanh"))
