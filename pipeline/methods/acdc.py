"""ACDC (Conmy et al. 2023, arXiv 2304.14997): greedy removal of edges, exact, on cached runs.

Knows the parameters and the result. Does not know how decisions are searched for (`pipeline.methods.search`) nor
how a removal is propagated (`pipeline.engine.incremental`).

Receivers are visited from the output to the input: `logits`, then per layer from the last its MLP, `<q>`,
`<k>` and `<v>` of its heads; heads and senders from the last to the first, or as `order` says. An edge goes when

    metric(without it and all removed so far) - metric(without those removed so far) < threshold      (strict)

where the metric is a divergence or loss, or |difference| under `rule: absolute`. Where we differ from the
authors' code: their extra per-head input nodes are not edges here; edges into dead nodes are removed without
a run, which is exact; and several candidates are evaluated at once (`width`), which changes no decision.
Several thresholds are searched together (`sweep`), with the results that each has alone.

`scores: bounded` decides by bounds on the divergence from a part of the vocabulary (`pipeline.engine.bounds`), and
makes the whole product with it where they leave a decision open, or keep the edge. The edges are those of `exact`; a
score is off by its `score_error` at most, and its spread over prompts is that of the middles of the bounds.

`resamples: N` searches N times more, on prompts drawn with replacement: what they keep is read by `stability`, and
they are judged by nothing else.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.core.errors import ConfigError
from pipeline.core.graph import Graph
from pipeline.core.questions import Step
from pipeline.core.results import BOUNDED_EDGE_SCORES, Result, ResultType
from pipeline.core.scores import EdgeScores
from pipeline.methods.base import Cost, Needs, captures
from pipeline.methods.branches import GUARD, Rule
from pipeline.methods.collective import Collective, Record, Redrawn, Taken, Workers
from pipeline.methods.search import Found, Search
from pipeline.methods.visits import Order, Visits
from pipeline.methods.work import Work
from pipeline.metrics import get_metric

if TYPE_CHECKING:
    from pipeline.engine.ablated import Ablated
    from pipeline.engine.batch import Batch
    from pipeline.engine.part import Part
    from pipeline.engine.patchable import PatchableModel
    from pipeline.engine.readout import Objective


class Acdc(Collective):
    """Removes edges one after the other, each that costs less than `threshold` once those before it are gone: what
    it keeps is the circuit."""

    # in 16 bits rounding alone changes as many edges as the circuit has
    needs: ClassVar[Needs] = Needs(wide="decides by rounding; set model.dtype: float32")
    swept: ClassVar[str | None] = "threshold"
    default_metric: ClassVar[str | None] = "kl_divergence"
    later: ClassVar[frozenset[str]] = frozenset({"scores", "resamples", "resample"})

    name: Literal["acdc"] = "acdc"
    threshold: float = Field(default=0.01, description="an edge goes when its delta is below this")
    rule: Literal["absolute", "signed"] | None = Field(
        default=None, description="how a delta is compared; default: signed for divergences, else absolute"
    )
    thresholds: tuple[float, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="several instead of one: a method each, from one search",
    )
    scope: Literal["pooled", "shard"] = Field(
        default="pooled", description="one circuit for all prompts of a task, or one per shard of them"
    )
    order: Order = Field(default="late_first", description="in which order edges are tested")
    order_seed: int = Field(default=0, ge=0, description="of order: random")
    width: int = Field(
        default=32, ge=1, le=64, description="most candidates evaluated at once; changes no decision"
    )

    scores: Literal["exact", "bounded"] = Field(
        default="exact",
        description="bounded: deltas of kl_divergence as exact as their decisions need; the same edges, sooner",
    )

    resamples: int = Field(
        default=0, ge=0, le=1000, description="so many searches more, on resampled prompts: is it stable?"
    )
    resample: int | None = Field(default=None, ge=1, description="which of them this is")

    @property
    def pooled(self) -> bool:
        return self.scope == "pooled"

    @property
    def drawn(self) -> int | None:
        return self.resample

    @property
    def kind(self) -> ResultType:
        return BOUNDED_EDGE_SCORES if self.scores == "bounded" else self.result

    def expanded(self) -> "list[Acdc]":
        """One method per threshold, each followed by its resamples."""
        if self.resamples:
            if self.resample is not None:
                raise ConfigError("acdc: give resamples or resample, not both")
            found = self.model_copy(update={"resamples": 0}).expanded()
            return [again for one in found for again in (one, *_redrawn(one, self.resamples))]
        if self.thresholds is None:
            return [self]
        if "threshold" in self.model_fields_set:
            raise ConfigError("acdc: give threshold or thresholds, not both")
        if len(set(self.thresholds)) < len(self.thresholds):
            raise ConfigError("acdc: thresholds holds one value twice; leave one out")

        alone = self.model_copy(update={"thresholds": None})
        updates = [{"threshold": t, "as_": f"{alone.id}-{t:g}"} for t in self.thresholds]
        return [alone.model_copy(update=update) for update in updates]

    def check(self, dtype: str) -> None:
        super().check(dtype)
        if not np.isfinite(self.threshold):
            raise ConfigError("acdc: a threshold must be a finite number")
        if self.resample is not None and not self.pooled:
            raise ConfigError("acdc: resamples are of all prompts of a task; leave scope: shard out")
        if self.scores == "bounded" and self.metric != "kl_divergence":
            raise ConfigError(
                f"acdc: scores: bounded knows kl_divergence, not {self.metric}; leave scores out, or choose that metric"
            )
        if get_metric(str(self.metric)).needs_reference and self.rule == "absolute":
            raise ConfigError(
                f"acdc compares {self.metric} with its sign: leave rule out, or choose another metric"
            )

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        n = len(lengths)
        return Cost(
            captures(self.ablation) * n, 0, graph.n_edges * n, graph.n_edges, evaluations_at_most=True
        )

    def sweep(
        self, model: "PatchableModel", batches: "Sequence[Batch]", thresholds: Sequence[float], **options: Any
    ) -> dict[float, EdgeScores]:
        """The result of `score` for every threshold, from one search that shares what they have in common; `options`
        are those of `score`."""
        methods = {str(t): self.model_copy(update={"threshold": t}) for t in thresholds}
        found = self.score_together(model, batches, methods, **options)
        return {t: found[str(t)] for t in thresholds}  # type: ignore[misc]  # of edges

    def part(self, work: Work, memory: int | None = None) -> "Part":
        """The batches made ready for questions about them."""
        from pipeline.engine.part import Part
        from pipeline.engine.recorded import Recorded

        def make(batch: "Batch") -> "tuple[Ablated, Objective]":
            ablated = work.ablated(batch)
            return ablated, work.objective(batch, ablated.clean_hidden)

        model = work.model
        coupled = tuple(block.coupled for block in model.parts.blocks)
        recorded = [Recorded(model.parts, model.graph, b, partial(make, b)) for b in work.batches]
        return Part(recorded, coupled, memory)

    def drive(
        self, together: Mapping[str, "Acdc"], graph: Graph, workers: Workers, dtype: str
    ) -> "Decisions":
        """One search for the thresholds of all of them."""
        if self.resample is not None:
            workers = Redrawn(workers, self.resample)
        return Decisions(self, together, graph, workers, dtype)

    def search(self, graph: Graph, workers: Workers, thresholds: Sequence[float], dtype: str) -> Search:
        """The search over the workers' prompts. The metric must be resolved."""
        row = get_metric(str(self.metric))
        rule = self.rule or ("signed" if row.needs_reference else "absolute")
        guard = 0.0 if dtype.endswith("float64") else GUARD
        decide = Rule(row.sign, rule == "absolute", guard)
        visits = Visits(self.order, self.order_seed)
        bounded = self.scores == "bounded"
        return Search(graph, workers, thresholds, decide, visits=visits, width=self.width, bounded=bounded)


