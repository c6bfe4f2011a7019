import re

import numpy as np
import pandas as pd
import pytest

from pipeline.core.circuit import Circuit
from pipeline.core.graph import Graph
from pipeline.report.figures import (
    circuit_svg,
    faithfulness_svg,
    node_heatmap_svg,
    standalone,
    strongest_part,
)
from pipeline.report.interval_figure import WIDE, interval_svg
from pipeline.report.layout import lay_out
from pipeline.report.matrix_figure import broken, matrix_svg
from pipeline.report.svg import linear_ticks, log_ticks, number, tag
from tests.report.conftest import SVG, curve_rows, parse, planted_frame, titles, words


def top_circuit(graph: Graph, frame: pd.DataFrame, top: int) -> Circuit:
    mask = np.zeros(graph.n_edges, dtype=bool)
    mask[frame.sort_values("rank")["edge_id"].to_numpy()[:top]] = True
    return Circuit(graph, mask, frame["score"].to_numpy())


def reaches_both_ends(circuit: Circuit) -> bool:
    """Every edge lies on a path from input to logits: walked edge by edge, in both directions."""
    edges = {(e.sender.name, e.receiver) for e in circuit}
    graph = circuit.graph

    def senders_of(receiver) -> set[str]:
        index = graph.receiver_index(receiver.name)
        return {graph.senders[i].name for i in graph.senders_fed_by(index)}

    alive = {"input"}
    for _ in range(graph.n_senders):
        alive |= {fed for sender, receiver in edges if sender in alive for fed in senders_of(receiver)}
    useful = {sender for sender, receiver in edges if receiver.kind == "logits"}
    for _ in range(graph.n_senders):
        useful |= {sender for sender, receiver in edges if senders_of(receiver) & useful}
    return all(
        sender in alive and (receiver.kind == "logits" or senders_of(receiver) & useful)
        for sender, receiver in edges
    )


# --- the circuit -----------------------------------------------------------------------------------------


def test_every_drawn_edge_names_its_score_and_standard_error(graph):
    frame = planted_frame(graph)
    circuit = top_circuit(graph, frame, 40)
    drawn = strongest_part(circuit, frame["score"].to_numpy())
    found = list(titles(parse(circuit_svg(circuit, frame))))
    rows = frame.set_index("edge_id").loc[np.flatnonzero(drawn.mask)]
    expected = [
        f"{graph.edge_name(i).replace('->', ' → ')}  {number(row.score, sign=True)} ± {number(row.score_sem)}"
        for i, row in rows.iterrows()
    ]
    assert sorted(found) == sorted(expected)
    assert drawn.n_edges > 0


def test_a_negative_edge_is_told_apart_by_class_and_the_strongest_is_widest(graph):
    frame = planted_frame(graph)
    circuit = top_circuit(graph, frame, 40)
    root = parse(circuit_svg(circuit, frame))
    paths = [p for p in root.iter(f"{SVG}path") if p.find(f"{SVG}title") is not None]
    for path in paths:
        score = path.find(f"{SVG}title").text.split("  ")[1]
        assert ("neg" in path.get("class").split()) == score.startswith("−")
    widest = max(paths, key=lambda p: float(p.get("stroke-width")))
    drawn = strongest_part(circuit, frame["score"].to_numpy())
    strongest = max(np.flatnonzero(drawn.mask), key=lambda i: abs(frame["score"][i]))
    assert widest.find(f"{SVG}title").text.startswith(graph.edge_name(int(strongest)).replace("->", " → "))


def test_boxes_overlap_neither_each_other_nor_the_frame(graph):
    frame = planted_frame(graph, active=12 if graph.n_layers > 2 else 8)
    drawn = strongest_part(top_circuit(graph, frame, 60), frame["score"].to_numpy())
    edges = np.flatnonzero(drawn.mask)
    drawing = lay_out(graph, edges.tolist(), np.abs(frame["score"][edges]).tolist())
    spans = [(b.x - b.width / 2, b.x + b.width / 2, b.y, b.y + b.height) for b in drawing.boxes]
    for i, (left, right, top, bottom) in enumerate(spans):
        assert left >= 0
        assert right <= drawing.width
        assert top >= 0
        assert bottom <= drawing.height
        for other in spans[i + 1 :]:
            assert right <= other[0] or other[1] <= left or bottom <= other[2] or other[3] <= top


