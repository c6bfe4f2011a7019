import base64
import hashlib
import json
import re
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.core.items import Item
from pipeline.core.prompts import PromptPair, TokenPair
from pipeline.core.scores import EdgeScores, NodeScores
from pipeline.report.essentials import CONDITIONAL, choose_circuit, essentials
from pipeline.report.html import write_report
from pipeline.report.svg import number
from pipeline.store.run import circuits as evaluated
from pipeline.store.run.aggregate import aggregate
from pipeline.store.run.opened import Run, open_run
from pipeline.store.run.run_dir import RunDirectory
from tests.report.conftest import curve_rows, planted_frame

EVIL = "<script>alert('clean')</script> & \"friends\""
PER_SHARD, SHARDS = 8, 3
METHODS = {
    "eap": {"level": "edge", "parameters": {"name": "eap", "metric": "logit_diff", "ablation": "corrupted"}},
    "acdc": {
        "level": "edge",
        "parameters": {"name": "acdc", "threshold": 0.01, "metric": "kl_divergence", "ablation": "corrupted"},
    },
    "node_patching": {
        "level": "node",
        "parameters": {"name": "node_patching", "metric": "logit_diff", "ablation": "corrupted"},
    },
}


def make_run(path, graph: Graph, *, missing: tuple[str, ...] = (), evaluate: bool = True) -> Run:
    """A run directory as workers leave it, its scores drawn around a planted circuit."""
    kinds = {"edge": "scores", "node": "node_scores"}
    items = [Item(kinds[m["level"]], "pronoun", id_, s) for id_, m in METHODS.items() for s in range(SHARDS)]
    items += [Item("baseline", "pronoun", None, s) for s in range(SHARDS)]
    pairs = [
        TokenPair(
            i, (1, 2, 3), (1, 4, 3), (5,), (6,), PromptPair(EVIL, f"corrupted {i}", (" She",), (" He",))
        )
        for i in range(PER_SHARD * SHARDS)
    ]
    directory = RunDirectory.create(
        path,
        run_yaml="name: pages\nevaluate: {rank: absolute}\n",
        manifest={
            "schema_version": 1,
            "name": "pages <b>bold</b>",
            "run_key": "3f9c1a" * 10,
            "model": {"name": "tiny", "revision": "abc123", "fingerprint": "f00", "dtype": "float32"},
            "graph": {
                "n_layers": graph.n_layers,
                "n_heads": graph.n_heads,
                "n_kv_heads": graph.n_kv_heads,
                "parallel": graph.parallel,
                "kv": graph.kv,
                "d_model": None,
            },
            "graph_fingerprint": graph.fingerprint,
            "methods": METHODS,
            "metrics": ["logit_diff", "kl_divergence"],
            "identity": {
                "metric": "logit_diff",
                "ablation": "corrupted",
                "seed": 0,
                "tasks": {"pronoun": {}},
                "methods": {},
            },
        },
        plan={"items": [{**item.to_dict(), "key": item.name} for item in items], "run_id": "pages"},
        graph=graph,
        prompts={"pronoun": [pairs[i : i + PER_SHARD] for i in range(0, len(pairs), PER_SHARD)]},
    )
    rng = np.random.default_rng(0)
    truth = planted_frame(graph)["score"].to_numpy()
    n = np.full(graph.n_edges, PER_SHARD)
    for item in items:
        if item.name in missing or item.kind == "baseline":
            continue
        noise = rng.normal(0, 0.02, graph.n_edges)
        payload = EdgeScores(
            graph,
            truth + noise,
            np.full(graph.n_edges, 0.1),
            n,
            kept=np.abs(truth) > 0.1 if item.method == "acdc" else None,
        )
        if item.kind == "node_scores":
            nodes = np.arange(graph.n_senders)
            payload = NodeScores(
                graph,
                nodes,
                (None,) * len(nodes),
                rng.normal(size=len(nodes)),
                np.full(len(nodes), 0.1),
                np.full(len(nodes), PER_SHARD),
            )
        directory.commit(item, payload, {"versions": json.dumps({"torch": "9.8.7"})})
    aggregate(directory)
    if evaluate:
        rows = []
        for fraction, value in ((0.01, 0.3), (0.2, 0.9), (1.0, 1.0)):
            top = int(fraction * graph.n_edges)
            circuit = open_run(path).circuit(method="eap", top=top)
            rows.append((row("eap", fraction, circuit, value), circuit))
        kept = open_run(path).circuit(method="acdc")
        rows.append((row("acdc", None, kept, 0.77), kept))
        evaluated.write(directory.path, rows, {})
    return open_run(path)


