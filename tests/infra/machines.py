"""Machines on this one: network namespaces joined by a cable, with processes, names and /tmp/ray of their own.

Knows what root may do on Linux. Does not know Ray, Slurm or runs.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


@contextmanager
def two_networks(addresses: tuple[str, str]) -> Iterator[list[str]]:
    """Names of two namespaces, each with one of the addresses; skips the test where they may not be made."""
    names = [f"circuits-{os.getpid()}-{side}" for side in "ab"]
    cables = [f"c{os.getpid()}{side}" for side in "ab"]
    made = []
    try:
        try:
            for name in names:
                ip("netns", "add", name)
                made.append(name)
            ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("may not make network namespaces here")
        for name, cable, address in zip(names, cables, addresses, strict=True):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in made:
            ip("netns", "del", name)


def within(network: str, *words: object) -> list[str]:
    """The command in that network, with this machine's /sys (`ip netns exec` would hide the control groups)."""
    return ["nsenter", f"--net=/run/netns/{network}", *map(str, words)]


# The first process of a machine takes in those whose parents have gone, and all end with it.
BOOT = 'hostname "$1" && mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray || exit; shift; "$@" & wait'


def booted(network: str, host: str, *words: object) -> list[str]:
    """The command that starts a machine of that name, whose one service is `words`."""
    alone = ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return within(network, *alone, "bash", "-c", BOOT, "boot", host, *words)


def processes(network: str) -> dict[int, str]:
    """What runs in that network: command lines by process id."""
    ours = Path("/run/netns", network).stat().st_ino
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (entry / "ns" / "net").stat().st_ino == ours:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                found[int(entry.name)] = b" ".join(words).decode(errors="replace").strip()
    return found
