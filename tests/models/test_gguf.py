"""A model in a GGUF file: its numbers, the file's own tokenizer, its hash as the model's name."""

import json
import shutil

import numpy as np
import pytest
import torch

from pipeline import RunConfig, load_model, make_plan
from pipeline.core.errors import ModelError
from pipeline.models import gguf as files
from pipeline.models.load import resolve_model
from tests import gguf_files

FILE = "model.gguf"


@pytest.fixture(scope="module")
def stock():
    return gguf_files.stock()


@pytest.fixture(scope="module")
def folder(stock, tmp_path_factory):
    """The same model as plain numbers, and in 8 and 4 bits."""
    root = tmp_path_factory.mktemp("gguf")
    gguf_files.write(root / FILE, stock)
    gguf_files.write(root / "eight.gguf", stock, kind="Q8_0")
    gguf_files.write(root / "four.gguf", stock, kind="Q4_1")
    return root


def config_of(folder, file=FILE, **changes):
    mapping = {
        "name": "t",
        "model": {"name": str(folder), "gguf": file},
        "tasks": [{"name": "file", "path": str(folder / "pairs.jsonl")}],
        "methods": [{"name": "eap"}],
        "evaluate": {"edge_fractions": [0.5]},
        "output": str(folder / "results"),
    }
    pair = {"clean": "the store", "corrupted": "the ring", "answers": [" and"], "wrong_answers": [" gave"]}
    (folder / "pairs.jsonl").write_text(json.dumps(pair))
    return RunConfig.from_mapping(mapping | changes)


def refused(folder, file=FILE) -> str:
    with pytest.raises(ModelError) as caught:
        resolve_model(str(folder), gguf_file=file)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def test_plain_numbers_give_the_stock_models_logits(folder, stock):
    path, ids = folder / FILE, torch.tensor([[7, 30, 99, 8, 60]])
    loaded = files.read_weights(path, files.read_config(path))
    torch.testing.assert_close(logits(loaded, ids), logits(stock, ids), rtol=1e-5, atol=1e-5)
    assert getattr(loaded.config, "quantization_config", None) is None


@pytest.mark.parametrize(
    ("file", "step"),
    [
        ("eight.gguf", lambda blocks: 2 * blocks.abs().amax(1) / 254),
        ("four.gguf", lambda blocks: (blocks.amax(1) - blocks.amin(1)) / 15),
    ],
)
def test_dequantised_weights_are_within_half_a_step_of_those_that_were_quantised(folder, stock, file, step):
    weights = files.read_weights(folder / file, files.read_config(folder / file)).state_dict()
    for name, value in stock.state_dict().items():
        blocks, found = value.reshape(-1, 32), weights[name].reshape(-1, 32)
        rounding = 2e-3 * blocks.abs().amax(1)  # of the step itself, which is kept in 16 bits
        assert ((found - blocks).abs().amax(1) <= step(blocks) / 2 + rounding).all(), name


def test_the_tokenizer_is_that_of_the_file_whatever_lies_beside_it(folder, tmp_path):
    shutil.copy(folder / FILE, tmp_path / FILE)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text("{}")
    model = load_model(str(tmp_path), gguf=FILE)
    expected = gguf_files.tokenizer("byte")
    for text in ("Mary and John went to the store", "17 x"):
        assert model.tokenizer(text)["input_ids"] == expected(text)["input_ids"]


def test_a_run_is_known_by_the_hash_of_the_file_and_by_nothing_around_it(folder, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(folder / FILE, tmp_path / "other" / "renamed.gguf")
    (tmp_path / "other" / "tokenizer.json").write_text("{}")
    here, there = make_plan(config_of(folder)), make_plan(config_of(tmp_path / "other", "renamed.gguf"))
    assert here.run_key == there.run_key
    assert here.run_key != make_plan(config_of(folder, "eight.gguf")).run_key
    assert here.model.fingerprint == files.digest_of(folder / FILE)


def test_a_run_of_a_quantised_file_says_on_every_page_what_its_weights_are(folder, capsys):
    from flows import cli
    from pipeline import discover

    config = config_of(folder, "four.gguf")
    run = discover(config, local=True, quiet=True)
    note = "weights dequantised from four.gguf (tensors: 16 Q4_1, 5 F32)"
    assert run.manifest["model"]["note"] == note
    assert run.manifest["model"]["name"] == "four.gguf"
    assert note[1:] in (run.path / "report.html").read_text()
    (folder / "run.yaml").write_text(config.to_yaml())
    for command in (["show", str(run.path)], ["plan", str(folder / "run.yaml")]):
        capsys.readouterr()
        assert cli.main(command) == 0
        assert note in " ".join(capsys.readouterr().out.split())
    scores = run.scores(method="eap")
    assert np.isfinite(scores["score"]).all()


def test_a_model_without_a_file_has_no_trace_of_one_in_its_config(folder):
    plain = RunConfig.from_mapping(
        {"name": "t", "model": "toy:planted", "tasks": ["induction"], "methods": ["eap"]}
    )
    assert "gguf" not in plain.to_mapping()["model"]
    assert config_of(folder).to_mapping()["model"]["gguf"] == FILE
    assert RunConfig.from_mapping(config_of(folder).to_mapping()) == config_of(folder)


def test_a_file_that_changed_since_planning_is_refused_by_a_worker(folder):
    with pytest.raises(ModelError, match="is not the one that the run was planned with"):
        load_model(str(folder), gguf="eight.gguf", fingerprint=files.digest_of(folder / FILE))


# --- converting --------------------------------------------------------------------------------------------


def test_a_converted_folder_is_an_ordinary_model_that_says_what_its_weights_are(folder, tmp_path):
    assert files.main([str(folder / "four.gguf"), str(tmp_path / "model")]) == 0
    direct, converted = (
        load_model(str(folder), gguf="four.gguf"),
        load_model(str(tmp_path / "model")),
    )
    for name, value in direct.hf.state_dict().items():
        assert torch.equal(value, converted.hf.state_dict()[name]), name
    assert converted.tokenizer("Mary and")["input_ids"] == direct.tokenizer("Mary and")["input_ids"]
    note = resolve_model(str(tmp_path / "model")).note
    assert note == "weights dequantised from four.gguf (tensors: 16 Q4_1, 5 F32)"


def test_two_conversions_give_the_same_bytes(folder, tmp_path):
    for name in ("one", "two"):
        files.convert(folder / "four.gguf", tmp_path / name)
    one, two = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two")
    )
    assert one == two


