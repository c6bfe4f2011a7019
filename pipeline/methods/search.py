"""The greedy search of ACDC over any number of thresholds at once: what is asked, and what is decided.

Knows receivers, candidates and decisions. Does not know tensors, processes or files: workers answer questions about
the prompts, whoever holds them (`pipeline.methods.collective`).

Thresholds that have decided alike share a state and every evaluation. Within a receiver they part where a delta
lies between them (`Branch`), and go on from states of their own. Guesses make the search fast and decide nothing:
a chain of candidates is measured under guessed decisions, and decided in order for as long as the guesses were
right; the rest is asked again, and what it did in the slightly different state is the next guess. A delta too close
to a threshold for its rounding is taken from evaluations of one variant each, whose rounding no batching changes, and
so is one whose bounds a threshold lies between. The first guesses at a head are what the same senders did at the one
before it: heads of a layer read much the same of them. Those at an MLP are what they did at the one after it, as far as
that was clear.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from pipeline.core.errors import ScoreError
from pipeline.core.graph import Graph
from pipeline.core.liveness import Liveness
from pipeline.core.questions import Bound, Clean, Decided, Forget, Measure, Question, Settle, Step, Value
from pipeline.methods.branches import Branch, Rule, Told
from pipeline.methods.collective import Workers
from pipeline.methods.visits import LATE_FIRST, Visits

# Candidates of which nothing is known that are guessed to go at first: of more in a round each costs less, but more are
# measured in vain after the first that stays.
_AT_FIRST = 8
# What a sender did further on says what it does here where it was below or above these multiples of the threshold.
_CLEARLY = (0.3, 1.0)


@dataclass
class Found:
    """The result for one threshold."""

    kept: Bool[np.ndarray, " edge"]
    delta: Float[np.ndarray, " edge"]
    std: Float[np.ndarray, " edge"]
    final: Float[np.ndarray, " prompt"]
    tests: int = 0
    dead: int = 0
    guarded: int = 0
    error: Float[np.ndarray, " edge"] | None = None  # of delta, 0 where it is exact; None: exact everywhere


class Search:
    """One search over all prompts of the workers. `run` yields a record per receiver that anybody still reads.

    `bounded`: a delta may be as little known as its decision allows; the metric must be a divergence.
    """

    def __init__(
        self,
        graph: Graph,
        workers: Workers,
        thresholds: Sequence[float],
        rule: Rule,
        *,
        visits: Visits = LATE_FIRST,
        width: int = 32,
        bounded: bool = False,
    ) -> None:
        self._graph, self._workers, self._rule, self._bounded = graph, workers, rule, bounded
        self._visits, self._width = visits, width
        self._least = width if all(one.eager for one in workers.about) else min(_AT_FIRST, width)
        clean = workers.ask([Clean()])[0][0]
        every = tuple(sorted(set(thresholds)))
        self._states = {0: (Liveness(graph, workers.about[0].coupled), every, clean)}
        self._next_state = 1
        # by state, the layer whose heads were decided last, and what their senders' edges did; and the last MLP's
        self._beside: dict[int, tuple[int | None, dict[int, float]]] = {}
        self._further_on: dict[int, dict[int, float]] = {}
        self.found = {t: _nothing(graph, clean, bounded=bounded) for t in every}
        self.evaluations = self.rounds = 0

    def run(self, past: Mapping[int, Step] | None = None) -> Iterator[tuple[Step, bool]]:
        """(record, whether it is new) of each receiver in turn; `past` are records of an earlier run, which are
        taken over without a test for as long as none is missing, nor goes on from somewhere else."""
        past = dict(past or {})
        for receiver in self._visits.receivers(self._graph):
            reading = [state for state, (liveness, _, _) in self._states.items() if liveness.alive(receiver)]
            for state in self._states.keys() - set(reading):
                for threshold in self._states[state][1]:
                    self.found[threshold].dead += int(self._graph.senders_read[receiver])
            if not reading:
                continue
            step = past.get(receiver)
            new = step is None or not self._goes_on(step, receiver, reading)
            if step is None or new:
                past.clear()
                step = self._decide(receiver, reading)
            else:
                self.evaluations += step.evaluations
                self.rounds += step.rounds
            self._settle(step)
            yield step, new
        if self._bounded:  # until here the metric was summed up from bounds
            states = sorted(self._states)
            values = self._workers.ask([Value(state) for state in states])
            for state, (value,) in zip(states, values, strict=True):
                for threshold in self._states[state][1]:
                    self.found[threshold].final = value

    def _goes_on(self, step: Step, receiver: int, states: Sequence[int]) -> bool:
        """Whether a record is of this receiver, these states, all senders and prompts, in finite numbers."""
        senders, n_prompts = self._visits.senders(self._graph, receiver), self._workers.n_prompts
        thresholds: dict[int, list[float]] = {state: [] for state in states}
        for one in step.decided:
            table = (one.kept, one.delta, one.std, *([one.error] if self._bounded else []))
            fits = one.receiver == receiver and one.state in thresholds and list(one.senders) == senders
            if not fits or any(len(row) != len(senders) for row in table) or len(one.values) != n_prompts:
                return False
            if not np.isfinite([*one.delta, *one.std, *one.values, *one.error]).all():
                return False
            thresholds[one.state] += one.thresholds
        new = {one.into for one in step.decided}
        return (
            step.receiver == receiver
            and len(new) == len(step.decided)
            and min(new, default=-1) >= self._next_state
            and all(sorted(found) == sorted(self._states[state][1]) for state, found in thresholds.items())
        )

    # --- one receiver -------------------------------------------------------------------------------------

    def _decide(self, receiver: int, states: Sequence[int]) -> Step:
        evaluations, rounds = self.evaluations, self.rounds
        senders = self._visits.senders(self._graph, receiver)
        open_ = [Branch(s, self._states[s][1], list(senders), self._states[s][2]) for s in states]
        for branch in open_:
            branch.reach, branch.hints = self._least, self._hints(branch.state, receiver)
        done: list[Branch] = []
        while open_:
            asked = [branch.chain(receiver, self._width, self._rule) for branch in open_]
            answers = self._ask([self._wanted(*pair) for pair in zip(open_, asked, strict=True)])
            after: list[Branch] = []
            for branch, question, values in zip(open_, asked, answers, strict=True):
                after += self._walk(branch, question, values)
            done += [branch for branch in after if not branch.rest]
            open_ = [branch for branch in after if branch.rest]
        decided = []
        for branch in sorted(done, key=lambda branch: branch.thresholds):
            steps = np.stack(branch.steps)
            decided.append(
                Decided(
                    receiver,
                    branch.state,
                    self._next_state,
                    branch.thresholds,
                    tuple(branch.senders),
                    tuple(branch.kept),
                    tuple(steps.mean(axis=1).tolist()),
                    tuple(steps.std(axis=1).tolist()),
                    tuple(branch.before.tolist()),
                    branch.guarded,
                    tuple(branch.errors) if self._bounded else (),
                )
            )
            self._next_state += 1
        return Step(receiver, tuple(decided), self.evaluations - evaluations, self.rounds - rounds)

    def _hints(self, state: int, receiver: int) -> dict[int, float]:
        """What the same senders did where they were last removed from what another head of this layer reads; or the MLP
        after this one, or the logits, where that was clear."""
        node = self._graph.receivers[receiver]
        if node.kind == "head":
            layer, deltas = self._beside.get(state, (None, {}))
            return dict(deltas) if node.layer == layer else {}
        thresholds = self._states[state][1]
        low, high = (abs(thresholds[len(thresholds) // 2]) * multiple for multiple in _CLEARLY)
        deltas = self._further_on.get(state, {})
        return {sender: delta for sender, delta in deltas.items() if not low < abs(delta) < high}

    def _wanted(self, branch: Branch, chain: Measure) -> Measure | Bound:
        """What must be known of a chain."""
        if not self._bounded:
            return chain
        return Bound(chain, branch.thresholds, self._rule.band(float(branch.before.mean())))

    def _ask(self, questions: Sequence[Measure | Bound]) -> list[Float[np.ndarray, "*_two _variant prompt"]]:
        self.rounds += 1
        self.evaluations += sum(question.n_variants for question in questions)
        return self._workers.ask(questions)

    def _walk(
        self, branch: Branch, question: Measure, answer: Float[np.ndarray, "*two variant prompt"]
    ) -> list[Branch]:
        """The branch with the chain decided as far as it was guessed right; parted where thresholds disagree."""
        read = Told.bounded if self._bounded else Told.measured
        told = read(branch.before, question, answer, self._rule.sign)
        deltas, metrics = told.steps.mean(axis=1).tolist(), told.befores.mean(axis=1).tolist()
        out, values = [], told.values
        for index, sender in enumerate(question.candidates):
            step, delta, metric, error = told.steps[index], deltas[index], metrics[index], told.errors[index]
            alone = not np.isfinite(delta)  # of its own, or of another candidate of the chain
            alone = alone or any(self._rule.uncertain(delta, t, metric, error) for t in branch.thresholds)
            guarded = alone and error == 0.0
            if alone:
                step, error = self._alone(question.receiver, branch, sender), 0.0
                delta = float(step.mean())
                if not np.isfinite(delta):
                    edge = int(self._graph.first_edge[question.receiver]) + sender
                    raise ScoreError(f"acdc: the metric is not finite at {self._graph.edge_name(edge)}")
            removing = [t for t in branch.thresholds if self._rule.removes(delta, t)]
            keeping = [t for t in branch.thresholds if not self._rule.removes(delta, t)]
            right, wrong = (keeping, removing) if sender in question.spared else (removing, keeping)
            if wrong:  # the rest of the chain was measured in another state; it still is a good hint
                other = branch.forked(wrong)
                other.take(sender, values[index], step, kept=wrong is keeping, guarded=guarded, error=error)
                other.hints |= zip(question.candidates[index + 1 :], deltas[index + 1 :], strict=True)
                other.reach = max(self._least, min(branch.reach, index + 1))
                out.append(other)
            if not right:
                return out
            if wrong:
                branch = branch.forked(right)
            branch.take(sender, values[index], step, kept=right is keeping, guarded=guarded, error=error)
        branch.reach = min(self._width, 2 * branch.reach)
        return [*out, branch]

    def _alone(self, receiver: int, branch: Branch, sender: int) -> Float[np.ndarray, " prompt"]:
        """The step of one removal from evaluations of a single variant each."""
        removed = branch.removed
        questions = [Measure(branch.state, receiver, removed, chain) for chain in ((sender,), ())]
        after, before = self._ask(questions)
        return (after[0] - before[0]) * self._rule.sign

    # --- its consequences ---------------------------------------------------------------------------------

    def _settle(self, step: Step) -> None:
        """Makes the decisions of a receiver the new states, and adds them to the results."""
        questions: list[Question] = [
            Settle(d.state, d.into, d.receiver, d.removed, d.remaining) for d in step.decided
        ]
        old = tuple(sorted({d.state for d in step.decided}))
        self._workers.ask([*questions, Forget(old)])
        first = int(self._graph.first_edge[step.receiver])
        for decided in step.decided:
            values = np.asarray(decided.values, dtype=np.float64)
            liveness = self._states[decided.state][0].keeping(step.receiver, decided.remaining)
            self._states[decided.into] = (liveness, decided.thresholds, values)
            node = self._graph.receivers[step.receiver]
            deltas = dict(zip(decided.senders, decided.delta, strict=True))
            if node.kind == "head":
                beside = self._hints(decided.state, step.receiver) | deltas
                self._beside[decided.into] = (node.layer, beside)
                deltas = self._further_on.get(decided.state, {})
            self._further_on[decided.into] = deltas
            edges = first + np.asarray(decided.senders, dtype=np.int64)
            for threshold in decided.thresholds:
                found = self.found[threshold]
                found.kept[edges] = decided.kept
                found.delta[edges] = decided.delta
                found.std[edges] = decided.std
                if found.error is not None:
                    found.error[edges] = decided.error
                found.final = values
                found.tests += len(edges)
                found.guarded += decided.guarded
            self._next_state = max(self._next_state, decided.into + 1)
        for state in old:
            del self._states[state]
            self._beside.pop(state, None)
            self._further_on.pop(state, None)


def _nothing(graph: Graph, clean: Float[np.ndarray, " prompt"], *, bounded: bool) -> Found:
    n = graph.n_edges
    delta, std = np.full(n, np.nan), np.full(n, np.nan)
    return Found(np.zeros(n, dtype=bool), delta, std, clean, error=np.full(n, np.nan) if bounded else None)
