"""Which interval a reader is shown: Student's, and beside it the bootstrap's where one was drawn; of ACDC none."""

import re
from html import unescape

import pytest

from pipeline import discover
from pipeline.report.svg import number
from tests.runs import toy_config

SAMPLES, STRONGEST = 60, 2
DRAWN = {"eap": SAMPLES, "acdc": None, "node_patching": None}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A complete run with a bootstrap of one method's two strongest edges; to be read only."""
    config = toy_config(
        tmp_path_factory.mktemp("intervals"),
        methods=[
            {"name": "eap"},
            {"name": "acdc", "threshold": 0.01, "scope": "shard", "as": "acdc"},
            {"name": "node_patching"},
        ],
        evaluate={"edge_fractions": [0.05]},
        store={"prompt_scores": True},
        aggregate={"bootstrap": SAMPLES, "bootstrap_top": STRONGEST},
    )
    return discover(config, local=True)


@pytest.fixture
def page(run):
    return (run.path / "report.html").read_text()


def strongest(run, top=4):
    return list(run.scores(method="eap").sort_values("rank").head(top).itertuples())


@pytest.mark.slow
def test_show_has_a_column_for_either_interval_where_there_is_a_bootstrap(circuits, run):
    shown = circuits("show", run.path, "--method", "eap", "--top", 4)
    assert shown.code == 0
    assert f"12 prompts in 3 shards, bootstrap of {SAMPLES} samples" in shown.out
    lines = [re.split(r"\s{2,}", line.strip()) for line in shown.out.splitlines()]
    head = next(line for line in lines if line[0] == "edge")
    assert head == ["edge", "score", "95 % interval", "bootstrap", "prompts of that sign"]
    for rank, edge in enumerate(strongest(run)):
        row = next(line for line in lines if line[0] == f"{edge.sender}->{edge.receiver}")
        normal, drawn = (
            f"{edge.ci_low:.4g} .. {edge.ci_high:.4g}",
            f"{edge.boot_low:.4g} .. {edge.boot_high:.4g}",
        )
        assert row[2:4] == [normal, drawn if rank < STRONGEST else "- .. -"]


def test_show_has_one_interval_where_there_is_no_other(circuits, run):
    shown = circuits("show", run.path, "--method", "node_patching")
    assert "95 % interval" in shown.out
    assert "bootstrap" not in shown.out
    assert "sign" not in shown.out


def test_show_says_what_scores_of_acdc_depend_on_and_no_interval(circuits, run):
    shown = circuits("show", run.path, "--method", "acdc")
    assert "95 % interval" not in shown.out
    assert "It has no interval: other prompts may remove other edges." in " ".join(shown.out.split())
    assert "kept in shards" in shown.out


def test_the_facts_hold_the_samples_and_both_ends(circuits, run):
    results = {result["method"]: result for result in circuits("show", run.path, "--json").data["results"]}
    assert {name: result["bootstrap"] for name, result in results.items()} == DRAWN
    ends = [(row["boot_low"], row["boot_high"]) for row in results["eap"]["top"][:STRONGEST]]
    assert ends == [(edge.boot_low, edge.boot_high) for edge in strongest(run, STRONGEST)]
    for name, result in results.items():
        assert all(row["boot_low"] is None for row in result["top"][STRONGEST if name == "eap" else 0 :])


def test_the_page_has_a_column_for_either_interval_where_there_is_a_bootstrap(run, page):
    rows = re.findall(r'<td class="mono">([^<]+-&gt;[^<]+)</td>(.*?)<td><svg(.*?)</svg>', page)
    shown = [
        (unescape(name), re.findall(r'<td class="n">([^<]*)</td>', cells), "bracket" in figure)
        for name, cells, figure in rows
    ]
    for rank, edge in enumerate(strongest(run)):
        name, cells, bracket = shown[rank]
        drawn = f"{number(edge.boot_low, sign=True)} to {number(edge.boot_high, sign=True)}"
        normal = f"{number(edge.ci_low, sign=True)} to {number(edge.ci_high, sign=True)}"
        assert name == f"{edge.sender}->{edge.receiver}"
        assert cells[1:] == [normal, drawn if rank < STRONGEST else "–"]
        assert bracket == (rank < STRONGEST)
    assert page.count('<th class="n">bootstrap 95 % interval</th>') == 1
    assert page.count('<th class="n">95 % interval</th>') == len(DRAWN) - 1  # acdc has none


def test_the_page_says_which_interval_is_which(page):
    assert f"12 prompts in 3 shards, bootstrap of {SAMPLES} samples" in page
    assert "bar Student, bracket bootstrap" in page
    assert "its bootstrap interval holds 95 % of the means over prompts that were drawn anew" in page
