"""What `circuits list` says: the names that a config may use, and the runs in a folder.

Knows the lists of methods, tasks, metrics, ablations and models. Loads without torch, Ray and Prefect.
"""

import inspect
import json
from typing import Any

from flows.writing import count, say, show, table_of, wrapped
from pipeline.ablations import ABLATIONS
from pipeline.core import plugins
from pipeline.core.documents import looked_in
from pipeline.core.errors import CircuitsError, RunDirectoryError, StorageError
from pipeline.evaluation import EVALUATIONS
from pipeline.evaluation.verdict import EVALUATIONS as OF_A_VERDICT
from pipeline.methods import METHODS
from pipeline.metrics import METRICS
from pipeline.models.families import FAMILIES
from pipeline.models.toy import FOLDERS
from pipeline.store.place.where import place
from pipeline.store.run.leftovers import runs_in as listed
from pipeline.store.run.opened import open_run
from pipeline.tasks import TASKS

Facts = dict[str, Any]


def known_names() -> Facts:
    """Everything that a config may name."""
    return {
        "methods": [
            {
                "name": cls.model_fields["name"].default,
                "does": _sentence(cls),
                "scores": cls.result.of,
                "parameters": _parameters(cls),
            }
            for cls in METHODS
        ],
        "tasks": [
            {
                "name": cls.model_fields["name"].default,
                "does": _sentence(cls),
                "paper": cls.paper or None,
                "metric": cls.measure if cls.paper else None,
                "parameters": _parameters(cls),
            }
            for cls in TASKS
        ],
        "metrics": [
            {
                "name": m.name,
                "does": _sentence(m.compute),
                "better": "higher" if m.higher_is_better else "lower",
                "gradient": m.has_gradient,
            }
            for m in METRICS.values()
        ],
        "ablations": [
            {"name": a.name, "does": f"An ablated sender writes {a.writes}.", "means": a.needs_statistics}
            for a in ABLATIONS.values()
        ],
        "evaluations": [
            {
                "name": cls.model_fields["name"].default,
                "does": _sentence(cls),
                "parameters": _parameters(cls),
            }
            for cls in EVALUATIONS
        ]
        + [{"name": "verdict", "does": f"Stands for {', '.join(OF_A_VERDICT)}.", "parameters": {}}],
        "installed": [
            {
                "name": name,
                "adds": group.partition(".")[2].removesuffix("s"),
                "package": plugins.package_of(point),
            }
            for group in plugins.GROUPS
            for name, point in plugins.installed(group).items()
        ],
        "models": {
            "architectures": [name for family in FAMILIES for name in family.model_types],
            "bundled": list(FOLDERS),
        },
    }


def print_known_names(facts: Facts) -> None:
    """Every name with what it does, methods and tasks with their parameters, and models."""
    for section in ("methods", "tasks", "metrics", "ablations", "evaluations"):
        table = table_of(section, "")
        for row in facts[section]:
            words = row["does"]
            if section == "metrics":
                words += f" Better is {row['better']}; {'with' if row['gradient'] else 'without'} a gradient."
            if row.get("paper"):
                words += f" {row['paper']}, {row['metric']}."
            table.add_row(row["name"], words)
            if parameters := row.get("parameters"):
                table.add_row("", ", ".join(f"{key}={_typed(value)}" for key, value in parameters.items()))
        show(table)
    for row in facts["installed"]:
        say(f"the {row['adds']} {row['name']} comes with the package {row['package']}")
    for what in ("architectures", "bundled"):
        names = ", ".join(facts["models"][what])
        for line in wrapped(f"{what}{' models' if what == 'bundled' else ''}: {names}"):
            say(line)


def runs_in(address: str) -> Facts:
    """The runs that lie in a folder."""
    folder = place(address)
    if not folder.is_dir():
        raise RunDirectoryError(
            f"{folder}: no such folder{looked_in(folder)}; runs lie in the config's output folder"
        )
    runs: list[Facts] = []
    for path in listed(folder):
        try:
            facts = open_run(path).status()
        except StorageError:
            raise
        except (CircuitsError, OSError) as error:
            runs.append({"run": path.name, "error": str(error)})
            continue
        runs.append({key: facts[key] for key in ("run", "items", "done", "failed", "complete", "running")})
    return {"folder": str(folder), "runs": runs}


def print_runs(facts: Facts) -> None:
    """A row per run."""
    table = table_of("run", "#items", "#done", "#failed", "state")
    for row in facts["runs"]:
        if "error" in row:
            table.add_row(row["run"], "", "", "", f"cannot be read: {row['error']}")
            continue
        state = "complete" if row["complete"] else row["running"] or "incomplete"
        table.add_row(row["run"], *(count(row[key]) for key in ("items", "done", "failed")), state)
    show(table)


def _sentence(documented: Any) -> str:
    """What a docstring says first, on one line."""
    first = (inspect.getdoc(documented) or "").partition("\n\n")[0]
    return " ".join(first.split())


def _typed(value: Any) -> str:
    """A default as a config has it."""
    return value if isinstance(value, str) else json.dumps(value)


def _parameters(cls: type[Any]) -> Facts:
    """What may be set, with the default, or "..." where there is none."""
    shared = ("name", "as_", "metric", "ablation", "attention", "chat")
    return {
        key: "..." if field.is_required() else field.get_default(call_default_factory=True)
        for key, field in cls.model_fields.items()
        if key not in shared
    }
