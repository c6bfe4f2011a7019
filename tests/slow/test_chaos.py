"""A small storm; `make chaos FAULTS=100` is a large one."""

import os
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.long]

if not Path("/proc/self/stat").exists():
    pytest.skip("finds workers in /proc", allow_module_level=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a disk to fill it")
def test_a_run_under_random_faults_ends_with_the_same_bytes(tmp_path):
    from tests.chaos.storm import blow

    print(blow(tmp_path / "storm", 15, seed=1))
