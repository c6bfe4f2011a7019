"""What planning leaves in a run directory: the plan, the graph, the prompts.

Knows these files and their order. Does not know items that are done, nor what is in a plan.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.core.graph import Graph
from pipeline.core.prompts import TokenPair
from pipeline.store.atomic import write_atomic, write_json
from pipeline.store.files import DamagedFileError, read_footer, read_parquet, write_parquet
from pipeline.store.schema import SCHEMA_VERSION
from pipeline.store.scores import graph_table, nodes_table, prompts_table

_NAMES = {"run.yaml", "plan.json", "graph.parquet", "nodes.parquet", "prompts.parquet"}


def write_plan(
    path: Path,
    *,
    run_yaml: str,
    manifest: dict[str, Any],
    plan: dict[str, Any],
    graph: Graph,
    prompts: Mapping[str, Sequence[Sequence[TokenPair]]],
) -> None:
    """Everything that planning writes; the manifest last, so that a directory with one is complete."""
    facts = {
        "schema_version": SCHEMA_VERSION,
        "run_key": manifest["run_key"],
        "graph_fingerprint": graph.fingerprint,
    }
    tables: dict[str, Callable[[], pa.Table]] = {
        "graph.parquet": lambda: graph_table(graph),
        "nodes.parquet": lambda: nodes_table(graph),
        "prompts.parquet": lambda: prompts_table(prompts),
    }
    for name, table in tables.items():
        if not _holds_facts(path / name, facts):  # a large graph is not written twice
            write_parquet(path / name, table(), facts)
    write_atomic(path / "run.yaml", run_yaml)
    write_json(path / "plan.json", plan)
    write_json(path / "manifest.json", manifest)


def strangers(path: Path) -> str:
    """A name in a folder without a manifest that no interrupted planning leaves behind, or ""."""
    if not path.is_dir():
        return "a file of that name"
    return next(
        (entry.name for entry in path.iterdir() if not (entry.name[0] == "." or entry.name in _NAMES)), ""
    )


def _holds_facts(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a good file with these facts in its footer is there."""
    try:
        read_parquet(path)
        footer = read_footer(path)
    except (DamagedFileError, FileNotFoundError):
        return False
    return all(footer.get(key) == str(value) for key, value in facts.items())
