"""Scores or a circuit that somebody else found, read from a file: of EAP-IG, MIB, ACDC, auto-circuit, or a CSV list.

They are judged and compared like those of any method. Computes nothing: the file's scores hold for all prompts, their
spread is not known, and what identifies them are the file's bytes. Workers read the file as they read the model: it
must be where they are.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from pipeline.core.documents import looked_in
from pipeline.core.errors import CircuitsError, ConfigError
from pipeline.core.foreign import SAVED, SUFFIXES, Foreign, read_circuit, read_data
from pipeline.core.graph import Graph
from pipeline.core.scores import EdgeScores
from pipeline.core.text import OneLine
from pipeline.methods.base import Cost, EdgeMethod
from pipeline.methods.work import Work
from pipeline.tasks.base import slug

MOST = 1 << 30  # bytes


class FileScores(EdgeMethod):
    """Scores that somebody else found, or with `circuit` the set of edges: of EAP-IG, ACDC, auto-circuit, or CSV."""

    scores_prompts: ClassVar[bool] = False
    elsewhere: ClassVar[frozenset[str]] = frozenset({"path"})

    name: Literal["file"] = "file"
    path: OneLine = Field(
        min_length=1,
        description=".json or .pt of EAP-IG, MIB, ACDC or auto-circuit, or .csv with edge, score, in_graph",
    )
    circuit: bool = Field(
        default=False,
        description="judge the set of edges that the file marks, instead of sizes by its scores",
    )
    sha256: str | None = Field(
        default=None, description="of the file's bytes; filled in when a run is planned"
    )

    @property
    def id(self) -> str:
        """`as` if given, else the file's stem; the folder's where the file is called as they all are."""
        path = Path(self.path)
        stem = path.absolute().parent.name if path.name == "importances.json" else path.stem
        return self.as_ or f"file-{slug(stem)}{'-circuit' if self.circuit else ''}"[:80]

    def anchored(self) -> "FileScores":
        path = str(Path(self.path).absolute())
        return self.model_copy(update={"path": path, "sha256": self.sha256 or _digest(self.path)})

    def resolved(self, metric: str, ablation: str) -> "FileScores":
        """The same with metric and ablation, by which it is judged, and the hash of what the file holds now."""
        this = super().resolved(metric, ablation)
        return this if this.sha256 else this.model_copy(update={"sha256": _digest(this.path)})

    def check_names(self, graph: Graph) -> None:
        """Reads the file, where it is still there: a run that has its scores goes on without."""
        if Path(self.path).exists():
            try:
                self._read(graph)
            except CircuitsError as error:
                raise ConfigError(str(error)) from None

    def cost(self, graph: Graph, lengths: Sequence[int]) -> Cost:
        del lengths
        return Cost(rows=graph.n_edges)

    def run(self, work: Work) -> EdgeScores:
        """The file's scores, as if every prompt had them."""
        graph = work.model.graph
        found = self._read(graph)
        n = sum(batch.n_prompts for batch in work.batches)
        measured = ~np.isnan(found.score) & (n > 0)
        return EdgeScores(
            graph,
            np.where(measured, found.score, np.nan),
            np.full(graph.n_edges, np.nan),
            np.where(measured, n, 0),
            kept=found.mask if self.circuit else None,
        )

    def _read(self, graph: Graph) -> Foreign:
        content = _content(self.path)
        if self.sha256 is not None and hashlib.sha256(content).hexdigest() != self.sha256:
            raise CircuitsError(
                f"{self.path}: is not what it was when the run was planned; run the config again"
            )
        found = _found(content, self.path, graph)
        if self.circuit and (found.mask is None or not found.mask.any()):
            raise CircuitsError(f"{self.path}: marks no edge as in the circuit; leave circuit: true out")
        if not self.circuit and np.isnan(found.score).all():
            raise CircuitsError(
                f"{self.path}: has no scores, only a set of edges; take it with circuit: true"
            )
        return found


def _found(content: bytes, path: str, graph: Graph) -> Foreign:
    """What the file's bytes say of the graph's edges; torch is loaded for what it has saved alone."""
    if path.lower().endswith(SAVED):
        from pipeline.models.saved import read_saved

        try:
            data = read_saved(content)
        except CircuitsError as error:
            raise CircuitsError(f"{path}: {error}") from None
        return read_data(data, path, graph)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise CircuitsError(f"{path}: is not UTF-8; give a .json or .csv file") from None
    return read_circuit(text, path, graph)


def _digest(path: str) -> str:
    return hashlib.sha256(_content(path)).hexdigest()


def _content(path: str) -> bytes:
    """The file's bytes. ConfigError where it cannot be read."""
    if not path.lower().endswith(SUFFIXES):
        raise ConfigError(f"{path}: a circuit is read from {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST + 1)  # a device has no size
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{looked_in(path)}; check the path of the circuit") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    if len(content) > MOST:
        raise ConfigError(f"{path}: over {MOST:,} bytes; a circuit is smaller, so check the path")
    return content
