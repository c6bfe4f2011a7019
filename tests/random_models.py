"""Random models, each drawn from one number, and how far the product is from the oracles on them.

    python -m tests.random_models FIRST [COUNT]     draws those numbers again, and says what each is and differs by

Knows what may be drawn. What is compared is in `tests.agreement`.
"""

import sys
from dataclasses import dataclass, field
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
        model = patchable(stock, kv=self.kv)  # type: ignore[arg-type]  # one of both
        return make_setting(stock, model, self.padding, list(self.lengths), self.shared, self.number)


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
    return Drawn(
        number,
        kind,
        layers=int(rng.integers(1, 4 if heads < 3 else 3 if heads < 4 else 2)),
        heads=heads,
        kv_heads=kv_heads,
        width=heads * int(rng.choice([4, 6, 8])),
        scale=float(rng.uniform(0.5, 1.5)),
        kv=str(rng.choice(["query_head", "kv_head"])) if kind not in models.UNGROUPED else "query_head",
        padding=padding,
        lengths=tuple(lengths.tolist()),
        shared=int(rng.choice([0, 1, 1, 3])),
        question=question,
        changed=changed,
    )


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
