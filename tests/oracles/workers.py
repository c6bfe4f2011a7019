"""A metric that is known for every set of edges, and workers that answer questions about it. Numpy alone.

What the search may rely on, and nothing more: an answer depends on its state and its question; whatever breaks the
protocol of `pipeline.core.questions` is an error here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.core.graph import Graph
from pipeline.core.questions import About, Clean, Forget, Measure, Question, Settle
from tests.oracles.reach import alive_receivers

# All values are multiples of this, so that sums, differences and means over 2^n prompts are exact.
UNIT = 2.0**-12


class World:
    """The metric per prompt of every set of removed edges: each alone, and each pair of them, adds something.

    Edges into receivers without a path to the logits add nothing.
    """

    def __init__(self, graph: Graph, coupled: tuple[bool, ...], seed: int, n_prompts: int = 4) -> None:
        rng = np.random.default_rng(seed)
        n = graph.n_edges
        self.graph, self.coupled, self.n_prompts = graph, coupled, n_prompts
        self.base = rng.integers(-50, 50, n_prompts)
        self.single = rng.integers(-6, 14, (n_prompts, n)) * (rng.random(n) < 0.7)
        self.pair = rng.integers(-40, 40, (n, n)) * (rng.random((n, n)) < 3 / n)
        self._known: dict[bytes, np.ndarray] = {}
        self.sign = rng.integers(-1, 3, n_prompts)

    def values(self, kept: np.ndarray) -> np.ndarray:
        """The metric, [prompt]."""
        key = kept.tobytes()
        if key not in self._known:
            self._known[key] = self._values(kept)
        return self._known[key]

    def _values(self, kept: np.ndarray) -> np.ndarray:
        alive = alive_receivers(self.graph, self.coupled, kept)
        edges = np.flatnonzero(~kept & alive[self.graph.edge_receivers])
        pairs = int(self.pair[np.ix_(edges, edges)].sum())
        return (self.base + self.single[:, edges].sum(1) + self.sign * pairs) * UNIT


@dataclass
class _State:
    kept: np.ndarray
    settled: frozenset[int] = frozenset()
    asked: set[int] = field(default_factory=set)


class ProtocolError(Exception):
    """A question that nobody may ask."""


class OracleWorkers:
    """Answers from a `World`. `noise` is what a measure of several variants at once is wrong by, at most."""

    def __init__(self, world: World, *, eager: bool = False, noise: float = 0.0) -> None:
        self.world, self.graph = world, world.graph
        self.n_prompts, self.coupled = world.n_prompts, world.coupled
        self.about = [About(world.coupled, eager)]
        self.noise, self._rng = noise, np.random.default_rng(0)
        self.states = {0: _State(np.ones(world.graph.n_edges, dtype=bool))}
        self.used = {0}
        self.measures: list[Measure] = []
        self.most_states = 1

    def ask(self, questions: Sequence[Question]) -> list[np.ndarray]:
        return [getattr(self, f"_{type(question).__name__.lower()}")(question) for question in questions]

    # --- the questions -----------------------------------------------------------------------------------

    def _clean(self, question: Clean) -> np.ndarray:
        del question
        return self.world.values(self.states[0].kept)[None]

    def _measure(self, question: Measure) -> np.ndarray:
        state = self._state(question.state, question.receiver)
        self.measures.append(question)
        state.asked.add(question.receiver)
        _need(len(state.asked) == 1, "a state is asked about one receiver")
        _need(question.spared <= set(question.candidates), "only candidates are spared")
        self._senders(question.receiver, (*question.removed, *question.candidates))
        gone, variants = list(question.removed), []
        if not question.candidates:
            variants.append(self.world.values(self._without(state, question.receiver, gone)))
        for sender in question.candidates:
            variants.append(self.world.values(self._without(state, question.receiver, [*gone, sender])))
            if sender not in question.spared:
                gone.append(sender)
        out = np.stack(variants)
        if len(variants) > 1 and self.noise:
            out = out + self._rng.uniform(-self.noise, self.noise, out.shape)
        return out

    def _settle(self, question: Settle) -> np.ndarray:
        state = self._state(question.state, question.receiver)
        _need(question.into not in self.used, "a number stands for one state")
        _need(state.asked <= {question.receiver}, "what was asked about is settled")
        self._senders(question.receiver, (*question.removed, *question.kept))
        decided = len(question.removed) + len(question.kept)
        _need(decided == self.graph.senders_read[question.receiver], "all senders are decided")
        kept = self._without(state, question.receiver, question.removed)
        self.states[question.into] = _State(kept, state.settled | {question.receiver})
        self.used.add(question.into)
        return np.empty((0, self.n_prompts))

    def _forget(self, question: Forget) -> np.ndarray:
        for state in question.states:
            _need(state in self.states, f"state {state} is there")
            del self.states[state]
        self.most_states = max(self.most_states, len(self.states))
        return np.empty((0, self.n_prompts))

    # --- what may be asked -------------------------------------------------------------------------------

    def _state(self, number: int, receiver: int) -> _State:
        _need(number in self.states, f"state {number} is there")
        state = self.states[number]
        _need(receiver not in state.settled, f"receiver {receiver} is open")
        depth = min(map(self._depth, state.settled), default=np.inf)
        _need(self._depth(receiver) <= depth, "the network is walked from its end")
        alive = alive_receivers(self.graph, self.coupled, state.kept)
        _need(bool(alive[receiver]), f"receiver {receiver} is read by somebody")
        return state

    def _depth(self, receiver: int) -> float:
        node = self.graph.receivers[receiver]
        return float(self.graph.n_layers) if node.layer is None else node.layer + 0.5 * (node.kind == "mlp")

    def _senders(self, receiver: int, senders: Sequence[int]) -> None:
        _need(len(set(senders)) == len(senders), "a sender is named once")
        _need(
            set(senders) <= set(range(int(self.graph.senders_read[receiver]))), "a receiver reads its senders"
        )

    def _without(self, state: _State, receiver: int, senders: Sequence[int]) -> np.ndarray:
        kept = state.kept.copy()
        kept[int(self.graph.first_edge[receiver]) + np.asarray(senders, dtype=np.int64)] = False
        return kept


def _need(held: bool, what: str) -> None:
    if not held:
        raise ProtocolError(f"not so: {what}")
