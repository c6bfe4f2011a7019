"""What installed packages add: named in a config, loaded when named, and not needed to read results."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from pipeline import RunConfig, discover, load_scores, open_run
from pipeline.core import plugins
from pipeline.core.errors import ConfigError
from pipeline.store.run.run_dir import RunDirectory
from pipeline.verify import verify
from tests.runs import toy_mapping

TRIAL = Path(__file__).parents[1] / "fixtures" / "plugin"
ADDED = {
    plugins.METHODS: {
        "random_edges": "circuits_trial.random_edges:RandomEdges",
        "torn": "circuits_trial.torn:No",
    },
    plugins.METRICS: {
        "margin": "circuits_trial.margin:MARGIN",
        "no_metric": "circuits_trial.random_edges:RandomEdges",
    },
}


@pytest.fixture
def added(monkeypatch):
    """The packages that are installed while a test runs."""
    monkeypatch.syspath_prepend(str(TRIAL))
    points = {
        group: {name: EntryPoint(name, value, group) for name, value in names.items()}
        for group, names in ADDED.items()
    }
    monkeypatch.setattr(plugins, "installed", lambda group: points.get(group, {}))
    plugins.load.cache_clear()
    yield points
    plugins.load.cache_clear()
    for name in [name for name in sys.modules if name.startswith("circuits_trial")]:
        del sys.modules[name]


def config_with(folder, methods, **more):
    return RunConfig.from_mapping({**toy_mapping(folder), "methods": methods, **more})


def test_nothing_is_loaded_that_no_config_names(added, tmp_path):
    config_with(tmp_path, ["eap"])
    assert not [name for name in sys.modules if name.startswith("circuits_trial")]


def test_a_method_of_a_package_runs_and_is_read_without_it(added, tmp_path, monkeypatch):
    methods = [{"name": "random_edges", "seed": 3}, {"name": "eap", "metric": "margin"}]
    run = discover(config_with(tmp_path, methods), local=True, quiet=True)
    assert run.is_complete
    used = run.manifest["plugins"]
    assert set(used["methods"]) == {"random_edges"}
    assert set(used["metrics"]) == {"margin"}
    monkeypatch.setattr(plugins, "installed", lambda group: {})
    plugins.load.cache_clear()
    again = open_run(run.path)
    frame = load_scores(run.path, method="random_edges-3")
    prompts = len(again.prompts(again.tasks[0]))
    rows = np.stack([np.random.default_rng([3, i]).normal(size=run.graph.n_edges) for i in range(prompts)])
    np.testing.assert_allclose(frame["score"], rows.mean(axis=0), atol=1e-6)
    assert {*again.faithfulness()["method"]} == {*again.methods}
    assert verify(run.path).damaged == ()
    assert again.status()["complete"]
    with pytest.raises(ConfigError, match="unknown name 'random_edges'"):
        RunConfig.load(run.path / "run.yaml")


def test_a_method_that_measures_nothing_takes_no_metric(added, tmp_path):
    with pytest.raises(ConfigError, match="random_edges needs no metric; leave metric: nll out"):
        config_with(tmp_path, [{"name": "random_edges", "metric": "nll"}])
    run = RunDirectory.open(discover(config_with(tmp_path, ["random_edges"]), local=True, quiet=True).path)
    item = next(item for item in run.items if item.method == "random_edges")
    assert {"metric", "ablation"}.isdisjoint(run.footer(item))


def test_parameters_of_a_package_s_method_are_checked_like_ours(added, tmp_path):
    with pytest.raises(ConfigError, match="random_edges: unknown key 'sed'; did you mean 'seed'"):
        config_with(tmp_path, [{"name": "random_edges", "sed": 3}])


def test_a_package_that_is_broken_or_adds_something_else_is_named(added, tmp_path):
    with pytest.raises(ConfigError, match=r"torn: the package .* cannot be loaded here: ModuleNotFoundError"):
        config_with(tmp_path, ["torn"])
    with pytest.raises(ConfigError, match=r"no_metric: .* adds no Metric under this name"):
        config_with(tmp_path, [{"name": "eap", "metric": "no_metric"}])
