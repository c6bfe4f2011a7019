"""SmolLM2-135M-Instruct: its folder is always the same bytes, and it does what the literature's models do."""

import hashlib

import numpy as np
import pytest

from flows import kinds_table
from flows.methods_table import known
from pipeline import Circuit, evaluate
from pipeline.engine.looking import looked
from pipeline.methods import Eap
from pipeline.models.load import load_tokenizer, resolve_model
from pipeline.report.heads import main_heads
from pipeline.tasks import GreaterThan, Ioi

pytestmark = pytest.mark.real

# Of the float32 weights that the 4-bit file stands for: every conversion gives these bytes.
WEIGHTS_SHA256 = "a672150fb4f99d7c8f4168cecdd464069c0ef3a37d8113f22ddb9d48031d03cd"


def test_the_weights_are_the_same_bytes_whoever_has_converted_them(real_folder):
    with (real_folder / "model.safetensors").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == WEIGHTS_SHA256


def test_the_folder_says_that_the_weights_are_those_of_a_four_bit_file(real_folder):
    assert "4 bits a weight" in str(resolve_model(str(real_folder)).note)


def test_the_graph_is_that_of_thirty_layers_of_nine_heads(real_model):
    assert (real_model.graph.n_layers, real_model.graph.n_heads) == (30, 9)
    assert real_model.graph.n_edges == 123_211


def test_numbers_are_written_digit_by_digit_and_texts_come_back(real_model):
    tokenizer = real_model.tokenizer
    assert tokenizer.tokenize("In 1732, two") == ["In", "Ġ", "1", "7", "3", "2", ",", "Ġtwo"]
    for text in ("Zoë said: «42 €»", "def f(x):\n\treturn x"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("task", [Ioi(count=32), GreaterThan(count=32)])
def test_the_model_has_the_behaviour(real_model, task):
    batch = real_model.batch(task.pairs(real_model.tokenizer, seed=0))
    whole = Circuit(real_model.graph, np.ones(real_model.graph.n_edges, dtype=bool))
    hidden = real_model.answer_hidden(batch, "clean")
    best = real_model.unembedding.logits(hidden).argmax(-1)
    assert float((best[:, None] == batch.answers).any(-1).double().mean()) >= 0.9
    if task.name == "ioi":
        few = real_model.batch(task.pairs(real_model.tokenizer, seed=0)[:2])
        assert evaluate(whole, real_model, [few]).faithfulness.item() == pytest.approx(1.0)


def test_among_the_heads_that_matter_most_for_ioi_is_one_that_looks_at_the_indirect_object(real_model):
    batch = real_model.batch(Ioi(count=4).pairs(real_model.tokenizer, seed=0))
    scores = Eap().score(real_model, [batch], metric="logit_diff")
    circuit = Circuit.from_scores(scores, top=300)
    heads = main_heads(circuit, np.asarray(scores.score, dtype=float), 5)
    looks = looked(real_model, [batch], heads, Ioi.ways[:1])
    assert looks.max() > 0.4


def test_the_files_of_mixed_prompts_are_those_that_the_command_writes(real_folder):
    config = kinds_table.config_of(known(), "results")
    tokenizer = load_tokenizer(resolve_model(str(real_folder)))
    for file, names in kinds_table.FILES.items():
        lines = kinds_table.lines_of(config, names, tokenizer)
        assert lines == kinds_table.TABLE.with_name(file).read_text().splitlines()
