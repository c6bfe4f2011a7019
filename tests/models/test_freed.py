"""Tensors are made of memory that the process has, not of pages that the system must clear."""

import platform
import resource
import subprocess
import sys

import pytest

from pipeline.models.freed import keep_freed_memory

_FAULTS = """
import resource, torch
from pipeline.models.freed import keep_freed_memory
assert keep_freed_memory()
x = torch.ones(2**21)
for step in range(60):
    if step == 10:
        first = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    several = [x * number for number in range(8)]
    del several
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - first)
"""
glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an allocator that is left alone")


def faults():
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    return int(done.stdout)


@glibc
def test_large_tensors_that_come_and_go_ask_the_system_for_few_pages():
    """Fifty steps make eight each, of new pages where nothing is kept; the first few may have to find a place where the
    pieces before them have left none."""
    pages = 4 * 2**21 // resource.getpagesize()
    assert faults() < 10 * pages


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_who_has_set_the_allocator_is_left_alone(monkeypatch, name):
    monkeypatch.setenv(name, "")
    assert not keep_freed_memory()


def test_other_allocators_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not keep_freed_memory()
