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
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.ablations import Statistics, ablate
from pipeline.core.errors import ConfigError
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.methods.base import Cost, Method, captures
from pipeline.methods.search import GUARD, Crew, Found, Order, Rule, Search, Visits
from pipeline.metrics import get_metric

if TYPE_CHECKING:
    from pipeline.engine.ablated import Ablated
    from pipeline.engine.batch import Batch
    from pipeline.engine.part import Part
    from pipeline.engine.patchable import PatchableModel
    from pipeline.engine.readout import Objective


class Acdc(Method):
    """Removes edges one after the other, each that costs less than `threshold` once those before it are gone: what
    it keeps is the circuit."""

    scores_prompts: ClassVar[bool] = False
    swept: ClassVar[str | None] = "threshold"
    default_metric: ClassVar[str | None] = "kl_divergence"

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

    @property
    def pooled(self) -> bool:
        return self.scope == "pooled"

    def expanded(self) -> "list[Acdc]":
        """One method per threshold."""
        if self.thresholds is None:
            return [self]
        if "threshold" in self.model_fields_set:
            raise ConfigError("acdc: give threshold or thresholds, not both")
        if len(set(self.thresholds)) < len(self.thresholds):
            raise ConfigError("acdc: thresholds holds one value twice; leave one out")

        alone = self.model_copy(update={"thresholds": None})
        updates = [{"threshold": t, "as_": f"{alone.id}-{t:g}"} for t in self.thresholds]
        return [alone.model_copy(update=update) for update in updates]

    def check(self, metric: str, ablation: str) -> None:
        super().check(metric, ablation)
        if not np.isfinite(self.threshold):
            raise ConfigError("acdc: a threshold must be a finite number")
        if get_metric(metric).needs_reference and self.rule == "absolute":
            raise ConfigError(
                f"acdc compares {metric} with its sign: leave rule out, or choose another metric"
            )

    def check_dtype(self, dtype: str) -> None:
        if dtype in ("bfloat16", "float16"):  # rounding alone changes as many edges as the circuit has
            raise ConfigError(f"acdc in {dtype} decides by rounding; set model.dtype: float32")

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        n = len(lengths)
        return Cost(
            captures(self.ablation) * n, 0, graph.n_edges * n, graph.n_edges, evaluations_at_most=True
        )

    def score(
        self,
        model: "PatchableModel",
        batches: "Sequence[Batch]",
        *,
        metric: str | None = None,
        ablation: str | None = None,
        statistics: Statistics | None = None,
        per_prompt: bool = False,
    ) -> EdgeScores:
        """Kept edges, and for every edge that was tested its delta (how much worse), with its spread over prompts.

        Edges into nodes that nothing reads any more are removed untested: NaN. `facts` counts tests, dead
        edges, evaluations that speculation wasted, decisions inside of the guard band, and the final metric.
        """
        del per_prompt  # a delta depends on decisions over all prompts together
        thresholds = (self.threshold,)
        options = {"metric": metric, "ablation": ablation, "statistics": statistics}
        return self.sweep(model, batches, thresholds, **options)[self.threshold]  # type: ignore[arg-type]

    def sweep(
        self,
        model: "PatchableModel",
        batches: "Sequence[Batch]",
        thresholds: Sequence[float],
        *,
        metric: str | None = None,
        ablation: str | None = None,
        statistics: Statistics | None = None,
    ) -> dict[float, EdgeScores]:
        """The result of `score` for every threshold, from one search that shares what they have in common."""
        from pipeline.engine.part import LocalCrew

        called = self.model_copy(update={"metric": self.metric or metric})  # beats the default
        this = called.resolved("kl_divergence", ablation or "corrupted")
        this.check(str(this.metric), str(this.ablation))
        self.check_dtype(str(model.hf.dtype).removeprefix("torch."))
        crew = LocalCrew(this.part(model, batches, statistics))
        search = this.search(model.graph, crew, thresholds, str(model.hf.dtype))
        for _ in search.run():
            pass
        results = {t: this.result(model.graph, found, search) for t, found in search.found.items()}
        tests = sum(int(found.tests) for found in search.found.values())
        model.counters.evaluations += tests * crew.n_prompts
        return results

    def part(
        self,
        model: "PatchableModel",
        batches: "Sequence[Batch]",
        statistics: Statistics | None = None,
        memory: int | None = None,
    ) -> "Part":
        """The batches made ready for questions; `memory` is what their recorded runs may take, in bytes. Metric and
        ablation must be resolved."""
        from pipeline.engine.part import Part
        from pipeline.engine.recorded import Recorded

        def make(batch: "Batch") -> "tuple[Ablated, Objective]":
            ablated = ablate(model, batch, str(self.ablation), statistics)
            return ablated, model.objective(get_metric(str(self.metric)), batch, ablated.clean_hidden)

        coupled = tuple(block.coupled for block in model.parts.blocks)
        recorded = [Recorded(model.parts, model.graph, batch, partial(make, batch)) for batch in batches]
        return Part(recorded, coupled, memory)

    def search(self, graph: Graph, crew: Crew, thresholds: Sequence[float], dtype: str) -> Search:
        """The search over a crew's prompts. The metric must be resolved."""
        row = get_metric(str(self.metric))
        rule = self.rule or ("signed" if row.needs_reference else "absolute")
        guard = 0.0 if dtype.endswith("float64") else GUARD
        decide = Rule(row.sign, rule == "absolute", guard)
        visits = Visits(self.order, self.order_seed)
        return Search(graph, crew, thresholds, decide, visits=visits, width=self.width)

    def result(self, graph: Graph, found: Found, search: Search) -> EdgeScores:
        """What was found for one threshold, as scores."""
        n_prompts = np.where(np.isnan(found.delta), 0, len(found.final))
        facts = {
            "tests": found.tests,
            "dead_edges": found.dead,
            "evaluations": search.evaluations,
            "rounds": search.rounds,
            "guard_band_hits": found.guarded,
            "final_metric": float(found.final.mean()),
            "kept_edges": int(found.kept.sum()),
        }
        return EdgeScores(graph, found.delta, found.std, n_prompts, kept=found.kept, facts=facts)