def test_every_edge_rises_from_its_sender_to_its_receiver(graph):
    frame = planted_frame(graph)
    drawn = strongest_part(top_circuit(graph, frame, 60), frame["score"].to_numpy())
    edges = np.flatnonzero(drawn.mask)
    drawing = lay_out(graph, edges.tolist(), np.abs(frame["score"][edges]).tolist())
    for arc in drawing.arcs:
        start, end = drawing.boxes[arc.start], drawing.boxes[arc.end]
        x0, y0, _, _, x1, y1 = arc.points
        assert y0 == start.y
        assert y1 == end.y + end.height
        assert y0 > y1
        assert abs(x0 - start.x) <= start.width / 2
        assert abs(x1 - end.x) <= end.width / 2
        if arc.edge is not None:
            edge = graph.edge(arc.edge)
            assert start.name == edge.sender.name
            assert edge.receiver.name.startswith(end.name)


def test_ports_that_nothing_enters_are_muted():
    graph = Graph(2, 4, 4)
    names = ["input->a0.h1<k>", "a0.h1->a1.h2<q>", "a1.h2->logits"]
    frame = planted_frame(graph)
    root = parse(circuit_svg(Circuit(graph, graph.mask(names)), frame))
    lit = [t.text for t in root.iter(f"{SVG}text") if t.get("class") in ("port q", "port k", "port v")]
    assert sorted(lit) == ["k", "k", "q", "q", "v"]  # one of each is the legend's


def test_the_drawn_part_is_small_connected_and_keeps_the_strongest_edges(graph):
    frame = planted_frame(graph, active=10)
    score = frame["score"].to_numpy()
    drawn = strongest_part(top_circuit(graph, frame, graph.n_edges), score, limit=30)
    assert 0 < drawn.n_edges <= 30
    assert reaches_both_ends(drawn)


def test_edges_are_drawn_with_their_paths_when_the_strongest_alone_lead_nowhere():
    graph = Graph(6, 6, 6)
    score = np.full(graph.n_edges, 1e-3)
    rng = np.random.default_rng(0)
    inner = np.flatnonzero((graph.edge_senders > 0) & (graph.edge_receivers < graph.logits_receiver))
    score[rng.choice(inner, 300, replace=False)] = rng.uniform(1, 2, 300)
    whole = Circuit(graph, np.ones(graph.n_edges, dtype=bool), score)
    drawn = strongest_part(whole, score, limit=40)
    assert 0 < drawn.n_edges <= 40
    assert reaches_both_ends(drawn)
    assert drawn.mask[np.argmax(score)]


def test_a_circuit_without_a_path_says_so():
    graph = Graph(2, 4, 4)
    circuit = Circuit(graph, graph.mask(["a0.h0->m0"]))
    assert "No path from input to logits" in words(parse(circuit_svg(circuit, planted_frame(graph))))[0]


def test_scores_that_are_missing_do_not_break_the_drawing():
    graph = Graph(2, 4, 4)
    frame = planted_frame(graph)
    names = ["input->m0", "m0->logits"]
    frame.loc[frame["edge_id"] == graph.edge_id("m0->logits"), ["score", "score_sem"]] = np.nan
    found = titles(parse(circuit_svg(Circuit(graph, graph.mask(names)), frame)))
    assert "m0 → logits  –" in found


def test_a_drawing_is_the_same_every_time(graph):
    frame = planted_frame(graph)
    circuit = top_circuit(graph, frame, 50)
    assert circuit_svg(circuit, frame) == circuit_svg(circuit, frame)


# --- faithfulness ----------------------------------------------------------------------------------------


def test_the_curve_holds_every_number_of_the_frame():
    graph = Graph(12, 12, 12)
    values = {0.001: -0.21, 0.01: 0.47, 0.1: 0.834, 1.0: 1.0}
    frame = curve_rows(graph, "t", "eap", values)
    found = titles(parse(faithfulness_svg(frame)))
    expected = [f"eap: {int(f * 32491):,} edges; faithfulness {number(v)}" for f, v in values.items()]
    assert found == expected


def test_higher_faithfulness_is_drawn_higher_and_more_edges_further_right():
    frame = curve_rows(Graph(12, 12, 12), "t", "eap", {0.001: 0.1, 0.01: 0.4, 0.1: 0.8, 1.0: 1.0})
    root = parse(faithfulness_svg(frame))
    curve = next(p for p in root.iter(f"{SVG}path") if p.get("class") == "curve" and "L" in p.get("d"))
    points = np.asarray([[float(v) for v in xy.split()] for xy in re.split("[ML]", curve.get("d")) if xy])
    assert (np.diff(points[:, 0]) > 0).all()
    assert (np.diff(points[:, 1]) < 0).all()
    assert np.diff(points[:, 0]) == pytest.approx(np.diff(points[:, 0])[0], abs=8)  # decades are equally wide


