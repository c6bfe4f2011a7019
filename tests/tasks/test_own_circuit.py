"""A circuit beside the prompts: of the model whose folder it is, or of the one that it names."""

import json

import pytest

from pipeline.core.errors import PromptError
from pipeline.core.graph import Graph
from pipeline.tasks import FileTask

GRAPH = Graph(2, 2, 2)
EDGES = ["input->a0.h1<v>", "a0.h1->logits"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def truth(folder, said, model=None, graph=GRAPH):
    text = said if isinstance(said, str) else json.dumps(said)
    (folder / "circuit.json").write_text(text)
    return FileTask(name="file", path=str(folder / "prompts.jsonl")).truth(graph, model or str(folder))


def test_without_a_file_there_is_none(folder):
    assert FileTask(name="file", path=str(folder / "prompts.jsonl")).truth(GRAPH, str(folder)) is None


@pytest.mark.parametrize(
    "said",
    [
        {"edges": EDGES},
        {"effective_edges": {EDGES[0]: ["tokens:a"], EDGES[1]: []}},
        {"edges": {EDGES[0]: {"in_graph": True}, EDGES[1]: {"score": 1}, "input->m0": {"in_graph": False}}},
    ],
    ids=["list", "tracr", "mib"],
)
def test_a_circuit_in_the_models_own_folder_is_that_models(folder, said):
    assert truth(folder, said) == tuple(EDGES)


def test_nodes_do_where_no_edges_are_known(folder):
    assert truth(folder, {"nodes": ["a0.h1", "m1"]}) == ("a0.h1", "m1")


def test_elsewhere_it_is_that_of_the_model_that_it_names(folder, tmp_path):
    (tmp_path / "other").mkdir()
    assert truth(folder, {"edges": EDGES}, "gpt2") is None
    assert truth(folder, {"edges": EDGES}, str(tmp_path / "other")) is None
    assert truth(folder, {"model": "gpt2", "edges": EDGES}, "gpt2") == tuple(EDGES)
    assert truth(folder, {"model": "other", "edges": EDGES}, str(tmp_path / "other")) == tuple(EDGES)
    assert truth(folder, {"model": "gpt2", "edges": EDGES}) is None, "of another, though it lies here"


@pytest.mark.parametrize("said", ["{", "[]", "{}", '{"edges": [1]}', '{"edges": 3}', '{"edges": {"a": NaN}}'])
def test_a_file_that_says_no_circuit_is_something_else(folder, said):
    assert truth(folder, said) is None


def test_an_edge_that_the_graph_lacks_is_named_with_the_nearest(folder):
    with pytest.raises(
        PromptError, match=r"circuit.json: 'a0.h1->logit' is no edge .* did you mean a0.h1->logits"
    ):
        truth(folder, {"edges": ["a0.h1->logit"]})


@pytest.mark.parametrize("name", ["reverse", "xproportion", "hist", "prevtoken"])
def test_compiled_models_have_theirs(shared_data, name):
    model = shared_data / "models" / f"tracr-{name}"
    said = json.loads((model / "circuit.json").read_text())
    layers = sum(node.startswith("m") for node in said["node_names"])
    heads = sum(node.startswith("a0.") for node in said["node_names"])
    task = FileTask(name="file", path=str(model / "prompts.jsonl"))
    assert task.truth(Graph(layers, heads, heads), str(model)) == tuple(said["effective_edges"])
