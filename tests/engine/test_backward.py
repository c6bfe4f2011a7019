"""Scores from gradients that are blind to something are those of plain autograd through a network detached there."""

import numpy as np
import pytest

from pipeline.core.errors import ModelError
from pipeline.engine.attribution import edge_scores, gradients
from pipeline.engine.backward import BackwardRules
from pipeline.engine.senders import SenderValues
from pipeline.metrics import get_metric
from tests.exactness import relative_error
from tests.oracles import attribution, models
from tests.oracles.frozen import frozen

RULES = {
    "norm": BackwardRules(norm="frozen"),
    "attention": BackwardRules(attention="frozen"),
    "activation": BackwardRules(activation="frozen"),
    "gate": BackwardRules(gate="frozen"),
    "half": BackwardRules(gate="half"),
    "relp": BackwardRules(norm="frozen", activation="frozen", gate="half"),
}
JOINT = ("olmo2", "cohere_qk")  # norms over several heads
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")
CASES = [
    (kind, name)
    for kind in models.KINDS
    for name, rules in RULES.items()
    if not (kind in JOINT and rules.norm == "frozen") and not (kind in MIXTURES and rules.gate == "half")
]


def scores_of(setting, rules):
    model, batch = setting.model, setting.batch
    objective = model.objective(get_metric("logit_diff"), batch)
    corrupted = SenderValues.of(model.capture(batch, "corrupted"))
    found, clean = gradients(model, batch, objective, rules=rules)
    deltas = corrupted.minus(clean, batch.real)
    (scores,) = edge_scores(model.parts, model.graph, deltas, clean, [found])
    return scores * objective.sign, found.values


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_scores_are_those_of_a_network_that_is_detached_there(setting_of, kind, name):
    setting = setting_of(kind, padding="left")
    rules, p = RULES[name], setting.prompts
    scores, values = scores_of(setting, rules)
    rest = {part: getattr(rules, part) == "frozen" for part in ("norm", "attention", "activation")}
    with frozen(setting.dense, gate=rules.gate, **rest):
        expected = attribution.eap(
            setting.dense,
            p.clean,
            p.mask,
            setting.corrupted.outputs,
            lambda logits: setting.harm("logit_diff", logits),
        )
    assert relative_error(scores.numpy(), expected) <= 1e-9
    assert relative_error(values, setting.values("logit_diff", setting.clean.logits)) <= 1e-10


def test_rules_leave_nothing_behind_and_change_something(setting_of):
    setting = setting_of("llama", padding="left")
    before, _ = scores_of(setting, BackwardRules())
    for rules in RULES.values():
        blind, _ = scores_of(setting, rules)
        assert relative_error(blind, before) > 1e-3
    np.testing.assert_array_equal(scores_of(setting, BackwardRules())[0].numpy(), before.numpy())
    assert not any(
        module._forward_pre_hooks or module._forward_hooks for module in setting.model.hf.modules()
    )


def test_a_rule_without_a_place_in_the_model_is_refused(setting_of):
    with pytest.raises(ModelError, match="norm: frozen needs norms over one head or the whole stream"):
        scores_of(setting_of("olmo2"), RULES["norm"])
    with pytest.raises(ModelError, match="gate: half has no place in a mixture of experts"):
        scores_of(setting_of("mixtral"), RULES["half"])