def test_a_method_that_decides_is_a_point_and_each_method_is_named_in_the_legend():
    graph = Graph(12, 12, 12)
    curve = curve_rows(graph, "t", "eap", {0.01: 0.4, 0.1: 0.8, 1.0: 1.0})
    point = curve_rows(graph, "t", "acdc", {None: 0.7})
    root = parse(faithfulness_svg(pd.concat([curve, point])))
    curves = [p for p in root.iter(f"{SVG}path") if p.get("class") == "curve" and "L" in p.get("d")]
    assert len(curves) == 1
    assert {"eap", "acdc"} <= set(words(root))


def test_a_curve_that_another_covers_is_drawn_thicker_below_it():
    graph = Graph(12, 12, 12)
    values = {0.01: 0.4, 0.1: 0.8, 1.0: 1.0}
    same = [curve_rows(graph, "t", method, values) for method in ("first", "second")]
    other = curve_rows(graph, "t", "other", {0.01: 0.1, 0.1: 0.2, 1.0: 1.0})
    root = parse(faithfulness_svg(pd.concat([*same, other])))
    curves = [p for p in root.iter(f"{SVG}path") if p.get("class") == "curve" and "L" in p.get("d")]
    assert [p.get("stroke-width") for p in curves] == ["5", "2", "2"]


def test_what_lies_far_outside_is_drawn_at_the_edge_with_its_value():
    frame = curve_rows(Graph(12, 12, 12), "t", "eap", {0.01: 7.0, 0.1: 0.8, 1.0: 1.0})
    assert "7.0" in words(parse(faithfulness_svg(frame)))


def test_undefined_faithfulness_is_said_not_drawn():
    graph = Graph(2, 4, 4)
    none = curve_rows(graph, "t", "eap", {0.1: None, 1.0: None})
    assert "No faithfulness" in words(parse(faithfulness_svg(none)))[0]
    some = curve_rows(graph, "t", "eap", {0.1: None, 1.0: 1.0})
    assert "1 of 2 evaluations have no faithfulness" in words(parse(faithfulness_svg(some)))


# --- nodes -----------------------------------------------------------------------------------------------


def node_frame(graph: Graph, spans: list[str | None]) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frames = [
        pd.DataFrame(
            {
                "node_id": np.arange(graph.n_senders),
                "node": [n.name for n in graph.senders],
                "span": pd.array([span] * graph.n_senders, dtype="string"),
                "score": rng.normal(size=graph.n_senders),
                "score_sem": 0.01,
            }
        )
        for span in spans
    ]
    return pd.concat(frames, ignore_index=True)


def test_nodes_without_spans_are_a_grid_of_layers_and_heads():
    graph = Graph(3, 4, 4)
    frame = node_frame(graph, [None])
    root = parse(node_heatmap_svg(frame))
    expected = [f"{r.node}  {number(r.score, sign=True)} ± 0.0100" for r in frame.itertuples()]
    assert sorted(titles(root)) == sorted(expected)
    assert {"layer 0", "layer 2", "h3", "MLP", "input"} <= set(words(root))


def test_nodes_with_spans_are_a_grid_of_nodes_and_positions_the_strongest_first_to_stay():
    graph = Graph(3, 4, 4)
    frame = node_frame(graph, ["subject", "end"])
    root = parse(node_heatmap_svg(frame, limit=5))
    peak = frame.assign(size=frame["score"].abs()).groupby("node")["size"].max()
    shown = [w for w in words(root) if w in set(frame["node"])]
    assert set(shown) == set(peak.nlargest(5).index)
    assert f"{graph.n_senders - 5} nodes of smaller |score| are left out" in words(root)
    assert {"subject", "end"} <= set(words(root))


def test_positions_that_are_numbers_are_in_numeric_order():
    root = parse(node_heatmap_svg(node_frame(Graph(1, 2, 2), ["10", "9", "2"])))
    assert [w for w in words(root) if w in ("10", "9", "2")] == ["2", "9", "10"]


def test_no_node_measured_is_said():
    assert words(parse(node_heatmap_svg(empty())))


def empty() -> pd.DataFrame:
    return node_frame(Graph(1, 1, 1), [None]).iloc[:0]


# --- small words -----------------------------------------------------------------------------------------