def _redrawn(method: Acdc, resamples: int) -> list[Acdc]:
    """The same on each resample of its prompts."""
    return [
        method.model_copy(update={"resample": number, "as_": f"{method.id}-resample-{number}"})
        for number in range(1, resamples + 1)
    ]


class Decisions:
    """A drive of ACDC: a step is the decisions about one receiver, for all thresholds.

    A result holds the kept edges, and for every edge that was tested its delta (how much worse), with its spread over
    prompts. Edges into nodes that nothing reads any more are removed untested: NaN. `facts` counts tests, dead edges,
    evaluations that speculation wasted, decisions inside of the guard band, and the final metric.
    """

    def __init__(
        self, method: Acdc, together: Mapping[str, "Acdc"], graph: Graph, workers: Workers, dtype: str
    ) -> None:
        self._graph, self._workers, self._method = graph, workers, method
        self._thresholds = {id_: one.threshold for id_, one in together.items()}
        self._search = method.search(graph, workers, list(self._thresholds.values()), dtype)

    def steps(self, past: Mapping[int, Record]) -> Iterator[Taken]:
        known = {}
        for number, record in past.items():
            with suppress(ValueError):  # no step: decided again, as if it were not there
                known[number] = Step.from_dict(record)
        for step, new in self._search.run(known):
            kept = sum(int(found.kept.sum()) for found in self._search.found.values())
            text = f"decided {self._graph.receivers[step.receiver].name}, {kept} edges kept so far"
            yield Taken(step.receiver, step.to_dict(), new, text)

    def results(self) -> dict[str, Result]:
        return {id_: self._result(self._search.found[t]) for id_, t in self._thresholds.items()}

    def cost(self, method: str) -> Cost:
        n, found = self._workers.n_prompts, self._search.found[self._thresholds[method]]
        return Cost(captures(self._method.ablation) * n, 0, int(found.tests) * n, self._graph.n_edges)

    def _result(self, found: Found) -> EdgeScores:
        n_prompts = np.where(np.isnan(found.delta), 0, len(found.final))
        facts = {
            "tests": found.tests,
            "dead_edges": found.dead,
            "evaluations": self._search.evaluations,
            "rounds": self._search.rounds,
            "guard_band_hits": found.guarded,
            "final_metric": float(found.final.mean()),
            "kept_edges": int(found.kept.sum()),
        }
        error = found.error
        if error is not None:  # where it is 0 there is none
            error = np.where(error > 0, error, np.nan)
            facts["bounded_tests"] = int(np.isfinite(error).sum())
            facts["largest_error"] = float(np.nanmax(error, initial=0.0))
        return EdgeScores(
            self._graph, found.delta, found.std, n_prompts, kept=found.kept, facts=facts, error=error
        )
