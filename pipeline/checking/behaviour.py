"""Whether a model answers as its prompts expect: how often, how clearly, and what the corruption takes away.

Knows models and metrics. Does not know configs, tasks or what is concluded.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pipeline.core.intervals import wilson_95
from pipeline.core.prompts import TokenPair, bucket_by_length
from pipeline.metrics import get_metric

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engine.batch import Attention, Batch
    from pipeline.engine.patchable import PatchableModel

INSTEAD = 3  # tokens that are named where the model says something else


class Behaviour:
    """What a model does on the prompts of one task, batch after batch."""

    def __init__(self, model: "PatchableModel", metrics: Sequence[str], attention: "Attention") -> None:
        self._model = model
        self._metrics = metrics
        self._attention = attention
        self._values: dict[tuple[str, str], list[float]] = {}
        self._right: dict[int, bool] = {}  # by prompt: the answer above every wrong answer
        self._greedy: dict[int, bool] = {}  # the answer above every other token
        # of the corrupted prompt: the clean answer still above every other token
        self._still: dict[int, bool] = {}
        self._turned: dict[int, bool] = {}  # of the corrupted prompt: its own answer above the clean one's
        self._instead = Counter[int]()

    def take(self, tokens: Sequence[TokenPair], batch_size: int) -> None:
        """Runs these prompts, clean and corrupted, in batches of similar length."""
        for chosen in bucket_by_length(tokens, batch_size):
            self._take(chosen, self._model.batch(chosen, attention=self._attention))

    @torch.no_grad()
    def _take(self, tokens: Sequence[TokenPair], batch: "Batch") -> None:
        model = self._model
        hidden = {which: model.answer_hidden(batch, which) for which in ("clean", "corrupted")}
        for name in self._metrics:
            objective = model.objective(get_metric(name), batch, hidden["clean"])
            for which, state in hidden.items():
                self._values.setdefault((name, which), []).extend(objective(state).cpu().tolist())
        if batch.answer_tokens is not None:
            self._take_sequences(tokens, batch, hidden)
            return
        logits = {which: model.unembedding.logits(state).double().cpu() for which, state in hidden.items()}
        answers, wrong = batch.answers.cpu(), batch.wrong_answers.cpu()
        for row, prompt in enumerate(batch.prompt_ids):
            right, others = answers[row][answers[row] >= 0], wrong[row][wrong[row] >= 0]
            best, then = (int(logits[which][row].argmax()) for which in ("clean", "corrupted"))
            self._greedy[prompt], self._still[prompt] = (first in right.tolist() for first in (best, then))
            self._instead.update([] if self._greedy[prompt] else [best])
            if len(others):
                values = logits["clean"][row]
                self._right[prompt] = bool(values[right].max() > values[others].max())
            if turned := list(tokens[row].corrupted_answers):
                values = logits["corrupted"][row]
                self._turned[prompt] = bool(values[turned].max() > values[right].max())

    def _take_sequences(
        self, tokens: Sequence[TokenPair], batch: "Batch", hidden: "dict[str, Tensor]"
    ) -> None:
        """The same where answers have several tokens: each of them above every other; more likely as a whole."""
        objective = self._model.objective(get_metric("accuracy"), batch)
        views = {which: objective.view(state[None]) for which, state in hidden.items()}
        said = {which: view.is_said()[0].tolist() for which, view in views.items()}
        likely = {
            which: (view.right_logits.max() > view.wrong_logits.max())[0].tolist()
            for which, view in views.items()
        }
        compared = views["clean"].has_wrong.tolist()
        for row, prompt in enumerate(batch.prompt_ids):
            self._greedy[prompt], self._still[prompt] = said["clean"][row], said["corrupted"][row]
            if compared[row]:
                self._right[prompt] = likely["clean"][row]
            if tokens[row].corrupted_answers:
                self._turned[prompt] = not likely["corrupted"][row]

    def facts(self) -> dict[str, Any]:
        """In plain data: accuracy and greedy accuracy with Wilson's 95 % interval, mean and spread of each metric, the
        share of corrupted prompts of which the clean answer is still said first, and what comes first instead of it.
        Where corrupted prompts have answers of their own, `corrupted_accuracy` is how often those are above the clean
        ones."""
        return {
            **_share("accuracy", self._right),
            **_share("greedy", self._greedy),
            **(_share("corrupted_accuracy", self._turned) if self._turned else {}),
            "still_right": float(np.mean([*self._still.values()])) if self._still else None,
            "metrics": {
                name: {which: _spread(self._values[name, which]) for which in ("clean", "corrupted")}
                for name in self._metrics
                if (name, "clean") in self._values
            },
            "instead": [{"token": token, "prompts": n} for token, n in self._instead.most_common(INSTEAD)],
        }


def _spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values))}


def _share(name: str, found: dict[int, bool]) -> dict[str, float | None]:
    """A share with its interval, all null where no prompt has a say."""
    if not found:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    right, n = sum(found.values()), len(found)
    low, high = wilson_95(right, n)
    return {name: right / n, f"{name}_low": low, f"{name}_high": high}
