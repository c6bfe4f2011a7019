"""Where workers import this package from: whence their driver has it, whatever else bears its name.

Knows Ray's search path. By itself Ray puts the driver's working directory before everything that is installed: a
`pipeline/`, a `random.py` or a `torch.py` that lies there would be what workers import.
"""

import os
import site
from pathlib import Path
from typing import Any

from ray.job_config import JobConfig

import pipeline


class OwnJob(JobConfig):
    """Ray's settings of a driver, but for the search path of the workers asked."""

    def _get_proto_job_config(self) -> Any:  # just before they are sent
        self._py_driver_sys_path = search_path()
        return super()._get_proto_job_config()


def search_path() -> list[str]:
    """The folders that workers search before all others: the one that holds this package, unless it is where installed
    packages are found anyway."""
    root = str(Path(pipeline.__file__).resolve().parent.parent)
    installed = {
        str(Path(folder).resolve()) for folder in (*site.getsitepackages(), site.getusersitepackages())
    }
    return [] if root in installed and not os.environ.get("PYTHONPATH") else [root]
