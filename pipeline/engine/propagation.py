"""Trials on their way through the layers, of one or more states of the same batch.

Knows in which order nodes are computed, and what of it is computed for all trials at once. Does not know what a state
remembers, nor what a change adds to whose input (`pipeline.engine.incremental`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.engine.executor import Executor
from pipeline.engine.trial import Trial

if TYPE_CHECKING:
    from pipeline.engine.incremental import Incremental


@torch.no_grad()
def propagate(
    starts: "Sequence[tuple[Incremental, int, Float[Tensor, '_variant prompt _row d_model']]]",
    *,
    keep: bool = False,
) -> list[Trial]:
    """Runs variants of one receiver's input, of one or more states of the same batch, through all alive nodes.

    What states have in common, MLPs and the final norm, is computed for all of them at once. Without `keep` a
    trial lets go of what it has passed.
    """
    trials = [state.begin(receiver, inputs) for state, receiver, inputs in starts]
    states = [state for state, _, _ in starts]
    graph = states[0].graph
    layers = [graph.receivers[trial.receiver].layer for trial in trials]
    run(states, trials, min(graph.n_layers if layer is None else layer for layer in layers), keep=keep)
    return trials


@torch.no_grad()
def run(states: "Sequence[Incremental]", trials: Sequence[Trial], first: int, *, keep: bool) -> None:
    """Takes trials, each of its state, from a layer to the end."""
    graph, executor = states[0].graph, states[0].executor
    for layer in range(first, graph.n_layers):
        for state, trial in zip(states, trials, strict=True):
            state.run_heads(layer, trial)
        mlp = graph.mlp_receiver(layer)
        ready = [(state, trial) for state, trial in zip(states, trials, strict=True) if mlp in trial.inputs]
        for state, trial in ready:
            state.arrive(mlp, trial)
        outputs = _mlp_of_all(executor, layer, [trial.inputs[mlp] for _, trial in ready])
        for (state, trial), out in zip(ready, outputs, strict=True):
            state.spread(graph.mlp_sender(layer), out, trial)
        if not keep:
            for trial in trials:
                trial.let_go(mlp)
    for state, trial in zip(states, trials, strict=True):
        if graph.logits_receiver in trial.inputs:
            state.arrive(graph.logits_receiver, trial)
    arrived = [trial for trial in trials if graph.logits_receiver in trial.inputs]
    if arrived:
        finals = [trial.inputs[graph.logits_receiver] for trial in arrived]
        hidden = executor.read_out(joined(finals)).squeeze(-2)
        for trial, part in zip(arrived, hidden.split([len(x) for x in finals]), strict=True):
            trial.hidden = part


def joined(xs: Sequence[Tensor]) -> Tensor:
    """`torch.cat`; of one, without a copy."""
    return xs[0] if len(xs) == 1 else torch.cat(list(xs))


def _mlp_of_all(
    executor: Executor, layer: int, inputs: Sequence[Float[Tensor, "_variant prompt _row d_model"]]
) -> list[Float[Tensor, "_variant prompt _row d_model"]]:
    """The MLP's output for each of these inputs, from one call for all that have as many rows."""
    if len(inputs) <= 1:
        return [executor.mlp(layer, x) for x in inputs]
    outputs: dict[int, Tensor] = {}
    for rows in {x.shape[-2] for x in inputs}:
        alike = [index for index, x in enumerate(inputs) if x.shape[-2] == rows]
        out = executor.mlp(layer, torch.cat([inputs[index] for index in alike]))
        parts = out.split([len(inputs[index]) for index in alike])
        outputs.update(zip(alike, parts, strict=True))
    return [outputs[index] for index in range(len(inputs))]
