"""What holds for the tree as a whole: what is imported when, what lies where, and what no file may name."""

import json
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from tests.processes import GUARD_SECONDS

HEAVY = ("torch", "ray", "prefect", "transformers", "pandas")
ALLOWED = {
    "pyproject.toml", "pipeline", "flows", "infra", "tests", "results",
    "README.md", "Makefile", "CHANGELOG.md", "LICENSE",
}  # fmt: skip

# One process imports one thing after another and says after each which heavy packages are there.
PROBE = """
import json, sys
heavy, steps, seen = json.loads(sys.argv[1]), json.loads(sys.argv[2]), {}
for step in steps:
    exec(step, {})
    seen[step] = [name for name in heavy if name in sys.modules]
print(json.dumps(seen))
"""


def heavy_modules_after(*steps):
    command = [sys.executable, "-c", PROBE, json.dumps(HEAVY), json.dumps(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=GUARD_SECONDS)
    return json.loads(done.stdout.splitlines()[-1])


def test_configs_plans_tasks_methods_and_results_load_without_torch_ray_or_prefect():
    with_tables = (  # which alone need pandas
        "import pipeline.report.html, pipeline.report.figures",
        "import flows.checked",  # transformers may bring torch along once a plan is made
    )
    seen = heavy_modules_after(
        "import pipeline",
        "from pipeline import Circuit, EdgeScores, Graph, PromptPair",
        "import pipeline.store.run.run_dir, pipeline.store.run.aggregate",
        "from pipeline import load_scores, open_run, read_pairs",
        "import pipeline.metrics, pipeline.ablations, pipeline.tasks, pipeline.methods",
        "import pipeline.config",
        "from pipeline import RunConfig",
        "from pipeline import make_plan",
        "import pipeline.schedule.conduct, pipeline.workers.execute",
        *with_tables,
    )

    assert seen == {step: ["pandas"] if step in with_tables else [] for step in seen}


def test_the_command_line_answers_without_torch_ray_or_prefect():
    calls = [
        f"import sys; sys.argv = ['circuits', *{arguments}]\n"
        "from flows.cli import main\n"
        "try: main()\n"
        "except SystemExit as exit: assert not exit.code, exit.code"
        for arguments in (["--help"], ["run", "--help"], ["list"], ["schema"])
    ]

    assert heavy_modules_after(*calls) == {call: [] for call in calls}


@pytest.fixture(scope="module")
def tracked(root):
    """Every file that git knows or would add."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(listing, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [path for path in done.stdout.splitlines() if (root / path).is_file()]


def test_the_top_level_holds_only_what_belongs_there(root, tracked):
    listing = subprocess.run(
        ["git", "ls-files", "--cached"], cwd=root, capture_output=True, text=True, check=True
    )
    committed = set(listing.stdout.splitlines())  # a person's own configs and prompts may lie beside them
    top = {path.split("/")[0] for path in tracked if path in committed}
    assert top

    assert {name for name in top if not name.startswith(".")} <= ALLOWED


def test_no_two_files_of_the_packages_have_one_name(tracked):
    named = Counter(
        Path(path).name
        for path in tracked
        if path.startswith(("pipeline/", "flows/")) and path.endswith(".py")
    )
    for shared in ("__init__.py", "base.py"):
        assert named.pop(shared) > 1
    assert [name for name, n in named.items() if n > 1] == []


def test_no_file_names_a_machine_path_or_a_folder_beside_the_project(root, tracked):
    private = re.compile(r"\.\./shared|/work/|/home/\w|/root/|/Users/\w")
    searched = [path for path in tracked if not path.startswith(("tests/", ".ci/"))]
    assert searched

    named = []
    for path in searched:
        try:
            text = (root / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights and pictures
        named += [f"{path}: {match.group()}" for match in private.finditer(text)]

    assert named == []


def test_no_weights_are_pickled(tracked):
    assert [
        path for path in tracked if path.endswith((".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt"))
    ] == []


def test_shapes_are_checked_while_tests_run():
    """A function of the project refuses arrays whose shapes contradict its annotations."""
    import numpy as np

    from pipeline.core.scores import Moments, rank_order

    with pytest.raises(TypeError, match="rank_order"):
        rank_order(np.zeros((2, 2)))
    with pytest.raises(TypeError, match="Moments"):
        Moments(np.zeros(3, dtype=np.int64), np.zeros(2), np.zeros(2))


def test_every_data_file_of_the_packages_is_installed_with_them(root, tracked):
    with (root / "pyproject.toml").open("rb") as file:
        globs = tomllib.load(file)["tool"]["setuptools"]["package-data"]
    packaged = {
        found for package, patterns in globs.items() for p in patterns for found in (root / package).glob(p)
    }
    data = [root / path for path in tracked if re.match(r"(pipeline|flows)/.*(?<!\.py)(?<!\.md)$", path)]
    assert data

    assert [str(path) for path in data if path not in packaged] == []
