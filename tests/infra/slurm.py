"""A Slurm of two machines on this one: the controller and a node on the first, a node on the second.

Knows Slurm's daemons and commands. Does not know what the jobs do.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.infra.machines import booted, processes, two_networks, within
from tests.infra.nodes import bin_on_path
from tests.processes import GUARD_SECONDS

ADDRESSES = ("10.78.0.1", "10.78.0.2")
HOSTS = ("n1", "n2")
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "nsenter", "unshare")
OWN = ("slurm", "munged", "unshare", ": slurmscriptd", "bash -c hostname")  # what runs without any job

CONFIG = """\
ClusterName=circuits
SlurmctldHost=n1({first})
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SlurmdParameters=config_overrides
NodeName=n1 NodeAddr={first} CPUs=4
NodeName=n2 NodeAddr={second} CPUs=4
PartitionName=all Nodes=n1,n2 Default=YES State=UP
"""


class Slurm:
    """The daemons of a cluster, and the commands that a user types on its first machine."""

    def __init__(self, folder: Path, networks: list[str]) -> None:
        self.folder, self.networks = folder, networks
        self.daemons: list[subprocess.Popen] = []
        self.env = {key: value for key, value in bin_on_path().items() if not key.startswith("SLURM")}
        self.env |= {"SLURM_CONF": str(folder / "slurm.conf"), "RAY_worker_niceness": "0"}

    def start(self) -> None:
        for name in ("state", *HOSTS):
            (self.folder / name).mkdir()
        first, second = ADDRESSES
        (self.folder / "slurm.conf").write_text(CONFIG.format(first=first, second=second, folder=self.folder))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        files = [
            f"--{option}={self.folder}/munge.{option}"
            for option in ("socket", "pid-file", "log-file", "seed-file")
        ]
        self._daemon("munged", "--foreground", "--force", f"--key-file={key}", *files)
        self.wait_for((self.folder / "munge.socket").exists)
        one, two = self.networks
        self._daemon(*within(one, "unshare", "--uts", "bash", "-c", "hostname n1 && exec slurmctld -D"))
        self._daemon(*booted(one, "n1", "slurmd", "-D"))
        self._daemon(*booted(two, "n2", "slurmd", "-D"))
        self.wait_for(lambda: self.type("sinfo", "-h", "-t", "idle", "-o", "%D") == "2")

    def _daemon(self, *words: str) -> None:
        with (self.folder / f"daemon-{len(self.daemons)}.out").open("w") as log:
            self.daemons.append(
                subprocess.Popen(words, env=self.env, stdout=log, stderr=log, start_new_session=True)
            )

    def type(self, *words: object, folder: Path | None = None) -> str:
        """What a command says on the first machine; empty when it fails."""
        command = within(self.networks[0], *words)
        done = subprocess.run(
            command,
            env=self.env,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=GUARD_SECONDS,
            check=False,
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    def state(self, job: str) -> str:
        """One word, such as RUNNING, COMPLETING, COMPLETED, FAILED or CANCELLED."""
        words = self.type("scontrol", "--oneliner", "show", "job", job).split()
        return next((word.partition("=")[2] for word in words if word.startswith("JobState=")), "")

    def of_jobs(self) -> dict[int, str]:
        """The processes on both machines that are not Slurm's own."""
        everything = {pid: title for network in self.networks for pid, title in processes(network).items()}
        return {pid: title for pid, title in everything.items() if not title.startswith(OWN)}

    def wait_for(self, condition) -> None:
        end = time.monotonic() + GUARD_SECONDS
        while not condition():
            assert time.monotonic() < end, f"nothing came of what was waited for: {self.said()}"
            time.sleep(0.2)

    def said(self) -> str:
        return "\n".join(f"{path}: {path.read_text()[-1500:]}" for path in self.folder.glob("*.out"))

    def stop(self) -> None:
        """Ends the machines, and with them all that runs there; what Slurm knew goes with its folder."""
        for daemon in reversed(self.daemons):
            daemon.kill()
            daemon.wait()


@contextmanager
def slurm(folder: Path) -> Iterator[Slurm]:
    """A running cluster; skips the test where Slurm is not installed or namespaces may not be made."""
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: slurm-wlm, munge)")
    with two_networks(ADDRESSES) as networks:
        cluster = Slurm(folder, networks)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
