"""Models seen twice, by the product and by the oracles; and circuits as one forward per edge finds them."""

import pytest

from tests.exactness import setting_of, settings
from tests.oracles.acdc import naive_acdc

__all__ = ["naive", "setting_of", "settings"]


@pytest.fixture(scope="module")
def naive():
    """(kept, harm) of a setting by the oracle, harm averaged over prompts, or those `drawn`. Each circuit is run once,
    for it is slow."""
    known = {}

    def decide(
        setting, metric, threshold, rule="signed", ablation="corrupted", order=None, drawn=slice(None)
    ):
        ablated, p = setting.ablated(ablation), setting.prompts
        runs = known.setdefault((id(setting), metric, ablation), {})  # settings live as long as the session

        def harm(kept):
            key = kept.tobytes()
            if key not in runs:
                logits = setting.dense.forward(p.clean, p.mask, kept, ablated).logits
                runs[key] = setting.harm(metric, logits)
            return float(runs[key][drawn].mean())

        return naive_acdc(harm, setting.graph, threshold, rule, order)

    return decide
