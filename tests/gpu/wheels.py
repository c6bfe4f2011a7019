"""Fetches what the product needs and a device machine may lack, unpacked, for Python 3.12 on x86-64 Linux.

    python -m tests.gpu.wheels [PACKAGE==VERSION ...]

The versions are those of infra/constraints.txt. They go into build/gpu, which git ignores: name that folder to what
copies the working tree to the device. Compiled code cannot be imported from an archive, so they are unpacked here.
"""

import shutil
import subprocess
import sys

from tests.gpu import CARRIED, ROOT, site

NEEDED = ("pydantic", "pydantic-core", "annotated-types", "typing-extensions", "typing-inspection")
PLATFORMS = ("manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64")
MOST = 64 * 2**20


def pinned(names: tuple[str, ...] = NEEDED) -> list[str]:
    """`name==version` of each, as the project's own environment has it."""
    lines = (ROOT / "infra" / "constraints.txt").read_text().splitlines()
    versions = {line.partition("==")[0].replace("_", "-").lower(): line for line in lines if "==" in line}
    return [versions[name] for name in names]


def command(wanted: list[str]) -> list[str]:
    """The call of pip that unpacks them, for another Python than its own."""
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--upgrade"]
    words += ["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.12"]
    words += [word for platform in PLATFORMS for word in ("--platform", platform)]
    return [*words, "--target", str(site()), *wanted]


def main() -> None:
    shutil.rmtree(site(), ignore_errors=True)
    subprocess.run(command([*pinned(), *sys.argv[1:]]), check=True)
    size = sum(path.stat().st_size for path in CARRIED.rglob("*") if path.is_file())
    print(f"{site().relative_to(ROOT)}: {size / 2**20:.1f} MiB")
    if size > MOST:
        raise SystemExit(f"{CARRIED} holds over {MOST >> 20} MiB; carry less")


if __name__ == "__main__":
    main()
