"""Whether the circuits of one run do the behaviours of another: a run of its own, of the first's scores by the second's
model and prompts.

Knows configs and runs. Does not know how anything is computed: the scores are those of a file (`methods.file`), and all
else is as in any run, which goes on where it was. Beside the faithfulness of each circuit stands that of the circuit of
the same size which the second run has found itself.
"""

from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.core.errors import CircuitsError
from pipeline.core.results import EDGE_SCORES
from pipeline.store.run.export import export
from pipeline.store.run.opened import Run, open_run


def transfer_config(found: Run, judge: Run, task: str | None, method: str | None) -> RunConfig:
    """The config of a run, beside `judge`, that evaluates what `found` has found, of one task or method or all.

    Writes the scores as CSV into the export folder of `found`, where workers read them. CircuitsError for other graphs,
    and where nothing has been found.
    """
    if found.graph != judge.graph:
        raise CircuitsError(
            f"{found.path} and {judge.path} are of other graphs: no circuit of one is one of the other"
        )
    if not isinstance(found.path, Path) or not isinstance(judge.path, Path):
        raise CircuitsError("--transfer is for runs that lie in folders")
    config = RunConfig.resumed(judge.path)
    methods = []
    for of in found.tasks:
        for id_ in found.methods:
            asked = task in (None, of) and method in (None, id_)
            if asked and found.type_of(id_) == EDGE_SCORES and found.merged_path(id_, of).exists():
                (path,) = export(found, "csv", found.path / "export", task=of, method=id_).paths
                decided = found.edge_scores(id_, of).kept is not None
                entry = {"name": "file", "as": _id(of, id_), "path": str(path), "circuit": decided}
                same = config.method_ids.get(id_)
                methods.append(
                    entry if same is None else entry | {"metric": same.metric, "ablation": same.ablation}
                )
    if not methods:
        raise CircuitsError(f"{found.path}: no scores of edges to be tried elsewhere")
    mapping = config.to_mapping()
    mapping |= {"name": "transfer", "methods": methods, "output": str(judge.path.parent), "aggregate": {}}
    mapping["store"]["prompt_scores"] = False
    mapping["evaluate"] |= {"also": []}
    return RunConfig.from_mapping(mapping, where=str(judge.path / "run.yaml"))


def transferred(found: Run, judge: Run, ran: Run) -> list[dict[str, Any]]:
    """A row per circuit and task that judges it: task and method that it is of, prompts, edge_fraction (None: kept),
    rank (of several rules), n_edges, metric, faithfulness, and own, that of `judge`'s circuit by that method of
    that size, where it has one."""
    own = {
        (row.task, row.method, _known(row.edge_fraction), _rule(row)): row.faithfulness
        for row in judge.faithfulness().itertuples()
    }
    ids = {_id(task, method): (task, method) for task in found.tasks for method in found.methods}
    rows = []
    for row in open_run(ran.path).faithfulness().itertuples():
        task, method = ids[row.method]
        share = _known(row.edge_fraction)
        facts = {
            "task": task,
            "method": method,
            "prompts": row.task,
            "edge_fraction": share,
            "rank": _rule(row),
        }
        facts |= {"n_edges": int(row.n_edges), "metric": row.metric, "faithfulness": _known(row.faithfulness)}
        rows.append(facts | {"own": _known(own.get((row.task, method, share, _rule(row))))})
    return rows


def _id(task: str, method: str) -> str:
    return f"{method}-of-{task}"[:80]


def _rule(row: Any) -> str | None:
    """The rule of selection, where there are several."""
    rule = getattr(row, "rank", None)
    return rule if isinstance(rule, str) else None


def _known(value: Any) -> float | None:
    return None if value is None or value != value else float(value)  # noqa: PLR0124 - NaN is null
