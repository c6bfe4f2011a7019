"""The discovery methods, one paper, one file. This list is all there is: config, `circuits list`, schema and
docs derive from it. Loads without torch."""

from typing import Annotated

from pydantic import Field

from pipeline.methods.acdc import Acdc
from pipeline.methods.base import Cost, Method
from pipeline.methods.eap import Eap
from pipeline.methods.eap_ig import EapIg
from pipeline.methods.edge_patching import EdgePatching
from pipeline.methods.node_patching import NodePatching
from pipeline.methods.path_patching import PathPatching

METHODS: tuple[type[Method], ...] = (Eap, EapIg, Acdc, EdgePatching, NodePatching, PathPatching)

MethodConfig = Annotated[
    Eap | EapIg | Acdc | EdgePatching | NodePatching | PathPatching, Field(discriminator="name")
]

__all__ = [
    "METHODS",
    "Acdc",
    "Cost",
    "Eap",
    "EapIg",
    "EdgePatching",
    "Method",
    "MethodConfig",
    "NodePatching",
    "PathPatching",
]