def row(method: str, fraction: float | None, circuit: Circuit, value: float) -> evaluated.Evaluated:
    return evaluated.Evaluated(
        "pronoun",
        method,
        fraction,
        circuit.n_edges,
        circuit.pruned.n_edges,
        "logit_diff",
        3.0,
        -3.0,
        1.0,
        value,
    )


class Checked(HTMLParser):
    """Fails on a tag that is not closed, and keeps text, tags and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return make_run(tmp_path_factory.mktemp("small") / "run", Graph(2, 4, 4))


@pytest.fixture(scope="module")
def page(run, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert write_report(run, path) == path
    return path.read_text(encoding="utf-8")


def test_every_tag_of_the_page_is_closed_in_order(page):
    assert len(Checked(page).seen) > 200


def test_prompts_and_names_are_escaped(page):
    found = Checked(page)
    assert EVIL in found.words
    assert "pages <b>bold</b>" in found.words
    assert {tag for tag, _ in found.seen}.isdisjoint({"script", "b", "iframe", "link", "img", "object"})
    assert "<script" not in page


def test_nothing_is_loaded_from_anywhere(page):
    found = Checked(page)
    for _, attributes in found.seen:
        for key, value in attributes.items():
            assert key not in ("src", "srcset", "style", "data")
            assert not key.startswith("on")
            assert key not in ("href", "xlink:href") or (value or "").startswith("#")
    urls = set(re.findall(r"\w+://[^\s\"'<>]*", page))
    assert urls == {"http://www.w3.org/2000/svg"}  # the name of SVG's vocabulary, which nobody fetches
    assert "url(" not in page
    assert "@import" not in page


def test_links_lead_to_places_on_the_page(page):
    seen = Checked(page).seen
    places = {attributes["id"] for _, attributes in seen if "id" in attributes}
    links = {attributes["href"] for tag, attributes in seen if tag == "a"}
    assert {link.removeprefix("#") for link in links} <= places
    assert len(links) >= 3


def test_the_security_policy_admits_the_style_sheet_and_nothing_else(page):
    policy = next(a["content"] for t, a in Checked(page).seen if a.get("http-equiv"))
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'"


def test_both_colour_schemes_and_print_are_there(page):
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_the_page_shows_the_numbers_of_the_aggregate(run, page):
    cells = r'<td class="mono">([^<]+)</td><td class="n">([^<]+)</td><td class="n">([^<]+)</td>'
    shown = [tuple(map(unescape, row)) for row in re.findall(cells, page)]
    expected = []
    for edge in run.scores(task="pronoun", method="eap").sort_values("rank").head(20).itertuples():
        interval = f"{number(edge.ci_low, sign=True)} to {number(edge.ci_high, sign=True)}"
        expected.append((f"{edge.sender}->{edge.receiver}", number(edge.score, sign=True), interval))
    assert shown == expected
    assert page.count(">95 % interval</th>") == 2  # of eap and of node_patching
    assert "bootstrap" not in page


def test_the_page_says_what_a_score_of_acdc_depends_on_instead_of_an_interval(run, page):
    cells = r'<td class="mono">([^<]+)</td><td class="n">([^<]+)</td><td><svg'
    shown = {tuple(map(unescape, row)) for row in re.findall(cells, page)}
    for edge in run.scores(task="pronoun", method="acdc").sort_values("rank").head(20).itertuples():
        assert (f"{edge.sender}->{edge.receiver}", number(edge.score, sign=True)) in shown
    assert page.count(CONDITIONAL) == 1
    assert page.count("kept in shards</th>") == 1  # three shards decided
    assert "of that sign" not in page  # no prompt's own scores were kept


@pytest.mark.parametrize(
    ("values", "n_edges", "said"),
    [
        (
            {0.1: 2.42, 0.2: 1.1, 0.5: 0.99},
            22,
            "the smallest evaluated circuit with a faithfulness within 0.15 of 1",
        ),
        ({0.1: 0.85, 0.2: 0.9}, 11, "the smallest evaluated circuit with a faithfulness within 0.15 of 1"),
        (
            {0.1: 0.3, 0.2: 2.42, 1.0: 1.0},
            11,
            "the nearest to 1: no evaluated circuit but the whole graph has",
        ),
        ({0.1: 0.3, 0.2: 1.2}, 22, "the nearest to 1: no evaluated circuit but the whole graph has"),
        ({0.1: None, 0.2: 1.05}, 22, "within 0.15 of 1"),
        ({0.1: None, 1.0: 1.0}, 5, "edges (4.5 %)"),
        ({1.0: 1.0}, 5, "edges (4.5 %)"),
    ],
)
def test_a_circuit_that_overshoots_is_as_far_from_the_model_as_one_that_falls_short(
    run, values, n_edges, said
):
    frame = run.scores(task="pronoun", method="eap")
    circuit, about = choose_circuit(run, frame, curve_rows(run.graph, "pronoun", "eap", values), [])
    assert circuit.n_edges == n_edges
    assert said in about["words"]


def test_the_page_shows_facts_examples_parameters_and_versions(page):
    text = " ".join(Checked(page).words)
    assert "3f9c1a" * 10 in text
    assert "torch 9.8.7" in text
    assert "threshold: 0.01" in text
    assert "“ She”" in text
    assert "2 layers, 4 heads" in text
    assert "24 pairs" in text


def test_essentials_agree_with_the_frames_of_the_run(run):
    facts = essentials(run, top=7)
    by_method = {result["method"]: result for result in facts["results"]}
    frame = run.scores(task="pronoun", method="eap")
    expected = frame.sort_values("rank").head(7)
    assert [edge["edge"] for edge in by_method["eap"]["top"]] == [
        f"{e.sender}->{e.receiver}" for e in expected.itertuples()
    ]
    assert all(edge["sign_agreement"] is None for edge in by_method["eap"]["top"])
    for column in ("score", "score_sem", "ci_low", "ci_high"):
        assert [edge[column] for edge in by_method["eap"]["top"]] == expected[column].tolist()
    nodes = run.scores(task="pronoun", method="node_patching")
    assert by_method["node_patching"]["top"][0]["score"] == max(nodes["score"], key=abs)
    assert len(facts["faithfulness"]) == 4


def test_essentials_show_the_smallest_faithful_circuit_and_the_kept_set(run):
    circuits = {r["method"]: r["circuit"] for r in essentials(run)["results"] if r["level"] == "edge"}
    assert circuits["eap"]["edge_fraction"] == 0.2
    assert circuits["eap"]["faithfulness"] == 0.9
    assert circuits["eap"]["n_edges"] == run.circuit(method="eap", top=22).n_edges
    assert circuits["acdc"]["n_edges"] == run.circuit(method="acdc").n_edges
    assert circuits["acdc"]["faithfulness"] == 0.77


def test_rounding_is_not_listed_among_the_strongest_edges(tmp_path, monkeypatch):
    run = make_run(tmp_path / "run", Graph(2, 4, 4), evaluate=False)
    read = Run.scores

    def rounded(self, method=None, task=None):
        frame = read(self, method=method, task=task)
        frame.loc[frame["rank"] > 5, "score"] *= 1e-9
        return frame

    monkeypatch.setattr(Run, "scores", rounded)
    assert [edge["rank"] for edge in essentials(run)["results"][0]["top"]] == [1, 2, 3, 4, 5]


def test_essentials_are_plain_json_without_nan(run):
    assert json.loads(json.dumps(essentials(run), allow_nan=False))["model"]["name"] == "tiny"


def test_missing_items_are_named_and_the_rest_is_shown(tmp_path):
    partial = make_run(
        tmp_path / "run",
        Graph(2, 4, 4),
        missing=("pronoun/eap/1", *(f"pronoun/node_patching/{s}" for s in range(SHARDS))),
        evaluate=False,
    )
    facts = essentials(partial)
    assert not facts["complete"]
    assert "pronoun/eap/1" in facts["missing"]
    assert [r["method"] for r in facts["results"]] == ["eap", "acdc"]
    assert facts["results"][0]["n_prompts"] == 2 * PER_SHARD
    words = Checked(write_report(partial, tmp_path / "report.html").read_text()).words
    assert "pronoun/eap/1" in words
    assert any("of 12 items missing" in word for word in words)


@pytest.mark.slow
def test_a_page_for_the_graph_of_gpt2_small_stays_under_a_megabyte(tmp_path):
    large = make_run(tmp_path / "run", Graph(12, 12, 12))
    page = write_report(large, tmp_path / "report.html")
    assert page.stat().st_size < 1_000_000
    Checked(page.read_text())
