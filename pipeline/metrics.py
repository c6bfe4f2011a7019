"""What is measured at the answer position, one number per prompt. Add a metric: one function and one row.

Knows answers and logits. Does not know models, patching or files; loads without torch (tensor methods only).

Every function gets an `Answers` view (`pipeline.engine.readout`) of one or more variants of a batch of
prompts and returns float64 of shape [..., prompt]. The view computes what is asked for and no more:
`logit_diff` needs a few rows of the unembedding, `kl_divergence` the whole vocabulary.

Of answers of several tokens (`target: sequence`) the view gives the log probability of all of an answer's tokens, each
given those before it, for its logit and for its log probability.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core import plugins
from pipeline.core.documents import suggest
from pipeline.core.errors import ConfigError
from pipeline.core.spelling import spelt

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engine.readout import Answers


def logit_diff(view: "Answers") -> "Tensor":
    """mean logit(answers) - mean logit(wrong answers)."""
    return view.right_logits.mean() - view.wrong_logits.mean()


def prob_diff(view: "Answers") -> "Tensor":
    """sum p(answers) - sum p(wrong answers)."""
    return view.right_log_probs.exp().sum() - view.wrong_log_probs.exp().sum()


def prob(view: "Answers") -> "Tensor":
    """sum p(answers): the probability mass on a set of answers."""
    return view.right_log_probs.exp().sum()


def kl_divergence(view: "Answers") -> "Tensor":
    """KL(clean || patched) in nats, summed over the vocabulary (MIB's is this divided by its size)."""
    return view.kl_from_reference()


def nll(view: "Answers") -> "Tensor":
    """-log sum p(answers), in nats."""
    return -view.right_log_probs.logsumexp()


def accuracy(view: "Answers") -> "Tensor":
    """1 if max logit(answers) > max logit(wrong answers); without wrong answers, if the argmax is an answer."""
    if view.has_wrong.all():  # the whole vocabulary is computed only where a prompt needs it
        return (view.right_logits.max() > view.wrong_logits.max()).double()
    said = view.is_said()  # first: all of the vocabulary is there then
    return (view.right_logits.max() > view.wrong_logits.max()).where(view.has_wrong, said).double()


@dataclass(frozen=True)
class Metric:
    """A metric's function, its direction, and what it needs."""

    name: str
    compute: "Callable[[Answers], Tensor]"
    higher_is_better: bool
    needs_wrong: bool = False
    needs_reference: bool = False  # compares with the clean run, where it is 0 with zero gradient
    has_gradient: bool = True

    @property
    def sign(self) -> int:
        """Turns metric(ablated) - metric(clean) into how much worse it got."""
        return -1 if self.higher_is_better else 1


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("logit_diff", logit_diff, higher_is_better=True, needs_wrong=True),
        Metric("prob_diff", prob_diff, higher_is_better=True, needs_wrong=True),
        Metric("prob", prob, higher_is_better=True),
        Metric("kl_divergence", kl_divergence, higher_is_better=False, needs_reference=True),
        Metric("nll", nll, higher_is_better=False),
        Metric("accuracy", accuracy, higher_is_better=True, has_gradient=False),
    )
}


def get_metric(name: str) -> Metric:
    """The metric of that name, of this table or of an installed package; ConfigError with the known names otherwise."""
    found = METRICS.get(spelt(name, METRICS)) or plugins.load_a(Metric, plugins.METRICS, name)
    if found is None:
        known = (*METRICS, *plugins.installed(plugins.METRICS))
        raise ConfigError(f"unknown metric {name!r}{suggest(name, known)}")
    return found
