"""The greedy search of ACDC over any number of thresholds at once: what is asked, and what is decided.

Knows receivers, candidates and decisions. Does not know tensors, processes or files: a `Crew` answers questions
about the prompts, whoever holds them.

Thresholds that have decided alike share a state and every evaluation. Within a receiver they part where a
delta lies between them (`_Branch`), and go on from states of their own. Guesses make the search fast and decide
nothing: a chain of candidates is measured under guessed decisions, from estimates of the metric where the
vocabulary is large; then every delta is taken from the metric itself, in order, and whatever was guessed wrong
is asked again. A delta too close to a threshold for its rounding is taken from evaluations of one variant each,
whose rounding no batching changes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float

from pipeline.core.errors import ScoreError
from pipeline.core.graph import Graph
from pipeline.core.liveness import Liveness
from pipeline.core.questions import Confirm, Forget, Measure, Question, Settle

Order = Literal["late_first", "early_first", "random"]

# Half-width of the band around a threshold, relative to max(metric, 1), in which a float32 value is not trusted.
GUARD = 1e-6
# A chain is as long as the guesses in it are all right with this probability: where an evaluation costs more
# than its overhead, and where it does not.
_PATIENT, _EAGER = 0.5, 0.02
_KNOWN = 0.97  # how often a guess from an earlier, slightly different measurement is right
_UNCONFIRMED = 128  # variants of a branch whose hidden states wait for confirmation


@runtime_checkable
class Crew(Protocol):
    """Who holds the prompts. Prompts are in ascending order of id in every answer, whoever answered."""

    @property
    def n_prompts(self) -> int: ...
    @property
    def coupled(self) -> tuple[bool, ...]: ...  # per layer: whether its heads depend on each other
    @property
    def estimates(self) -> bool: ...  # whether unconfirmed measures are estimates
    @property
    def eager(self) -> bool: ...  # whether an evaluation costs little beside its overhead
    def values(self) -> Float[np.ndarray, " prompt"]: ...  # the metric of the clean run
    def ask(self, questions: Sequence[Question]) -> list[Float[np.ndarray, "variant prompt"]]: ...


@dataclass(frozen=True)
class Visits:
    """In which order receivers, and the senders of each, are visited: always from the output to the input.

    `late_first`: heads and senders from the last to the first; `early_first`: from the first to the last;
    `random`: shuffled by `seed`. A layer's MLP comes before its heads, `<q>` before `<k>` before `<v>`.
    """

    order: Order = "late_first"
    seed: int = 0

    def receivers(self, graph: Graph) -> Iterator[int]:
        yield graph.logits_receiver
        for layer in reversed(range(graph.n_layers)):
            yield graph.mlp_receiver(layer)
            ports: tuple[tuple[Literal["q", "k", "v"], int], ...]
            ports = (("q", graph.n_heads), ("k", graph.n_ports), ("v", graph.n_ports))
            for port, heads in ports:
                first = graph.head_receiver(layer, port)
                yield from self._ordered(range(first, first + heads), key=first)

    def senders(self, graph: Graph, receiver: int) -> list[int]:
        return self._ordered(range(int(graph.senders_read[receiver])), key=graph.n_receivers + receiver)

    def _ordered(self, items: range, key: int) -> list[int]:
        if self.order == "late_first":
            return list(reversed(items))
        if self.order == "early_first":
            return list(items)
        return [items[i] for i in np.random.default_rng([self.seed, key]).permutation(len(items))]


@dataclass(frozen=True)
class Rule:
    """When an edge goes: harm = sign * (metric after - before), or its size if `absolute`, below the threshold."""

    sign: int
    absolute: bool
    guard: float = GUARD

    def removes(self, delta: float, threshold: float) -> bool:
        return (abs(delta) if self.absolute else delta) < threshold

    def uncertain(self, delta: float, threshold: float, metric: float) -> bool:
        margin = (abs(delta) if self.absolute else delta) - threshold
        return abs(margin) < self.guard * max(abs(metric), 1.0)


@dataclass(frozen=True)
class Decided:
    """All decisions of one receiver, for thresholds that decided alike. Senders are in the order of their tests."""

    receiver: int
    state: int
    into: int
    thresholds: tuple[float, ...]
    senders: tuple[int, ...]
    kept: tuple[bool, ...]
    delta: tuple[float, ...]
    std: tuple[float, ...]
    guarded: int

    @property
    def removed(self) -> tuple[int, ...]:
        return tuple(s for s, kept in zip(self.senders, self.kept, strict=True) if not kept)

    @property
    def remaining(self) -> tuple[int, ...]:
        return tuple(s for s, kept in zip(self.senders, self.kept, strict=True) if kept)


@dataclass(frozen=True)
class Step:
    """What one receiver cost and gave: the record from which a search that was interrupted goes on."""

    receiver: int
    decided: tuple[Decided, ...]
    evaluations: int
    rounds: int


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


@dataclass(frozen=True)
class _Tested:
    """A candidate with a guessed decision, and the variant in which it was measured."""

    sender: int
    kept: bool
    variant: tuple[int, int]


@dataclass
class _Branch:
    """Thresholds that decide alike at one receiver, so far: what is decided, and what is guessed on top."""

    state: int
    thresholds: tuple[float, ...]
    rest: list[int]  # candidates without even a guess
    before: Float[np.ndarray, " prompt"]  # the metric with all decided removals
    senders: list[int] = field(default_factory=list)
    kept: list[bool] = field(default_factory=list)
    steps: list[Float[np.ndarray, " prompt"]] = field(default_factory=list)
    guarded: int = 0
    guessed: list[_Tested] = field(default_factory=list)
    guess_before: Float[np.ndarray, " prompt"] | None = None  # the metric with guessed removals too
    hints: dict[int, float] = field(default_factory=dict)  # sender -> its delta in a slightly different state

    def forked(self, thresholds: Sequence[float]) -> "_Branch":
        return replace(
            self,
            thresholds=tuple(thresholds),
            rest=list(self.rest),
            senders=list(self.senders),
            kept=list(self.kept),
            steps=list(self.steps),
            guessed=list(self.guessed),
            hints=dict(self.hints),
        )

    @property
    def removed(self) -> tuple[int, ...]:
        return tuple(s for s, kept in zip(self.senders, self.kept, strict=True) if not kept)

    @property
    def gone(self) -> tuple[int, ...]:
        """Removed, or guessed to be."""
        return (*self.removed, *(tested.sender for tested in self.guessed if not tested.kept))


class Search:
    """One search over all prompts of a crew. `run` yields a record per receiver that anybody still reads."""

    def __init__(
        self,
        graph: Graph,
        crew: Crew,
        thresholds: Sequence[float],
        rule: Rule,
        *,
        visits: Visits = Visits(),
        width: int = 32,
    ) -> None:
        self._graph, self._crew, self._rule = graph, crew, rule
        self._visits, self._width = visits, width
        self._patience = _EAGER if crew.eager else _PATIENT
        clean = crew.values()
        every = tuple(sorted(set(thresholds)))
        self._states = {0: (Liveness(graph, crew.coupled), every, clean)}
        self._next_state = 1
        self.found = {t: _nothing(graph, clean) for t in every}
        self.evaluations = self.rounds = self._tickets = 0

    def run(self, past: Mapping[int, Step] | None = None) -> Iterator[tuple[Step, bool]]:
        """(record, whether it is new) of each receiver in turn; `past` are records of an earlier run, which are
        taken over without a test for as long as none is missing."""
        past = dict(past or {})
        for receiver in self._visits.receivers(self._graph):
            reading = [state for state, (liveness, _, _) in self._states.items() if liveness.alive(receiver)]
            for state in self._states.keys() - set(reading):
                for threshold in self._states[state][1]:
                    self.found[threshold].dead += int(self._graph.senders_read[receiver])
            if not reading:
                continue
            step = past.get(receiver)
            new = step is None
            if step is None:
                past.clear()
                step = self._decide(receiver, reading)
            self._settle(step)
            yield step, new

    # --- one receiver -------------------------------------------------------------------------------------

    def _decide(self, receiver: int, states: Sequence[int]) -> Step:
        evaluations, rounds = self.evaluations, self.rounds
        senders = self._visits.senders(self._graph, receiver)
        open_ = [_Branch(s, self._states[s][1], list(senders), self._states[s][2]) for s in states]
        done: list[_Branch] = []
        self._exact: dict[tuple[int, int], Float[np.ndarray, " prompt"]] = {}
        while open_:
            asked = [self._next_question(receiver, branch) for branch in open_]
            answers = iter(self._ask([question for question in asked if question is not None]))
            after: list[_Branch] = []
            for branch, question in zip(open_, asked, strict=True):
                if isinstance(question, Measure):
                    after += self._guess(branch, question, next(answers))
                    continue
                if question is not None:
                    self._exact.update(zip(question.variants, next(answers), strict=True))
                after += self._judge(receiver, branch)
            done += [branch for branch in after if not branch.rest and not branch.guessed]
            open_ = [branch for branch in after if branch.rest or branch.guessed]
        decided = []
        for branch in sorted(done, key=lambda branch: branch.thresholds):
            means = tuple(float(step.mean()) for step in branch.steps)
            stds = tuple(float(step.std()) for step in branch.steps)
            decided.append(
                Decided(
                    receiver,
                    branch.state,
                    self._next_state,
                    branch.thresholds,
                    tuple(branch.senders),
                    tuple(branch.kept),
                    means,
                    stds,
                    branch.guarded,
                )
            )
            self._next_state += 1
        return Step(receiver, tuple(decided), self.evaluations - evaluations, self.rounds - rounds)

    def _ask(self, questions: Sequence[Question]) -> list[Float[np.ndarray, "variant prompt"]]:
        if not questions:
            return []
        self.rounds += 1
        self.evaluations += sum(len(q.candidates) for q in questions if isinstance(q, Measure))
        return self._crew.ask(questions)

    def _next_question(self, receiver: int, branch: _Branch) -> Measure | Confirm | None:
        """The next chain of candidates; when all are guessed, what must be confirmed; None if all of it is."""
        if branch.rest and len(branch.guessed) < _UNCONFIRMED:
            chain, spared = self._chain(branch)
            self._tickets += 1
            return Measure(
                branch.state,
                receiver,
                branch.gone,
                chain,
                spared,
                ticket=self._tickets,
                exact=not self._crew.estimates,
            )
        wanted = [tested.variant for tested in branch.guessed if tested.variant not in self._exact]
        return Confirm(tuple(wanted)) if wanted else None

    def _chain(self, branch: _Branch) -> tuple[tuple[int, ...], frozenset[int]]:
        """As many candidates as the guesses about them are worth, and those guessed to stay."""
        tested = len(branch.kept) + len(branch.guessed)
        kept = sum(branch.kept) + sum(tested.kept for tested in branch.guessed)
        surprise = (kept + 1) / (tested + 8)
        middle = branch.thresholds[len(branch.thresholds) // 2]
        chain, spared, right = [], set(), 1.0
        for sender in branch.rest[: self._width]:
            hint = branch.hints.get(sender)
            right *= _KNOWN if hint is not None else 1 - surprise
            if chain and right < self._patience:
                break
            chain.append(sender)
            if hint is not None and not self._rule.removes(hint, middle):
                spared.add(sender)
        return tuple(chain), frozenset(spared)

    def _guess(
        self, branch: _Branch, question: Measure, values: Float[np.ndarray, "variant prompt"]
    ) -> list[_Branch]:
        """The branch with guessed decisions for the chain, as far as the chain was right; parted where its
        thresholds disagree."""
        out = []
        before = float((branch.before if branch.guess_before is None else branch.guess_before).mean())
        means = values.mean(axis=1)
        hints = self._hints(question, means, before)
        for index, sender in enumerate(question.candidates):
            if question.exact:
                self._exact[question.ticket, index] = values[index]
            kept_as_guessed = sender in question.spared
            agree, differ = [], []
            for threshold in branch.thresholds:
                kept = not self._rule.removes(hints[sender], threshold)
                (agree if kept == kept_as_guessed else differ).append(threshold)
            if differ:
                other = branch.forked(differ)
                self._take(other, sender, not kept_as_guessed, (question.ticket, index), values[index])
                other.hints |= {s: hints[s] for s in question.candidates[index + 1 :]}
                out.append(other)
            if not agree:
                return out
            branch = branch.forked(agree) if differ else branch
            self._take(branch, sender, kept_as_guessed, (question.ticket, index), values[index])
        return [*out, branch]

    def _hints(
        self, question: Measure, means: Float[np.ndarray, " variant"], before: float
    ) -> dict[int, float]:
        """The harm that each candidate's removal did in the chain."""
        hints = {}
        for sender, mean in zip(question.candidates, means.tolist(), strict=True):
            hints[sender] = (mean - before) * self._rule.sign
            if sender not in question.spared:
                before = mean
        return hints

    @staticmethod
    def _take(
        branch: _Branch,
        sender: int,
        kept: bool,
        variant: tuple[int, int],
        values: Float[np.ndarray, " prompt"],
    ) -> None:
        branch.rest.remove(sender)
        branch.guessed.append(_Tested(sender, kept, variant))
        if not kept:
            branch.guess_before = values

    def _judge(self, receiver: int, branch: _Branch) -> list[_Branch]:
        """Decides every guessed candidate by the metric itself, as far as the guesses were right."""
        guessed, branch.guessed, branch.guess_before = branch.guessed, [], None
        out = []
        for index, tested in enumerate(guessed):
            values = self._exact[tested.variant]
            step = (values - branch.before) * self._rule.sign
            metric, delta = float(branch.before.mean()), float(step.mean())
            if not np.isfinite(delta):
                edge = int(self._graph.first_edge[receiver]) + tested.sender
                raise ScoreError(f"acdc: the metric is not finite at {self._graph.edge_name(edge)}")
            guarded = any(self._rule.uncertain(delta, t, metric) for t in branch.thresholds)
            if guarded:
                step = self._alone(receiver, branch, tested.sender)
                delta = float(step.mean())
            removing = [t for t in branch.thresholds if self._rule.removes(delta, t)]
            keeping = [t for t in branch.thresholds if not self._rule.removes(delta, t)]
            agree, differ = (keeping, removing) if tested.kept else (removing, keeping)
            both = ((agree, tested.kept), (differ, not tested.kept))
            before, follow = branch.before, None
            for thresholds, kept in both:
                if not thresholds:
                    continue
                mine = branch if not (agree and differ) else branch.forked(thresholds)
                mine.senders.append(tested.sender)
                mine.kept.append(kept)
                mine.steps.append(step)
                mine.guarded += guarded
                mine.before = before if kept else values
                if kept == tested.kept:
                    follow = mine
                else:  # the rest of the chain was measured in another state; it still is a good hint
                    later = guessed[index + 1 :]
                    mine.hints |= self._later_hints(later, before if tested.kept else values)
                    mine.rest = [*(t.sender for t in later), *mine.rest]
                    out.append(mine)
            if follow is None:
                return out
            branch = follow
        return [*out, branch]

    def _later_hints(
        self, later: Sequence[_Tested], before: Float[np.ndarray, " prompt"]
    ) -> dict[int, float]:
        hints, base = {}, float(before.mean())
        for tested in later:
            mean = float(self._exact[tested.variant].mean())
            hints[tested.sender] = (mean - base) * self._rule.sign
            base = base if tested.kept else mean
        return hints

    def _alone(self, receiver: int, branch: _Branch, sender: int) -> Float[np.ndarray, " prompt"]:
        """The step of one removal from evaluations of a single variant each."""
        removed = branch.removed
        questions = [Measure(branch.state, receiver, removed, (sender,), exact=True)]
        if removed:
            questions.append(Measure(branch.state, receiver, removed[:-1], removed[-1:], exact=True))
        after, *before = self._ask(questions)
        base = before[0][0] if before else self._states[branch.state][2]
        return (after[0] - base) * self._rule.sign

    # --- its consequences ---------------------------------------------------------------------------------

    def _settle(self, step: Step) -> None:
        """Makes the decisions of a receiver the new states, and adds them to the results."""
        questions: list[Question] = [
            Settle(d.state, d.into, d.receiver, d.removed, d.remaining) for d in step.decided
        ]
        old = tuple(sorted({d.state for d in step.decided}))
        *answers, _ = self._crew.ask([*questions, Forget(old)])
        first = int(self._graph.first_edge[step.receiver])
        for decided, values in zip(step.decided, answers, strict=True):
            liveness = self._states[decided.state][0].keeping(step.receiver, decided.remaining)
            self._states[decided.into] = (liveness, decided.thresholds, values[0])
            edges = first + np.asarray(decided.senders, dtype=np.int64)
            for threshold in decided.thresholds:
                found = self.found[threshold]
                found.kept[edges] = decided.kept
                found.delta[edges] = decided.delta
                found.std[edges] = decided.std
                found.final = values[0]
                found.tests += len(edges)
                found.guarded += decided.guarded
            self._next_state = max(self._next_state, decided.into + 1)
        for state in old:
            del self._states[state]


def _nothing(graph: Graph, clean: Float[np.ndarray, " prompt"]) -> Found:
    n = graph.n_edges
    return Found(np.zeros(n, dtype=bool), np.full(n, np.nan), np.full(n, np.nan), clean)