@pytest.mark.parametrize("at", ["read_weights", "read_tokenizer"])
def test_a_conversion_that_is_killed_leaves_nothing_that_looks_finished(folder, tmp_path, monkeypatch, at):
    def killed(*_args, **_kwargs):
        (leftovers,) = tmp_path.iterdir()
        shutil.copytree(leftovers, tmp_path / f".model.making-{at}")  # as after a kill that nobody hears
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, at, killed)
        with pytest.raises(KeyboardInterrupt):
            files.convert(folder / FILE, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == [f".model.making-{at}"]
    files.convert(folder / FILE, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_is_there_is_not_written_over(folder, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    assert files.main([str(folder / FILE), str(tmp_path / "model")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert not list((tmp_path / "model").iterdir())


# --- refusals ----------------------------------------------------------------------------------------------


def test_what_is_no_file_in_a_folder_is_refused(folder, tmp_path):
    assert "did you mean 'model.gguf'" in refused(folder, "modl.gguf")
    assert "is no name of a .gguf file" in refused(folder, "../model.gguf")
    assert "is no name of a .gguf file" in refused(folder, "config.json")
    assert "is no folder" in refused(tmp_path / "nowhere")


def test_without_the_package_one_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda _name: None)
    assert refused(folder).endswith("is not installed; pip install gguf")


def test_a_torn_file_is_refused(folder, tmp_path):
    whole = (folder / FILE).read_bytes()
    for length in (0, 3, 40, 5000, len(whole) - 1000):
        (tmp_path / FILE).write_bytes(whole[:length])
        assert "it is no whole GGUF file" in refused(tmp_path)


def test_an_architecture_that_transformers_does_not_read_is_named(stock, tmp_path):
    gguf_files.write(tmp_path / FILE, stock, architecture="rwkv6")
    message = refused(tmp_path)
    assert "rwkv6" in message
    assert message.endswith("give the model's folder of safetensors instead")


def test_a_type_of_tensor_that_is_not_dequantised_is_named(stock, tmp_path):
    whole = gguf_files.gguf.GGMLQuantizationType.Q8_K
    blocks = np.zeros((1, 292), dtype=np.uint8)
    original = gguf_files._add

    def add(writer, name, value, kind):
        if name == "blk.1.ffn_up.weight":
            writer.add_tensor(name, blocks, raw_dtype=whole)
        else:
            original(writer, name, value, kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf_files, "_add", add)
        gguf_files.write(tmp_path / FILE, stock)
    assert "tensors of type Q8_K are not dequantised" in refused(tmp_path)


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"tensors": {"rope_freqs.weight": np.ones(8, np.float32)}}, "scaled rotary frequencies"),
        ({"fields": {"llama.rope.scaling.type": "yarn"}}, "rope scaling (yarn)"),
    ],
)
def test_what_transformers_would_leave_out_without_a_word_is_refused(stock, tmp_path, more, what):
    gguf_files.write(tmp_path / FILE, stock, **more)
    assert what in refused(tmp_path)


def test_a_file_that_lacks_a_weight_is_refused(stock, tmp_path):
    gguf_files.write(tmp_path / FILE, stock, without="blk.1.ffn_down.weight")
    with pytest.raises(ModelError, match=r"lacks 1 of its weights, such as model\.layers\.1\.mlp\.down_proj"):
        load_model(str(tmp_path), gguf=FILE)
