"""The metrics by hand, prompt by prompt, on the logits at the answer position. An oracle: no batching."""

import torch
from torch import Tensor

HIGHER_IS_BETTER = {
    "logit_diff": True,
    "prob_diff": True,
    "kl_divergence": False,
    "nll": False,
    "accuracy": True,
}


def at_answers(logits: Tensor, answer_pos: list[int]) -> Tensor:
    """Rows [b, V] of logits [b, T, V]."""
    return torch.stack([logits[i, p] for i, p in enumerate(answer_pos)])


def metric_values(
    name: str,
    logits: Tensor,
    answers: list[list[int]],
    wrong: list[list[int]] | None = None,
    reference: Tensor | None = None,
) -> Tensor:
    """One value per prompt, in the precision of the logits; -1 in answers means nothing (padding)."""
    values = []
    for i, row in enumerate(logits):
        right = [a for a in answers[i] if a >= 0]
        bad = [a for a in wrong[i] if a >= 0] if wrong is not None else []
        p = row.exp() / row.exp().sum()
        if name == "logit_diff":
            value = sum(row[a] for a in right) / len(right) - sum(row[a] for a in bad) / len(bad)
        elif name == "prob_diff":
            value = sum(p[a] for a in right) - sum(p[a] for a in bad)
        elif name == "nll":
            value = -torch.log(sum(p[a] for a in right))
        elif name == "kl_divergence":
            clean = reference[i].exp() / reference[i].exp().sum()
            value = (clean * (clean.log() - p.log())).sum()
        elif name == "accuracy":
            best = max(float(row[a]) for a in right)
            rivals = bad or [a for a in range(len(row)) if a not in right]
            value = torch.tensor(float(best > max(float(row[a]) for a in rivals)), dtype=row.dtype)
        else:
            raise ValueError(name)
        values.append(value)
    return torch.stack(values)


def harm(name: str, values: Tensor) -> Tensor:
    """The same values, turned so that more is worse."""
    return -values if HIGHER_IS_BETTER[name] else values
