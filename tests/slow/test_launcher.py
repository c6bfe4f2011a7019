"""Ray's cluster launcher with infra/ray/cluster.yaml, over ssh to two machines in namespaces of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import open_run
from tests.infra.machines import booted, two_networks, within
from tests.infra.nodes import ROOT, bin_on_path
from tests.processes import GUARD_SECONDS, wait_for
from tests.runs import toy_mapping

pytestmark = [pytest.mark.slow, pytest.mark.long]

HEAD, WORKER = "10.79.0.1", "10.79.0.2"
SSHD = "/usr/sbin/sshd"
PROGRAMS = (SSHD, "ssh", "ssh-keygen", "rsync", "nsenter", "unshare")

SETTINGS = """\
Port 22
HostKey {folder}/hostkey
AuthorizedKeysFile {folder}/id.pub
StrictModes no
PidFile none
UsePAM no
PermitRootLogin yes
SetEnv PYTHONPATH={root} RAY_worker_niceness=0
"""
# Homes are empty folders, and nothing outside of this machine's own mounts is touched.
SERVE = 'mount --bind "$1" /etc/passwd && mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec {sshd} -D -e -f "$2"'


class Fleet:
    """Two machines that take ssh, the folder of whoever launches a cluster there, and what it types."""

    def __init__(self, folder: Path, networks: list[str]) -> None:
        self.folder, self.networks = folder, networks
        self.home = self._home("desk")
        self.config = folder / "cluster.yaml"
        self.services: list[subprocess.Popen] = []
        for name in ("hostkey", "id"):
            words = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name)
            subprocess.run(words, check=True, capture_output=True)
        token = self.home / ".ray" / "auth_token"
        subprocess.run([ROOT / "infra" / "token.sh", token], check=True, capture_output=True)
        (folder / "sshd").write_text(SETTINGS.format(folder=folder, root=ROOT))
        mapping = yaml.safe_load((ROOT / "infra" / "ray" / "cluster.yaml").read_text())
        mapping["cluster_name"] = f"circuits-{os.getpid()}"
        mapping["provider"] |= {"head_ip": HEAD, "worker_ips": [WORKER]}
        mapping["auth"] = {"ssh_user": "root", "ssh_private_key": str(folder / "id")}
        mapping["min_workers"] = mapping["max_workers"] = 1
        self.config.write_text(yaml.safe_dump(mapping))

    def _home(self, name: str) -> Path:
        """A home as cluster.yaml expects it: the environment and the scripts below ~/circuits."""
        home = self.folder / name
        (home / "circuits").mkdir(parents=True)
        (home / "circuits" / ".venv").symlink_to(Path(sys.executable).parent.parent)
        (home / "circuits" / "infra").symlink_to(ROOT / "infra")
        return home

    def start(self) -> None:
        (root,) = [line for line in Path("/etc/passwd").read_text().splitlines() if line.startswith("root:")]
        *fields, _, shell = root.split(":")
        for network, name in zip(self.networks, ("head", "worker"), strict=True):
            passwd = self.folder / f"passwd-{name}"
            others = Path("/etc/passwd").read_text().replace(root + "\n", "")
            passwd.write_text(":".join([*fields, str(self._home(name)), shell]) + "\n" + others)
            command = booted(
                network, name, "bash", "-c", SERVE.format(sshd=SSHD), "serve", passwd, self.folder / "sshd"
            )
            with (self.folder / f"{name}.log").open("w") as log:
                self.services.append(
                    subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
                )
            wait_for(lambda log=log: "listening" in Path(log.name).read_text())

    def type(self, *words: object) -> subprocess.CompletedProcess[str]:
        env = bin_on_path() | {"HOME": str(self.home), "RAY_USAGE_STATS_ENABLED": "0"}
        return subprocess.run(
            within(self.networks[0], *words),
            env=env,
            capture_output=True,
            text=True,
            timeout=GUARD_SECONDS,
            check=False,
        )

    def on(self, address: str, command: str) -> subprocess.CompletedProcess[str]:
        """A shell command on a machine, over ssh."""
        files = ("-F", "none", "-i", self.folder / "id", "-o", "UserKnownHostsFile=/dev/null")
        return self.type("ssh", "-q", *files, "-o", "StrictHostKeyChecking=no", f"root@{address}", command)

    def stop(self) -> None:
        for service in self.services:
            service.kill()
            service.wait()
        for left in Path("/tmp/ray").glob(f"cluster-circuits-{os.getpid()}.*"):  # what `ray up` remembers
            left.unlink()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        pytest.skip(f"not installed: {', '.join(missing)} (Debian: openssh-server, rsync)")
    if os.geteuid() != 0:
        pytest.skip("only root may make namespaces and start sshd")
    with two_networks((HEAD, WORKER)) as networks:
        fleet = Fleet(tmp_path_factory.mktemp("fleet"), networks)
        try:
            fleet.start()
            yield fleet
        finally:
            fleet.stop()


def test_a_launched_cluster_has_its_workers_and_runs_what_is_submitted(fleet, tmp_path):
    up = fleet.type("ray", "up", "--yes", "--no-config-cache", fleet.config)
    assert up.returncode == 0, up.stdout + up.stderr
    in_environment = "export PATH=$HOME/circuits/.venv/bin:$PATH RAY_AUTH_MODE=token;"

    def alive():
        code = (
            "import ray; ray.init('auto', log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"
        )
        return fleet.on(HEAD, f'{in_environment} python -c "{code}"').stdout.split()[-1:]

    wait_for(lambda: alive() == ["2"])
    for address in (HEAD, WORKER):
        assert fleet.on(address, "stat -c %a ~/.ray/auth_token").stdout.strip() == "600"
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(toy_mapping(tmp_path / "results", cluster={"workers": 2})))

    done = fleet.on(HEAD, f"{in_environment} circuits submit {config} --wait")

    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (tmp_path / "results").glob("toy-*")
    assert open_run(run).status()["complete"]
