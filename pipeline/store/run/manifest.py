"""The manifest of a run: what it must hold before anything in it becomes a path, a size or a row.

Knows names and types. Does not know where the file lies, nor what a method's parameters mean.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core.documents import explain
from pipeline.core.graph import Graph
from pipeline.core.items import ID_PATTERN
from pipeline.core.results import declared
from pipeline.core.text import OneLine

Id = Annotated[str, Field(pattern=ID_PATTERN.pattern)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{6,64}$")]


class _Part(BaseModel):
    """What readers rely on. More may stand beside it."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Graph(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    n_layers: int = Field(ge=1)
    n_heads: int = Field(ge=1)
    n_kv_heads: int = Field(ge=1)
    parallel: bool = False
    kv: Literal["query_head", "kv_head"] = "query_head"
    d_model: int | None = None


class _Model(_Part):
    name: OneLine
    revision: OneLine
    fingerprint: OneLine
    dtype: OneLine
    note: OneLine | None = None


class _Parameters(_Part):
    name: OneLine
    metric: OneLine | None = None
    ablation: OneLine | None = None
    threshold: float | None = None


class _Method(_Part):
    level: Id
    result: dict[str, Any] | None = None  # runs of earlier versions have levels edge and node alone
    parameters: _Parameters


class _Identity(_Part):
    tasks: dict[Id, dict[str, Any]] = Field(min_length=1)
    methods: dict[Id, dict[str, Any]]
    metric: OneLine
    ablation: OneLine
    seed: int = Field(ge=0)


class _Manifest(_Part):
    name: OneLine
    run_key: Digest
    model: _Model
    graph: _Graph
    graph_fingerprint: str
    methods: dict[Id, _Method]
    metrics: list[OneLine]
    plugins: dict[Id, dict[str, OneLine]] = Field(default_factory=dict)
    truth: dict[Id, list[OneLine]] = Field(default_factory=dict)
    identity: _Identity


def problem_of(manifest: dict[str, Any]) -> str | None:
    """What is wrong with a manifest of this schema version, in words that name the key; or None."""
    try:
        _Manifest.model_validate(manifest)
        graph = Graph(**manifest["graph"])
        for id_, method in manifest["methods"].items():
            if method["level"] != declared(method).of:
                return f"methods.{id_}: its results are no {method['level']} scores"
    except ValidationError as error:
        return explain(error, manifest, _Manifest)
    except ValueError as error:
        return str(error)
    if graph.fingerprint != manifest["graph_fingerprint"]:
        return "graph_fingerprint: is that of another graph"
    return None
