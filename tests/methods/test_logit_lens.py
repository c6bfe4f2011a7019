"""A reading is the metric of what a layer's residual stream says, as the stock model's own modules decode it."""

import numpy as np
import pytest
import torch

from pipeline import RunConfig, discover, load_model, open_run
from pipeline.core.errors import ConfigError
from pipeline.methods import LogitLens
from pipeline.tasks import Induction
from tests.runs import toy_mapping


@pytest.fixture(scope="module")
def model():
    return load_model("toy:trained", dtype="float64")


@pytest.fixture(scope="module")
def batch(model):
    return model.batch(Induction(count=5).pairs(model.tokenizer, seed=0))


def decoded(model, batch):
    """[layer, prompt, pos, vocab] of the stock model's hidden states."""
    with torch.no_grad():
        out = model.hf(input_ids=batch.clean, attention_mask=batch.real.long(), output_hidden_states=True)
        states = [*out.hidden_states[:-1]]
        lens = [model.hf.lm_head(model.hf.transformer.ln_f(state)) for state in states]
    return torch.stack([*lens, out.logits])


def test_every_layer_and_position_is_read_as_the_stock_model_decodes_it(model, batch):
    rows = LogitLens().score(model, [batch], metric="logit_diff")
    frame = rows.to_frame().set_index(["layer", "span"])
    logits = decoded(model, batch)
    prompts = torch.arange(batch.n_prompts)
    for (layer, span), row in frame.iterrows():
        column = batch.answer_pos + 1 + int(span)
        here = logits[layer, prompts, column]
        expected = (here.gather(1, batch.answers) - here.gather(1, batch.wrong_answers)).squeeze(1)
        assert row["reading"] == pytest.approx(float(expected.mean()), abs=1e-10)
        assert row["n_prompts"] == batch.n_prompts
    assert len(frame) == (model.graph.n_layers + 1) * batch.length


def test_a_run_of_the_lens_is_planned_read_verified_and_shown(tmp_path):
    mapping = toy_mapping(
        tmp_path, methods=["logit_lens", {"name": "knockout", "from": ["a", "b"], "as": "cut"}]
    )
    run = discover(RunConfig.from_mapping(mapping), local=True, quiet=True)
    assert run.is_complete
    frame = open_run(run.path).scores(method="logit_lens")
    last = frame[(frame["layer"] == 3) & (frame["span"] == "-1")]
    baseline = run.baseline("induction")
    expected = baseline[baseline["metric"] == "logit_diff"]["clean"].mean()
    assert float(last["reading"].iloc[0]) == pytest.approx(expected, rel=1e-5)
    assert (run.path / "merged_readings").is_dir()
    page = (run.path / "report.html").read_text()
    assert "Largest by layer, span" in page
    cut = (
        run.scores(method="knockout-_a____b_")
        if "knockout-_a____b_" in run.methods
        else run.scores(method=run.methods[1])
    )
    strongest = cut.loc[cut["score"].abs().idxmax()]
    assert (strongest["layer"], strongest["span"]) in {(1, "b"), (2, "b")}, "where the induction heads copy"


def test_all_positions_at_once_cannot_be_read(model, batch):
    with pytest.raises(ConfigError, match="one position at a time"):
        LogitLens(positions="all").score(model, [batch])
    assert np.isfinite(LogitLens(positions="b").score(model, [batch]).value).all()
