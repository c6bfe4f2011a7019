"""The names that people import, and that nothing else hides them."""

import importlib

import pytest

import pipeline

NAMES = (
    "RunConfig", "make_plan", "discover", "open_run", "load_scores", "load_model", "Graph", "EdgeScores",
    "Circuit", "PromptPair", "read_pairs", "evaluate",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_callable(name):
    assert callable(getattr(pipeline, name))


def test_exactly_the_documented_names_are_public():
    assert sorted(pipeline.__all__) == sorted(NAMES)
    assert set(NAMES) <= set(dir(pipeline))


def test_evaluate_stays_a_function_whichever_way_it_was_imported_first():
    importlib.import_module("pipeline.evaluation")
    from pipeline import evaluate
    from pipeline.evaluation import evaluate as same

    for function in (evaluate, same):
        with pytest.raises(TypeError, match="circuit"):
            function()


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="load_modle"):
        _ = pipeline.load_modle


def test_the_methods_have_their_public_names():
    from pipeline import methods

    for name in ("Eap", "EapIg", "Acdc", "EdgePatching", "NodePatching"):
        assert issubclass(getattr(methods, name), methods.Method)
