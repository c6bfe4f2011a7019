"""How far every method and every circuit of one setting is from the oracles, in float64; of many edges, some.

Knows methods and oracles. Does not know which models are tried (`tests.random_models`, the tests of shared prefixes).
A difference is the largest one as a share of the largest expected size, or of the metric's where effects are small.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.ablations import collect_statistics, needs_statistics
from pipeline.evaluation import circuit_values
from pipeline.methods import Acdc, Eap, EapIg, EdgePatching, NodePatching, PathPatching
from pipeline.metrics import get_metric
from tests.exactness import Setting
from tests.oracles import attribution
from tests.oracles.acdc import naive_acdc

# Effects smaller than this share of the metric are measured against it: they are differences of numbers of its size.
SMALL = 1e-3


@dataclass(frozen=True)
class Question:
    """What is compared: metric, ablation, how many prompts a batch of the product has, and what else is drawn."""

    metric: str = "logit_diff"
    ablation: str = "corrupted"
    batch_size: int = 100
    rule: str = "midpoint"
    seed: int = 0


class Agreement:
    """The product's and the oracle's answers to one question about one setting."""

    def __init__(self, setting: Setting, question: Question) -> None:
        self.setting, self.question = setting, question
        self.rng = np.random.default_rng(question.seed)
        self.graph, self.prompts = setting.graph, setting.prompts
        steps = torch.arange(setting.batch.length)
        odd = setting.batch.real & ((steps % 2 == 1) | (steps == setting.batch.answer_pos[:, None]))
        self.odd = odd
        self.batches = replace(setting.batch, spans={"odd": odd}).split(question.batch_size)
        self.ablated = setting.ablated(question.ablation)
        self.statistics = None
        if needs_statistics(question.ablation):
            self.statistics = collect_statistics(setting.model, self.batches)
        self.values = setting.values(question.metric, setting.clean.logits)
        self.before = setting.harm(question.metric, setting.clean.logits)
        self.known: dict[bytes, np.ndarray] = {}  # effects by kept edges

    def differences(self) -> Iterator[tuple[str, float]]:
        """(what, difference) of everything."""
        yield "circuits", self.circuits()
        if get_metric(self.question.metric).has_gradient:
            yield from self.gradients()
        edges = self.some(40)
        effects = self.harms_of(edges)
        yield "edge_patching", self.difference(self.score(EdgePatching())[:, edges], effects)
        yield "edge_patching-odd", self.at_odd_positions()
        yield "node_patching", self.nodes()
        yield "path_patching", self.paths()
        if self.question.ablation == "corrupted":
            yield from self.denoising()
        yield "acdc", self.acdc(effects)

    def difference(self, found: np.ndarray, expected: np.ndarray) -> float:
        assert found.shape == expected.shape
        assert np.isfinite(found).all()
        size = max(np.abs(expected).max(), SMALL * float(self.values.abs().max()), 1e-9)
        return float(np.abs(found - expected).max() / size)

    # --- the product -------------------------------------------------------------------------------------

    def score(self, method, *, whole=False):
        """Scores per prompt, [prompt, edge]; of node methods, or `whole`, all that it gives."""
        found = method.score(
            self.setting.model,
            self.batches,
            metric=self.question.metric,
            ablation=self.question.ablation,
            statistics=self.statistics,
            per_prompt=True,
        )
        return found if whole or method.result.of == "node" else found.per_prompt

    # --- circuits ----------------------------------------------------------------------------------------

    def circuits(self) -> float:
        n = self.graph.n_edges
        masks = self.rng.random((5, n)) < np.array([0.05, 0.2, 0.5, 0.8, 0.95])[:, None]
        q = self.question
        found = circuit_values(self.setting.model, self.batches, masks, q.metric, q.ablation, self.statistics)
        every = [np.ones(n, dtype=bool), np.zeros(n, dtype=bool), *masks]
        expected = [self.setting.values(q.metric, self.setting.patched(kept, q.ablation)) for kept in every]
        return self.difference(found, torch.stack(expected).numpy())

    # --- gradients ---------------------------------------------------------------------------------------

    def gradients(self) -> Iterator[tuple[str, float]]:
        dense, p, steps = self.setting.dense, self.prompts, 2
        start, end = self.ablated[0], dense.embed(p.clean, p.mask)
        clean = self.setting.clean.outputs
        in_front = self.setting.model.parts.post_norm == "mib"
        delta = self.ablated - clean if in_front else dense.changes(clean, self.ablated)

        def gradient(embeddings: Tensor) -> Tensor:
            return attribution.receiver_gradients(dense, p.clean, p.mask, embeddings, self.harm)

        points = [start + a * (end - start) for a in attribution.points(steps, self.question.rule)]
        along = torch.stack([gradient(point) for point in points]).mean(0)
        at_clean = gradient(end)
        if self.question.metric != "kl_divergence":  # of which the gradient at the clean run is nothing
            yield "eap", self.difference(self.score(Eap()), attribution.edge_scores(dense, delta, at_clean))
            expected = attribution.edge_scores(dense, delta * self.odd[None, ..., None], at_clean)
            yield "eap-odd", self.difference(self.score(Eap(positions="odd")), expected)
        method = EapIg(steps=steps, rule=self.question.rule)
        expected = attribution.edge_scores(dense, delta, along)
        yield "eap_ig", self.difference(self.score(method), expected)

    def harm(self, logits: Tensor) -> Tensor:
        return self.setting.harm(self.question.metric, logits)

    # --- patching ----------------------------------------------------------------------------------------

    def effect(self, kept: np.ndarray, ablated: Tensor | None = None) -> np.ndarray:
        """How much worse the clean run gets, [prompt]."""
        if ablated is not None:
            return self._effect(kept, ablated)
        key = kept.tobytes()
        if key not in self.known:
            self.known[key] = self._effect(kept, self.ablated)
        return self.known[key]

    def _effect(self, kept: np.ndarray, ablated: Tensor) -> np.ndarray:
        p = self.prompts
        run = self.setting.dense.forward(p.clean, p.mask, kept, ablated)
        return (self.harm(run.logits) - self.before).numpy()

    def relief(self, kept: np.ndarray, restored: Tensor) -> np.ndarray:
        """How much better the corrupted run gets, [prompt]."""
        p, before = self.prompts, self.harm(self.setting.corrupted.logits)
        run = self.setting.dense.forward(p.corrupted, p.mask, kept, restored)
        return (before - self.harm(run.logits)).numpy()

    def but(self, *edges: int) -> np.ndarray:
        kept = np.ones(self.graph.n_edges, dtype=bool)
        kept[list(edges)] = False
        return kept

    def some(self, most: int) -> np.ndarray:
        """Edges, all of them where there are no more."""
        return self.rng.choice(self.graph.n_edges, min(most, self.graph.n_edges), replace=False)

    def harms_of(self, edges: np.ndarray) -> np.ndarray:
        return np.stack([self.effect(self.but(edge)) for edge in edges], 1)

    def at_odd_positions(self) -> float:
        ablated = torch.where(self.odd[None, ..., None], self.ablated, self.setting.clean.outputs)
        edges = self.some(8)
        expected = np.stack([self.effect(self.but(edge), ablated) for edge in edges], 1)
        return self.difference(self.score(EdgePatching(positions="odd"))[:, edges], expected)

    def nodes(self) -> float:
        senders = range(self.graph.n_senders)
        expected = [self.effect(self.graph.edge_senders != sender).mean() for sender in senders]
        return self.difference(self.score(NodePatching()).score, np.array(expected))

    def paths(self) -> float:
        """To a few receivers together; edges between the sender and all of them are removed."""
        chosen = self.rng.choice(self.graph.n_receivers, min(3, self.graph.n_receivers), replace=False)
        names = tuple(self.graph.receivers[receiver].name for receiver in chosen)
        found = self.score(PathPatching(receivers=names))
        expected = []
        for sender in found.node:
            read = [r for r in chosen if sender < self.graph.senders_read[r]]
            removed = [int(self.graph.first_edge[r]) + int(sender) for r in read]
            expected.append(self.effect(self.but(*removed)).mean())
        return self.difference(found.score, np.array(expected))

    def denoising(self) -> Iterator[tuple[str, float]]:
        clean = self.setting.clean.outputs
        edges = self.some(16)
        expected = np.stack([self.relief(self.but(edge), clean) for edge in edges], 1)
        found = self.score(EdgePatching(direction="denoising"))[:, edges]
        yield "edge_patching-denoising", self.difference(found, expected)
        senders = range(self.graph.n_senders)
        nodes = [self.relief(self.graph.edge_senders != sender, clean).mean() for sender in senders]
        found = self.score(NodePatching(direction="denoising")).score
        yield "node_patching-denoising", self.difference(found, np.array(nodes))

    # --- searched ----------------------------------------------------------------------------------------

    def acdc(self, effects: np.ndarray) -> float:
        """The largest difference of a delta; other decisions are an error unless they are a tie."""
        sizes = np.abs(effects.mean(0))
        threshold = float(np.quantile(sizes, self.rng.uniform(0.2, 0.9))) * 0.9 + 1e-6

        def mean_harm(kept: np.ndarray) -> float:
            return float(self.effect(kept).mean())

        rule = "signed" if get_metric(self.question.metric).needs_reference else "absolute"
        kept, delta = naive_acdc(mean_harm, self.graph, threshold, rule)
        found = self.score(Acdc(threshold=threshold), whole=True)
        measured = found.n_prompts > 0
        worse = delta if rule == "signed" else np.abs(delta)
        if np.abs(worse - threshold).min() > 1e-9:
            other = [self.graph.edge_name(int(e)) for e in np.flatnonzero(found.kept != kept)]
            assert not other, f"acdc at {threshold}: {other} are decided otherwise"
        return self.difference(np.where(measured, found.score, 0.0), np.where(measured, delta, 0.0))
