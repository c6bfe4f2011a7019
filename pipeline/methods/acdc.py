"""ACDC (Conmy et al. 2023, arXiv 2304.14997): greedy removal of edges, exact, on cached runs.

Knows the order of visits and the decision. Does not know how a removal is propagated (`pipeline.engine.incremental`).

Receivers are visited from the output to the input: `logits`, then per layer from the last its MLP, `<q>`,
`<k>` and `<v>` of the heads from the last to the first; senders of a receiver from the latest to the
earliest. An edge goes when

    metric(without it and all removed so far) - metric(without those removed so far) < threshold      (strict)

where the metric is a divergence or loss, or |difference| under `rule: absolute`. Where we differ from the
authors' code: their extra per-head input nodes are not edges here; edges into dead nodes are removed without
a run, which is exact; and several candidates are evaluated at once (`width`), which changes no decision.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float
from pydantic import Field

from pipeline.ablations import Statistics, ablate
from pipeline.core.errors import ConfigError, ScoreError
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.methods.base import Cost, Method, captures
from pipeline.metrics import get_metric

if TYPE_CHECKING:
    from pipeline.engine.batch import Batch
    from pipeline.engine.incremental import Incremental
    from pipeline.engine.patchable import PatchableModel

# Half-width of the band around the threshold, relative to max(metric, 1), in which a float32 value is not
# trusted.
_GUARD = 1e-6


class Acdc(Method):
    """Exact ACDC at one threshold, over all prompts of a shard."""

    scores_prompts: ClassVar[bool] = False
    default_metric: ClassVar[str | None] = "kl_divergence"

    name: Literal["acdc"] = "acdc"
    threshold: float = Field(default=0.01, description="an edge goes when its delta is below this")
    rule: Literal["absolute", "signed"] | None = Field(
        default=None, description="how a delta is compared; default: signed for divergences, else absolute"
    )
    scope: Literal["shard"] = Field(default="shard", description="one circuit per shard of prompts")
    width: int = Field(
        default=16, ge=1, le=64, description="most candidates evaluated at once; changes no decision"
    )

    def check(self, metric: str, ablation: str) -> None:
        super().check(metric, ablation)
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
        from pipeline.engine.incremental import Incremental

        called = self.model_copy(
            update={"metric": self.metric or metric}
        )  # what the call says beats the default
        this = called.resolved("kl_divergence", ablation or "corrupted")
        this.check(this.metric, this.ablation)  # type: ignore[arg-type]  # resolved: both are set
        self.check_dtype(str(model.hf.dtype).removeprefix("torch."))
        row = get_metric(this.metric)  # type: ignore[arg-type]
        states = []
        for batch in batches:
            ablated = ablate(model, batch, this.ablation, statistics)  # type: ignore[arg-type]
            objective = model.objective(row, batch, ablated.clean_hidden)
            states.append(Incremental(model.parts, model.graph, ablated, objective))
        rule = self.rule or ("signed" if row.needs_reference else "absolute")
        guard = 0.0 if str(model.hf.dtype) == "torch.float64" else _GUARD
        search = _Search(model.graph, states, self.threshold, row.sign, rule == "absolute", self.width, guard)
        search.run()
        model.counters.evaluations += search.tests * sum(batch.n_prompts for batch in batches)
        return search.scores(per_prompt=per_prompt)


def receivers_in_order(graph: Graph) -> Iterator[int]:
    """Receivers from the output to the input, in the documented order."""
    yield graph.logits_receiver
    for layer in reversed(range(graph.n_layers)):
        yield graph.mlp_receiver(layer)
        yield from (graph.head_receiver(layer, "q", head) for head in reversed(range(graph.n_heads)))
        yield from (graph.head_receiver(layer, "k", head) for head in reversed(range(graph.n_ports)))
        yield from (graph.head_receiver(layer, "v", head) for head in reversed(range(graph.n_ports)))


@dataclass
class _Search:
    """One decision sequence over the states of all batches."""

    graph: Graph
    states: "list[Incremental]"
    threshold: float
    sign: int
    absolute: bool
    width: int
    guard: float
    tests: int = 0
    dead: int = 0
    wasted: int = 0
    guarded: int = 0
    kept: Bool[np.ndarray, " edge"] = field(init=False)
    deltas: dict[int, Float[np.ndarray, " prompt"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.kept = np.zeros(self.graph.n_edges, dtype=bool)

    def run(self) -> None:
        for receiver in receivers_in_order(self.graph):
            n_senders = int(self.graph.senders_read[receiver])
            if not self.states[0].alive(receiver):
                self.dead += n_senders
                continue
            for state in self.states:
                state.open(receiver)
            self._decide(receiver, list(reversed(range(n_senders))))

    def _decide(self, receiver: int, candidates: list[int]) -> None:
        first_edge = int(self.graph.first_edge[receiver])
        width = 1
        while candidates:
            senders = candidates[:width]
            values, commit = self._evaluate(receiver, senders)
            steps = np.diff(values, axis=0) * self.sign
            removed = 0
            for variant, step in enumerate(steps):
                delta = float(step.mean())
                if not np.isfinite(delta):
                    raise ScoreError(
                        f"acdc: the metric is not finite at {self.graph.edge_name(first_edge + senders[variant])}"
                    )
                if self._uncertain(delta, values[variant]):
                    self.guarded += 1
                    step = self._alone(receiver, senders, variant)  # noqa: PLW2901 - the canonical value replaces it
                    delta = float(step.mean())
                self.deltas[first_edge + senders[variant]] = step
                if (abs(delta) if self.absolute else delta) >= self.threshold:
                    break
                removed += 1
            if removed:
                commit(removed - 1)
            decided = removed
            if removed < len(senders):
                sender = senders[removed]
                self.kept[first_edge + sender] = True
                for state in self.states:
                    state.keep(receiver, sender)
                decided += 1
                width = max(1, min(self.width, decided))
            else:
                width = min(self.width, 2 * width)
            self.tests += decided
            self.wasted += len(senders) - decided
            candidates = candidates[decided:]

    def _evaluate(
        self, receiver: int, senders: list[int]
    ) -> tuple[Float[np.ndarray, "evaluation prompt"], Any]:
        """The metric before and after each removal, and a function that makes one of the variants current."""
        trials = [state.run(receiver, state.variants(receiver, senders)) for state in self.states]
        rows = [np.concatenate([state.values[None].cpu().numpy() for state in self.states], axis=1)]
        rows.append(np.concatenate([trial.values.cpu().numpy() for trial in trials], axis=1))

        def commit(variant: int) -> None:
            for state, trial in zip(self.states, trials, strict=True):
                state.commit(trial, variant)

        return np.concatenate(rows), commit

    def _uncertain(self, delta: float, before: Float[np.ndarray, " prompt"]) -> bool:
        margin = (abs(delta) if self.absolute else delta) - self.threshold
        return abs(margin) < self.guard * max(abs(float(before.mean())), 1.0)

    def _alone(self, receiver: int, senders: list[int], variant: int) -> Float[np.ndarray, " prompt"]:
        """The step of one variant from evaluations of a single variant each, whose rounding no width changes."""
        values = []
        for state in self.states:
            inputs = state.variants(receiver, senders)
            after = state.run(receiver, inputs[variant : variant + 1]).values[0]
            before = state.values
            if variant:
                before = state.run(receiver, inputs[variant - 1 : variant]).values[0]
            values.append(((after - before) * self.sign).cpu().numpy())
        return np.concatenate(values)

    def scores(self, *, per_prompt: bool) -> EdgeScores:
        n_edges = self.graph.n_edges
        score, std = np.full(n_edges, np.nan), np.full(n_edges, np.nan)
        n_prompts = np.zeros(n_edges, dtype=np.int64)
        total = sum(len(state.values) for state in self.states)
        table = np.full((total, n_edges), np.nan) if per_prompt else None
        for edge, delta in self.deltas.items():
            score[edge], std[edge], n_prompts[edge] = delta.mean(), delta.std(), total
            if table is not None:
                table[:, edge] = delta
        final = np.concatenate([state.values.cpu().numpy() for state in self.states])
        facts = {
            "tests": self.tests,
            "dead_edges": self.dead,
            "wasted_evaluations": self.wasted,
            "guard_band_hits": self.guarded,
            "final_metric": float(final.mean()),
            "kept_edges": int(self.kept.sum()),
        }
        return EdgeScores(self.graph, score, std, n_prompts, kept=self.kept, per_prompt=table, facts=facts)
