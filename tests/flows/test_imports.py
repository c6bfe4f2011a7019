"""What else bears the package's name hides it from nobody."""

import os
import subprocess
import sys

import pytest

from tests.infra.nodes import ROOT
from tests.processes import GUARD_SECONDS


@pytest.fixture
def elsewhere(tmp_path):
    """A working directory with a package, and modules, of names that are in use."""
    (tmp_path / "pipeline").mkdir()
    for name in ("pipeline/__init__.py", "torch.py", "ray.py"):
        (tmp_path / name).write_text("raise RuntimeError(f'{__file__} is imported')\n")
    return tmp_path


def say(code, folder, **env):
    words = [sys.executable, "-c", code]
    done = subprocess.run(
        words,
        cwd=folder,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=GUARD_SECONDS,
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def test_the_commands_import_the_package_beside_them(elsewhere):
    """`python -m` and `-c` search the working directory first."""
    (elsewhere / "flows").symlink_to(ROOT / "flows")
    code, out, err = say("import flows.submit, pipeline; print(*pipeline.__path__)", elsewhere)
    assert (code, out) == (0, str(ROOT / "pipeline")), err
    code, out, err = say(
        "import flows.submit, pipeline; print(*pipeline.__path__)", ROOT, PYTHONPATH=str(elsewhere)
    )
    assert (code, out) == (0, str(ROOT / "pipeline")), err


def test_where_another_package_was_imported_first_the_error_names_its_folder(elsewhere):
    (elsewhere / "pipeline" / "__init__.py").write_text("")
    code, _, err = say("import pipeline, flows", elsewhere, PYTHONPATH=str(elsewhere))
    assert code == 1
    assert err.splitlines() == [
        f"error: {elsewhere / 'pipeline'} hides the package of circuits; rename it, or start from another folder"
    ]


def test_workers_search_the_drivers_package_first_and_no_working_directory(elsewhere, monkeypatch):
    from pipeline.cluster.imports import OwnJob

    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    job = OwnJob()
    job._py_driver_sys_path.extend([str(elsewhere), "/elsewhere"])  # what Ray does when a driver starts
    assert list(job._get_proto_job_config().py_driver_sys_path) == [str(ROOT)]


def test_an_installed_package_is_not_searched_for_before_the_standard_library(monkeypatch):
    from pipeline.cluster import imports

    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(imports.site, "getsitepackages", lambda: [str(ROOT)])
    assert imports.search_path() == []
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert imports.search_path() == [str(ROOT)], "what is there could hide it"
