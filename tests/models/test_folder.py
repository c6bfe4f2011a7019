"""Model folders that are none are refused in one line while a run is planned, before any memory is taken."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from pipeline import load_model
from pipeline.config import RunConfig
from pipeline.core.errors import ModelError, PromptError
from pipeline.core.prompts import PromptPair
from pipeline.models import folder_trial as trial
from pipeline.models.load import resolve_model
from pipeline.models.tokens import tokenise
from pipeline.models.toy import toy_path
from pipeline.schedule import make_plan
from tests.oracles import models
from tests.tokenizers import tokenizer

PAIR = {"clean": [1, 2, 3], "corrupted": [1, 2, 4], "answers": [2], "wrong_answers": [3]}
TEXTS = {"clean": "a b", "corrupted": "b b", "answers": [" a"], "wrong_answers": [" b"]}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of each of two families."""
    root = tmp_path_factory.mktemp("saved")
    models.save(models.build("llama"), root / "llama")
    shutil.copytree(toy_path("toy:planted"), root / "gpt2")
    return root


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of the named one, with changes of its config.json."""

    def copied(family="gpt2", **changes):
        shutil.copytree(saved / family, tmp_path / "model", dirs_exist_ok=True)
        config = json.loads((tmp_path / "model" / "config.json").read_text()) | changes
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
        return tmp_path / "model"

    return copied


def planned(folder, pair=PAIR):
    path = folder.parent / "pairs.jsonl"
    path.write_text(json.dumps(pair))
    tasks = [{"name": "file", "path": str(path)}]
    config = {"name": "t", "model": {"name": str(folder)}, "tasks": tasks, "methods": [{"name": "eap"}]}
    return make_plan(RunConfig.from_mapping(config))


def refused(folder, pair=PAIR) -> str:
    with pytest.raises((ModelError, PromptError)) as caught:
        planned(folder, pair)
    assert "\n" not in str(caught.value)
    return str(caught.value)


CONFIGS = {
    "no width": ("gpt2", {"n_embd": 0}, "hidden_size is 0, and must be 1 or more"),
    "less than nothing": ("gpt2", {"n_embd": -64}, "hidden_size is -64"),
    "a width that is a word": ("gpt2", {"n_embd": "many"}, "config.json does not load"),
    "a width that heads do not share": ("gpt2", {"n_embd": 65}, "does not load: `embed_dim` must be"),
    "no layers": ("gpt2", {"n_layer": 0}, "num_hidden_layers is 0"),
    "layers without weights": ("gpt2", {"n_layer": 5000}, "5,000 layers and there are 41 weights"),
    "no heads for keys": ("llama", {"num_key_value_heads": 0}, "num_key_value_heads is 0"),
    "heads of nothing": ("llama", {"head_dim": 0}, "head_dim is 0"),
    "no words": ("gpt2", {"vocab_size": 0}, "vocab_size is 0"),
    "fewer words": ("gpt2", {"vocab_size": 5}, "lm_head.weight, [26, 112] and not [5, 112]"),
    "more words": (
        "llama",
        {"vocab_size": 10**12},
        "[23, 16] and not [1000000000000, 16]; give the config.json",
    ),
    "no places": ("gpt2", {"n_positions": 0}, "max_position_embeddings is 0"),
    "another MLP": ("llama", {"intermediate_size": 40}, "have another shape than its config.json says"),
    "more layers": ("llama", {"num_hidden_layers": 3}, "lacks 9 of its weights, such as model.layers.2."),
    "no such activation": ("gpt2", {"activation_function": "nope"}, "does not load: 'nope'"),
    "a number as text model": ("llama", {"text_config": 5}, "has a text_config, which a llama has not"),
    "a text model of another kind": ("gpt2", {"text_config": {"model_type": "llama"}}, "has a text_config"),
    "8 bits": (
        "gpt2",
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        "is quantised (bitsandbytes in its config.json), and scores are of plain weights; give the model that",
    ),
    "4 bits": ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised (gptq in"),
    "nonsense of bits": ("gpt2", {"quantization_config": 7}, "config.json does not load"),
}


@pytest.mark.parametrize("case", CONFIGS)
def test_a_config_that_is_not_that_of_the_weights(folder, case):
    family, changes, says = CONFIGS[case]
    assert says in refused(folder(family, **changes))


def test_weights_without_quantisation_are_read_whatever_they_once_were(folder):
    """A folder that was saved from dequantised weights says nothing of it, or null."""
    assert planned(folder(quantization_config=None, text_config=None))


@pytest.mark.parametrize("weights", [{}, {"model.norm.weight": torch.ones(4096)}], ids=["none", "one"])
def test_a_config_alone_takes_no_memory(tmp_path, weights):
    """Seven billion parameters by transformers' defaults, as they would be drawn at random."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    if weights:
        save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    assert ("lacks" if weights else "does not load") in refused(tmp_path / "model")
    with pytest.raises(ModelError, match="lacks" if weights else "does not load"):
        load_model(str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (
            {"weight_map": {"a": "../model.safetensors"}},
            "names '../model.safetensors', which does not lie in",
        ),
        (
            {"weight_map": {"a": "sub/model.safetensors"}},
            "names 'sub/model.safetensors', which does not lie in",
        ),
        (
            {"weight_map": {"a": "/etc/passwd"}},
            "names '/etc/passwd', which does not lie in the folder itself; put",
        ),
        ({"weight_map": {"a": ".."}}, "names '..', which"),
        (
            {"weight_map": {"a": "model-2.safetensors"}},
            "names 'model-2.safetensors', which is not there; give all",
        ),
        ({"weight_map": {"a": 5}}, "names '5', which is not there"),
        ({"weight_map": [1]}, "is no index of weights; save the model again"),
        ([], "is no index of weights"),
        ("{", "is no index of weights"),
    ],
)
def test_an_index_that_names_what_is_no_file_of_the_folder(folder, index, says):
    path = folder()
    (path.parent / "model.safetensors").write_bytes(b"")
    (path / "model.safetensors.index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    assert says in refused(path)


def test_a_note_in_the_folder_makes_no_other_run_and_what_is_read_does(folder):
    path = folder()
    key, fingerprint = planned(path).run_key, resolve_model(str(path)).fingerprint
    for name in ("notes.txt", "README.md", "LICENSE.txt", "requirements.txt"):
        (path / name).write_text("mine")
    assert planned(path).run_key == key
    for name in ("merges.txt", "vocab.txt", "tokenizer.model"):
        (path / name).write_text("other words")
        assert resolve_model(str(path)).fingerprint != fingerprint
        (path / name).unlink()


# --- tokenizers ------------------------------------------------------------------------------------------

WORDS = {"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[unk]": 2}, "unk_token": "[unk]"}}
SPACES = {"pre_tokenizer": {"type": "WhitespaceSplit"}}
DOUBLED = {"type": "Replace", "pattern": {"String": "e"}, "content": "ee"}
TOKENIZERS = {
    "it gives up while it is loaded": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        "its tokenizer does not load (tokenizer.json breaks the library that reads it: ",
    ),
    "it gives up while it reads": (
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        "breaks the library that reads it: chunk size must be non-zero); save the tokenizer again",
    ),
    "it is of another version": ({"model": {"type": "None"}}, "its tokenizer does not load"),
    "it has no token for the unknown": (
        {"model": {"type": "WordLevel", "vocab": {"b": 1}, "unk_token": "[unk]"}},
        "pairs.jsonl:1: the tokenizer cannot read 'a b' (WordLevel error: Missing [UNK] token",
    ),
}


