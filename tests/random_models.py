"""Random models, each drawn from one number, and how far the product is from the oracles on them.

    python -m tests.random_models FIRST [COUNT]     draws those numbers again, and says what each is and differs by

Knows what may be drawn. What is compared is in `tests.agreement`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from pipeline.engine.patchable import patchable
from tests.agreement import Agreement, Question
from tests.exactness import Setting, make_setting
from tests.oracles import models
from tests.oracles.float64 import float64_throughout

# The largest difference of 200 models is well below.
ALLOWED = 1e-9
HEADS = ((1, 1), (2, 1), (2, 2), (3, 1), (3, 3), (4, 1), (4, 2))
NORMED_AFTER = ("gemma2", "gemma3", "olmo2")
WINDOWED = ("mistral", "gemma2", "gemma3", "phi3", "qwen2_moe", "qwen3_moe")


@dataclass(frozen=True)
class Drawn:
    """One model with its prompts and a question; all of it follows from `number`."""

    number: int
    kind: str
    layers: int
    heads: int
    kv_heads: int
    width: int
    scale: float
    kv: str
    padding: str
    lengths: tuple[int, ...]
    shared: int
    question: Question
    changed: dict[str, Any] = field(default_factory=dict)
    post_norm: str = "mixed"

    def setting(self) -> Setting:
        stock = models.build(
            self.kind,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            width=self.width,
            scale=self.scale,
            seed=self.number,
            changed=self.changed,
        )
        model = patchable(stock, kv=self.kv, post_norm=self.post_norm)  # type: ignore[arg-type]  # words of each
        return make_setting(
            stock, model, self.padding, list(self.lengths), self.shared, self.number, self.post_norm
        )


def drawn(number: int) -> Drawn:
    """The model, the prompts and the question of a number. Families come round in turn, all else is random."""
    rng = np.random.default_rng(number)
    kind = models.KINDS[number % len(models.KINDS)]
    heads, kv_heads = HEADS[rng.integers(len(HEADS))]
    padding = str(rng.choice(["none", "left", "right"]))
    n_prompts = int(rng.integers(1, 5))
    lengths = rng.integers(1, 8, n_prompts)
    if padding == "none":
        lengths[:] = lengths[0]
    same = len(set(lengths.tolist())) == 1
    ablations = ["corrupted", "corrupted", "zero", "mean", *(["mean_positional"] if same else [])]
    question = Question(
        metric=str(rng.choice(["logit_diff", "prob_diff", "nll", "kl_divergence"])),
        ablation=str(rng.choice(ablations)),
        batch_size=int(rng.choice([1, 2, 100])),
        rule=str(rng.choice(["left", "right", "midpoint"])),
        seed=number,
    )
    changed: dict[str, Any] = {}
    if kind in WINDOWED:
        changed["sliding_window"] = int(rng.integers(1, 6))
    if "gpt" not in kind and kind not in ("opt", "phi", "cohere", "cohere_qk"):
        changed["rms_norm_eps"] = float(10.0 ** rng.integers(-8, -1))
    if kind == "granite":
        names = ("embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling")
        changed |= {name: float(rng.uniform(0.2, 2.0)) for name in names}
    layers = int(rng.integers(1, 4 if heads < 3 else 3 if heads < 4 else 2))
    d_head = int(rng.choice([4, 6, 8]))
    drawing = Drawn(
        number,
        kind,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        width=heads * d_head,
        scale=float(rng.uniform(0.5, 1.5)),
        kv=str(rng.choice(["query_head", "kv_head"])) if kind not in models.UNGROUPED else "query_head",
        padding=padding,
        lengths=tuple(lengths.tolist()),
        shared=int(rng.choice([0, 1, 1, 3])),
        question=question,
        changed=changed,
    )
    if kind in NORMED_AFTER:
        drawing = replace(drawing, post_norm=str(rng.choice(["own", "mixed", "mib"])))
    if kind in ROPES and rng.random() < 0.7:
        drawing.changed.update(ROPES[kind](rng, d_head))
    return drawing


def _longrope(rng: np.random.Generator, d_head: int) -> dict[str, Any]:
    """Other frequencies from a length on that lies among those of the prompts."""
    rotated = int(rng.choice([2, 4])) if d_head > 4 else 4
    limit = int(rng.integers(2, 8))
    factors = {name: rng.uniform(1.0, 5.0, rotated // 2).tolist() for name in ("short_factor", "long_factor")}
    rope = {"rope_type": "longrope", "rope_theta": 10.0, "partial_rotary_factor": rotated / d_head, **factors}
    return {"rope_parameters": rope, "original_max_position_embeddings": limit}


def _dynamic(rng: np.random.Generator, _: int) -> dict[str, Any]:
    """Other frequencies at every length beyond one."""
    rope = {"rope_type": "dynamic", "rope_theta": 10.0, "factor": float(rng.uniform(1.5, 5.0))}
    return {"rope_parameters": rope, "max_position_embeddings": int(rng.integers(2, 8))}


# Rotary embeddings that change with the length of a prompt, in the kinds whose oracle knows them.
ROPES: dict[str, Callable[[np.random.Generator, int], dict[str, Any]]] = {
    "phi3": _longrope,
    "llama": _dynamic,
}


def differences(drawing: Drawn) -> dict[str, float]:
    """How far everything is from the oracles, by method."""
    with float64_throughout():
        return dict(Agreement(drawing.setting(), drawing.question).differences())


def main(first: int, count: int = 1) -> int:
    """Says what each number is and differs by; how many differ by more than is allowed."""
    wrong, largest = 0, (0.0, "", -1)
    for number in range(first, first + count):
        drawing = drawn(number)
        try:
            found = differences(drawing)
        except Exception as error:  # noqa: BLE001 - the others are tried too
            found = {f"{type(error).__name__}: {error}": float("inf")}
        name, error = max(found.items(), key=lambda item: item[1])
        largest = max(largest, (error, name, number))
        wrong += error > ALLOWED
        print(f"{error:.1e} {name} {drawing}", flush=True)
    print(f"{count} models, {wrong} wrong; the largest difference: {largest}")
    return wrong


if __name__ == "__main__":
    sys.exit(min(1, main(*map(int, sys.argv[1:]))))
