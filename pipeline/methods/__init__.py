"""The discovery methods, one paper, one file. This list is all there is: config, `circuits list`, schema and
docs derive from it. Installed packages add theirs (`pipeline.core.plugins`). Loads without torch."""

from typing import Annotated, TypeAlias

from pipeline.core import plugins
from pipeline.methods.acdc import Acdc
from pipeline.methods.attention import Attention
from pipeline.methods.base import Cost, Method
from pipeline.methods.eap import Eap
from pipeline.methods.eap_ig import EapIg
from pipeline.methods.edge_patching import EdgePatching
from pipeline.methods.ensemble import Ensemble
from pipeline.methods.file import FileScores
from pipeline.methods.knockout import Knockout
from pipeline.methods.logit_lens import LogitLens
from pipeline.methods.node_patching import NodePatching
from pipeline.methods.path_patching import PathPatching

METHODS: tuple[type[Method], ...] = (
    Eap,
    EapIg,
    Acdc,
    EdgePatching,
    NodePatching,
    PathPatching,
    LogitLens,
    Knockout,
    Attention,
    FileScores,
    Ensemble,
)

# one of these, or of what an installed package adds
MethodConfig: TypeAlias = Annotated[Method, plugins.OneOf(METHODS, plugins.METHODS)]

__all__ = [
    "METHODS",
    "Acdc",
    "Attention",
    "Cost",
    "Eap",
    "EapIg",
    "EdgePatching",
    "Ensemble",
    "FileScores",
    "Knockout",
    "LogitLens",
    "Method",
    "MethodConfig",
    "NodePatching",
    "PathPatching",
]