def with_tokenizer(folder, **parts):
    """The folder with a tokenizer.json of words, of which parts are others."""
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (folder / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": [], "post_processor": None, **WORDS, **SPACES, **parts})
    )
    return folder


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_tokenizer_that_breaks(folder, case, capfd):
    parts, says = TOKENIZERS[case]
    assert says in refused(with_tokenizer(folder(), **parts), TEXTS)
    assert "panicked" not in "".join(capfd.readouterr())


def test_a_tokenizer_that_never_ends(folder, monkeypatch):
    """A text with a letter doubled sixty times."""
    monkeypatch.setattr(trial, "CPU_SECONDS", 1)
    monkeypatch.setattr(trial, "GIB", 1)
    path = with_tokenizer(folder(), normalizer={"type": "Sequence", "normalizers": [DOUBLED] * 60})
    assert "its tokenizer does not end: one line of text takes over 1 s or 1 GiB; look for" in refused(path)


def test_a_tokenizer_that_works_is_tried_once(folder, monkeypatch):
    path = with_tokenizer(folder())
    assert planned(path, TEXTS)
    monkeypatch.setattr(trial, "check_weights", lambda _: pytest.fail("tried again"))
    assert planned(path, TEXTS)


def test_a_tokenizer_that_breaks_in_a_notebook_is_one_line_too():
    from tokenizers import pre_tokenizers

    made = tokenizer("words")
    good = made.backend_tokenizer.pre_tokenizer
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.FixedLength(length=0)
    try:
        with pytest.raises(PromptError, match=r"^f:1: the tokenizer cannot read 'Mary went' \(chunk size"):
            tokenise([PromptPair("Mary went", "Mary went", (1,), source="f:1")], made)
    finally:
        made.backend_tokenizer.pre_tokenizer = good