def test_words_in_a_figure_are_escaped():
    frame = curve_rows(Graph(2, 4, 4), "t", "<script>&\"'", {0.1: 0.5, 1.0: 1.0})
    svg = faithfulness_svg(frame)
    assert "<script>" not in svg
    assert "<script>&\"'" in words(parse(svg))
    assert tag("a", "<", b='"') == '<a b="&#34;">&lt;</a>'


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0.00"),
        (1.0, "1.00"),
        (-0.0123456, "−0.0123"),
        (12345.6, "12346"),
        (0.000012, "1.20e−5"),
        (2.5e7, "2.50e7"),
        (float("nan"), "–"),
        (None, "–"),
    ],
)
def test_numbers_have_three_digits_and_a_real_minus(value, written):
    assert number(value) == written


def test_ticks_are_round_and_inside():
    assert linear_ticks(-0.05, 1.05) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert log_ticks(3, 120) == [5, 10, 20, 50, 100]
    assert log_ticks(4, 8) == [4, 8]  # one alone, 5, would not say where it ends
    assert log_ticks(1, 1_000_000) == [1, 10, 100, 1000, 10_000, 100_000, 1_000_000]


def test_both_intervals_are_drawn_around_the_score_on_one_scale_and_told_in_words():
    drawn = parse(interval_svg(0.5, student=(0.25, 0.75), bootstrap=(0.4, 1.0), reach=1.0))
    (bar,) = drawn.iter(f"{SVG}rect")
    across, low, high = (line for line in drawn.iter(f"{SVG}line") if line.get("class") == "bracket")
    (dot,) = drawn.iter(f"{SVG}circle")

    def value(x):
        return (float(x) - WIDE / 2) / (WIDE / 2 - 5)

    left, width = float(bar.get("x")), float(bar.get("width"))
    assert [value(left), value(left + width)] == pytest.approx([0.25, 0.75], abs=2e-3)
    assert [value(across.get("x1")), value(across.get("x2"))] == pytest.approx([0.4, 1.0], abs=2e-3)
    assert [value(low.get("x1")), value(high.get("x1"))] == pytest.approx([0.4, 1.0], abs=2e-3)
    assert value(dot.get("cx")) == pytest.approx(0.5, abs=2e-3)
    label = "+0.500, 95 % from 0.250 to 0.750, bootstrap 95 % from 0.400 to 1.00"
    assert drawn.get("aria-label") == label


def test_an_interval_that_is_not_known_is_neither_drawn_nor_told():
    normal = interval_svg(-0.5, student=(-0.6, -0.4), bootstrap=(None, None), reach=1.0)
    assert "bracket" not in normal
    assert "bootstrap" not in normal
    alone = interval_svg(-0.5, student=(None, None), bootstrap=(None, float("nan")), reach=1.0)
    assert "<rect" not in alone
    assert parse(alone).get("aria-label") == "−0.500"


def test_a_figure_on_its_own_brings_its_colours_and_stays_well_formed():
    frame = curve_rows(Graph(2, 4, 4), "t", "eap", {0.1: 0.5, 1.0: 1.0})
    alone = standalone(faithfulness_svg(frame))
    assert parse(alone).find(f"{SVG}style").text
    assert "prefers-color-scheme: dark" in alone


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("ioi", ["ioi"]),
        ("ioi-held-out", ["ioi-held-out"]),
        ("induction-of-another-seed", ["induction-of-", "another-seed"]),
        ("a" * 30, ["a" * 13, "a" * 13, "aaaa"]),
        ("----------------_", ["-------------", "---_"]),
    ],
)
def test_a_long_name_is_broken_and_loses_nothing(name, lines):
    assert broken(name, 13) == lines
    assert "".join(broken(name, 13)) == name


def test_cells_of_a_matrix_are_no_wider_than_a_line_of_a_name_and_lie_in_the_figure():
    names = ["ioi", "x", "induction-of-another-seed-with-a-very-very-long-name" * 2]
    cell = {"value": 0.5, "low": 0.4, "high": 0.6}
    drawn = matrix_svg({"method": "eap", "circuits": names, "prompts": names, "cells": [[cell] * 3] * 3})
    root = parse(drawn)
    rects = [r for r in root.iter(f"{SVG}rect") if r.get("class") == "none"]
    ends = [
        (float(r.get("x")) + float(r.get("width")), float(r.get("y")) + float(r.get("height"))) for r in rects
    ]
    assert max(float(r.get("width")) for r in rects) < 100
    assert len({end[0] for end in ends}) == len({end[1] for end in ends}) == 3
    assert max(end[0] for end in ends) <= float(root.get("width"))
    assert max(end[1] for end in ends) <= float(root.get("height"))
