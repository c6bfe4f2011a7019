"""The prompts of one process while a circuit is searched: answers questions about them, and remembers states.

Knows batches, states and memory. Does not know thresholds, decisions or other processes
(`pipeline.methods.search` asks; `pipeline.core.questions` says what).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.graph import Graph
from pipeline.core.liveness import Liveness
from pipeline.core.questions import About, Bound, Clean, Forget, Measure, Question, Settle, Value
from pipeline.engine.bounds import DivergenceSteps, Tail, Vocabulary
from pipeline.engine.host import to_host
from pipeline.engine.incremental import Incremental
from pipeline.engine.propagation import joined, propagate
from pipeline.engine.recorded import Recorded

Answer = Float[np.ndarray, "*_two _variant prompt"]

# Bytes of one receiver's variants that are propagated at once: those of a few receivers still are of a size of which
# memory stays at hand (`pipeline.models.freed`).
_VARIANT_BYTES = 2**23
# Numbers in one row of a variant of a whole batch below which overhead, not arithmetic, is what a variant costs.
_EAGER_BELOW = 4096
# Inputs remembered per batch and state, so that a removal is added once and not again for every question.
_REMEMBERED = 16


@dataclass
class _State:
    """One batch in one state, and what questions about it left behind."""

    incremental: Incremental
    inputs: dict[tuple[int, ...], Float[Tensor, "prompt row d_model"]] = field(default_factory=dict)
    asked: tuple[Measure, Float[Tensor, "variant prompt row d_model"]] | None = None  # last, and its variants
    tail: Tail | None = None  # of the vocabulary in this state, once it was asked about


class Part:
    """Answers questions about the prompts of some batches, in the order of the batches and of their prompts.

    Batches whose recorded runs do not fit into `memory` bytes let go of them after every question and record them
    again at the next: more time, less memory, the same numbers.
    """

    def __init__(
        self, batches: Sequence[Recorded], coupled: tuple[bool, ...], memory: int | None = None
    ) -> None:
        self.batches = list(batches)
        self.graph: Graph = batches[0].graph
        self.coupled = coupled
        self.held, used = 0, 0  # batches whose recorded runs stay, counted from the first
        self._liveness = {0: Liveness(self.graph, coupled)}
        self._steps: dict[int, DivergenceSteps] = {}
        self._states: list[dict[int, _State]] = []
        self._clean: list[Float[np.ndarray, " prompt"]] = []
        for index, recorded in enumerate(self.batches):
            state = Incremental(recorded, self._liveness[0])
            self._states.append({0: _State(state)})
            self._clean.append(to_host(recorded.objective(state.final_hidden())))
            used += recorded.n_bytes()
            self.held += self.held == index and (memory is None or used <= memory)
            self._rest(index)

    def _rest(self, index: int) -> None:
        if index >= self.held:
            self.batches[index].drop()
            self._steps.pop(index, None)

    @property
    def prompt_ids(self) -> list[int]:
        """The prompts in the order of answers."""
        return [prompt_id for recorded in self.batches for prompt_id in recorded.batch.prompt_ids]

    @property
    def about(self) -> About:
        """What the search must know of the model."""
        return About(self.coupled, self.eager)

    @property
    def eager(self) -> bool:
        """Whether variants are so small that more of them cost next to nothing."""
        recorded = self.batches[0]
        width = recorded.parts.unembedding.shape[1]
        return max(batch.n_prompts for batch in self.batches) * width < _EAGER_BELOW

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer per question: float64 [variant, prompt], or two such of `Bound`; of `Settle` and `Forget` no
        variants.

        Measures come last: they may ask about states that were settled right before them.
        """
        for question in questions:
            if isinstance(question, Settle):
                liveness = self._liveness[question.state].keeping(question.receiver, question.kept)
                self._liveness[question.into] = liveness
        columns = [self._ask(index, questions) for index in range(len(self.batches))]
        for question in questions:
            if isinstance(question, Forget):
                for state in question.states:
                    self._liveness.pop(state, None)
        return [np.concatenate(rows, axis=-1) for rows in zip(*columns, strict=True)]

    @torch.no_grad()
    def _ask(self, index: int, questions: Sequence[Question]) -> list[Answer]:
        """The answers for the prompts of one batch."""
        answers, nothing = [], np.empty((0, self.batches[index].n_prompts))
        measures = [question for question in questions if isinstance(question, Measure)]
        for question in questions:
            if isinstance(question, Settle):
                self._settle(index, question)
            elif isinstance(question, Forget):
                self._forget(index, question)
        measured = iter(self._measure(index, measures))
        for question in questions:
            if isinstance(question, Measure):
                answers.append(next(measured))
            elif isinstance(question, Bound):
                answers.append(self._bound(index, question))
            elif isinstance(question, Value):
                here = self._states[index][question.state].incremental.final_hidden()
                answers.append(to_host(self.batches[index].objective(here[None])))
            else:
                answers.append(self._clean[index][None] if isinstance(question, Clean) else nothing)
        self._rest(index)
        return answers

    # --- the questions -------------------------------------------------------------------------------

    def _measure(
        self, index: int, questions: Sequence[Measure]
    ) -> list[Float[np.ndarray, "_variant prompt"]]:
        starts = []
        for question in questions:
            state = self._states[index][question.state]
            _, inputs = self._inputs(state, question)
            state.incremental = state.incremental.at(question.receiver)
            starts.append((state.incremental, question.receiver, inputs))
        objective = self.batches[index].objective
        finals = self._propagate(starts)
        if not finals:
            return []
        values = to_host(objective(joined(finals)))  # one product with the vocabulary for all of them
        ends = list(accumulate(len(hidden) for hidden in finals))
        return [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _bound(self, index: int, question: Bound) -> Float[np.ndarray, "two variant prompt"]:
        chain, recorded = question.chain, self.batches[index]
        state = self._states[index][chain.state]
        x, inputs = self._inputs(state, chain)
        start = state.incremental.caught_up  # its final hidden states are asked for
        if chain.removed:  # what the chain starts from is no state that is there
            inputs = torch.cat([x[None], inputs])
        [hidden] = self._propagate([(start, chain.receiver, inputs)])
        if not chain.removed:
            hidden = torch.cat([start.final_hidden()[None].to(hidden.device), hidden])
        ends, here = [], 0
        for variant, sender in enumerate(chain.candidates, start=1):
            ends.append((here, variant))
            here = here if sender in chain.spared else variant
        if index not in self._steps:
            self._steps[index] = DivergenceSteps(recorded.objective, self._vocabulary)
        if state.tail is None:
            state.tail = self._steps[index].tail(start.final_hidden())
        steps = self._steps[index].bounded(hidden, ends, question.thresholds, question.guard, state.tail)
        return to_host(torch.stack([steps.middle, steps.error]))

    @cached_property
    def _vocabulary(self) -> Vocabulary | None:
        return Vocabulary.of(self.batches[0].objective.unembedding)

    def _propagate(
        self, starts: Sequence[tuple[Incremental, int, Float[Tensor, "_variant prompt _row d_model"]]]
    ) -> list[Float[Tensor, "_variant prompt *read d_model"]]:
        """Final hidden states of all variants; as many at once as `_VARIANT_BYTES` allow."""
        if not starts:
            return []
        total = sum(inputs.numel() * inputs.element_size() for _, _, inputs in starts)
        if total <= _VARIANT_BYTES:
            trials = propagate(starts)
            return [
                _hidden(start[0], trial.hidden, len(start[2]))
                for start, trial in zip(starts, trials, strict=True)
            ]
        out = []
        for state, receiver, inputs in starts:
            at_once = max(1, _VARIANT_BYTES // (inputs[0].numel() * inputs.element_size()))
            parts = [propagate([(state, receiver, part)])[0] for part in inputs.split(at_once)]
            out.append(torch.cat([_hidden(state, part.hidden, part.n_variants) for part in parts]))
        return out

    def _inputs(
        self, state: _State, chain: Measure
    ) -> tuple[Float[Tensor, "prompt row d_model"], Float[Tensor, "variant prompt row d_model"]]:
        """The receiver's input at the beginning of a chain, and in its variants."""
        x = self._input(state, chain.receiver, chain.removed)
        if not chain.candidates:
            return x, x[None]
        inputs = state.incremental.removal.without(
            chain.receiver, x, chain.candidates, chain.spared, chain.removed
        )
        state.asked = chain, inputs
        return x, inputs

    def _input(
        self, state: _State, receiver: int, removed: tuple[int, ...]
    ) -> Float[Tensor, "prompt row d_model"]:
        """The receiver's input with `removed` gone, from the longest beginning of it that is remembered."""
        known = max((key for key in state.inputs if removed[: len(key)] == key), key=len, default=None)
        x = state.incremental.removal.clean_rows(receiver) if known is None else state.inputs[known]
        more = removed[len(known or ()) :]
        if more:
            seen = None if state.asked is None else _variant_without(state.asked[0], receiver, removed)
            if state.asked is not None and seen is not None:
                x = state.asked[1][seen].clone()
            else:
                x = state.incremental.removal.without(receiver, x, more, removed=known or ())[-1].clone()
            while len(state.inputs) >= _REMEMBERED:
                state.inputs.pop(next(iter(state.inputs)))
            state.inputs[removed] = x
        return x

    def _settle(self, index: int, question: Settle) -> None:
        before = self._states[index][question.state]
        x = self._input(before, question.receiver, question.removed)
        after = before.incremental.settle(question.receiver, x, self._liveness[question.into])
        self._states[index][question.into] = _State(after)

    def _forget(self, index: int, question: Forget) -> None:
        for forgotten in question.states:
            self._states[index].pop(forgotten, None)
        for state in self._states[index].values():
            state.inputs.clear()
            state.asked = None


def _variant_without(chain: Measure, receiver: int, removed: tuple[int, ...]) -> int | None:
    """The variant of a chain in which these senders are removed, in this order, and no others."""
    gone = chain.removed
    if receiver != chain.receiver or removed[: len(gone)] != gone:
        return None
    for variant, sender in enumerate(chain.candidates):
        if (*gone, sender) == removed:
            return variant
        if sender not in chain.spared:
            gone = (*gone, sender)
    return None


def _hidden(
    state: Incremental, hidden: Tensor | None, n_variants: int
) -> Float[Tensor, "variant prompt *read d_model"]:
    """Final hidden states of a trial; those of the state where nothing arrived."""
    here = state.final_hidden()[None] if hidden is None else hidden
    return here.expand(n_variants, *here.shape[1:])
