"""The figures of a report: data in, one SVG string out, nothing read or written.

They carry classes and are coloured by `figures.css`; `standalone` puts the colours inside, for a file.
"""

from pipeline.report.circuit_figure import circuit_svg, strongest_part
from pipeline.report.faithfulness_figure import faithfulness_svg
from pipeline.report.node_figure import node_heatmap_svg
from pipeline.report.overlap_figure import overlap_svg
from pipeline.report.pareto_figure import pareto_svg
from pipeline.report.svg import standalone

__all__ = [
    "circuit_svg",
    "faithfulness_svg",
    "node_heatmap_svg",
    "overlap_svg",
    "pareto_svg",
    "standalone",
    "strongest_part",
]
