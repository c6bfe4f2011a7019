"""A model of random weights: the same for a seed, another than the trained one, in whatever it is measured."""

import pytest
import torch

from pipeline import discover, load_model
from pipeline.schedule import make_plan
from tests.runs import toy_config


def weights(**how):
    return [parameter.clone() for parameter in load_model("toy:trained", **how).hf.parameters()]


def test_a_seed_means_the_same_weights_in_every_dtype_and_another_seed_others():
    trained, one, again, other, double = (
        weights(),
        weights(untrained=3),
        weights(untrained=3),
        weights(untrained=4),
        weights(untrained=3, dtype="float64"),
    )
    assert all(map(torch.equal, one, again))
    assert all(torch.equal(a.double(), b) for a, b in zip(one, double, strict=True))
    large = [i for i, weight in enumerate(one) if weight.ndim == 2]
    assert not any(torch.equal(one[i], other[i]) or torch.equal(one[i], trained[i]) for i in large)
    spread = load_model("toy:trained").hf.config.initializer_range
    assert float(one[large[0]].std()) == pytest.approx(spread, rel=0.2)  # the embedding's


def test_drawing_them_leaves_the_generator_of_others_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    load_model("toy:trained", untrained=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_of_it_is_a_run_of_its_own_and_says_so(tmp_path):
    plain = toy_config(tmp_path)
    assert "untrained" not in plain.to_yaml()
    config = toy_config(tmp_path, model={"name": "toy:planted", "untrained": 0}, methods=["eap"])
    assert make_plan(config).run_key != make_plan(toy_config(tmp_path, methods=["eap"])).run_key
    run = discover(config, local=True, quiet=True)
    assert run.is_complete
    assert "drawn at random, by the seed 0" in (run.path / "report.html").read_text()
    row = run.baseline("induction").set_index("metric").loc["logit_diff"]
    assert row["clean"].mean() == pytest.approx(0, abs=1)  # a planted model has some ten
