"""The command line and the Prefect flow: words and pictures around `pipeline.schedule.conduct`. No logic lives
here, but that the `pipeline` beside this package is the one that is imported, whatever else bears that name."""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path


def _import_ours() -> None:
    """Imports it by its place: a folder of that name in the working directory (`python -m`) or in PYTHONPATH would be
    found first. SystemExit, with the folder's name, where another one has been imported already."""
    ours = Path(__file__).resolve().parent.parent / "pipeline"
    there = sys.modules.get("pipeline")
    if there is not None:
        folder = (
            Path(next(iter(there.__path__), "")) if hasattr(there, "__path__") else Path(there.__file__ or "")
        )
        if folder.resolve() != ours:
            raise SystemExit(
                f"error: {folder} hides the package of circuits; rename it, or start from another folder"
            )
        return
    spec = spec_from_file_location("pipeline", ours / "__init__.py", submodule_search_locations=[str(ours)])
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["pipeline"] = module_from_spec(spec)
    spec.loader.exec_module(module)


_import_ours()
