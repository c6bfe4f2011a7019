"""Folders that are no whole model are refused in one line; nothing is filled in."""

import json

import pytest
from safetensors.torch import load_file, save_file

from pipeline import load_model
from pipeline.core.errors import ModelError
from tests.oracles import models


@pytest.fixture
def folder(tmp_path):
    models.save(models.build("llama"), tmp_path / "model")
    return tmp_path / "model"


def refused(folder) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.1.self_attn.k_proj.weight"])
def test_weights_that_are_missing_are_not_drawn_at_random(folder, name):
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    said = refused(folder)
    assert "lacks 1 of its weights" in said
    assert name in said


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    assert "does not load" in refused(folder)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"hidden_size": 4})])
def test_a_config_that_is_none(folder, text):
    (folder / "config.json").write_text(text)
    said = refused(folder)
    assert "config.json does not load" in said
    assert "no such folder" not in said


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_tokenizer_that_is_none(folder, text):
    (folder / "tokenizer.json").write_text(text)
    assert "its tokenizer does not load" in refused(folder)
