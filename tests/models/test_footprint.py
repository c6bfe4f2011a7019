"""What plan says of a model's memory before any weight is read, against the model itself; nothing is allocated."""

import pytest
import torch
import transformers

from pipeline.core.graph import Graph
from pipeline.models import footprint
from pipeline.models.footprint import Footprint
from tests.oracles.models import CONFIGS, KINDS, Shape


@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_are_those_of_the_model_but_for_norms_and_biases(kind):
    name, arguments = CONFIGS[kind]
    given = arguments(Shape(layers=3, heads=32, kv_heads=8, width=256)) | {
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    config = getattr(transformers, name)(vocab_size=1000, tie_word_embeddings=False, **given)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    held = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert Footprint(config, Graph(3, 32, 8), "float32").weights() == pytest.approx(held, rel=0.05)


def test_what_is_multiplied_at_once_is_what_the_engine_multiplies():
    from pipeline.engine import attribution

    assert (attribution._CHUNK_BYTES, attribution._COLUMNS) == (footprint.CHUNK_BYTES, footprint.COLUMNS)
