"""A model folder of others, tried before anything is computed: its weights by their names, its tokenizer by a line.

Knows how a tokenizer can fail: its Rust code may give up with what is no Exception, or never end, as a normaliser
does that doubles a letter sixty times. So it is tried in a process of its own, which the machine stops. Does not know
prompts.
"""

import os
import subprocess
import sys
from pathlib import Path

from pipeline.core.errors import ModelError
from pipeline.core.text import first_line
from pipeline.models.load import ResolvedModel, check_weights

CPU_SECONDS, GIB = 20, 4  # what reading a tokenizer and one line may take
HANGS_SECONDS = 600  # in which a process gets its seconds of CPU on the busiest machine

LINE = (
    "Then, Mary and John went to the store. 'She' gave 17 (or 32): the quick brown fox; JUMPED over lazy dogs"
)

# Exceptions are no matter here: loading and encoding say them, where they are met.
_TRIAL = """
import contextlib, resource, sys
seconds, size, path, line = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
with contextlib.suppress(ValueError, OSError):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
try:
    from tokenizers import Tokenizer
    Tokenizer.from_file(path).encode(line)
except MemoryError:
    sys.exit(3)
except Exception:
    pass
except BaseException as error:
    print(error)
    sys.exit(2)
"""


_good: set[str] = set()  # fingerprints of folders that were tried by this process


def try_folder(model: ResolvedModel) -> None:
    """Raises ModelError for a folder whose weights are not those of its config.json, or whose tokenizer.json breaks
    or does not end. Bundled models are known; those of the hub are fetched where they are loaded."""
    if model.is_local and not model.name.startswith("toy:") and model.fingerprint not in _good:
        _try_tokenizer(model.name, model.path)
        check_weights(model)
        _good.add(model.fingerprint)


def _try_tokenizer(name: str, path: str) -> None:
    file = Path(path) / "tokenizer.json"
    if not file.is_file():
        return
    trial = [sys.executable, "-I", "-c", _TRIAL, str(CPU_SECONDS), str(GIB << 30), str(file), LINE]
    quiet = os.environ | {"RUST_BACKTRACE": "0", "TOKENIZERS_PARALLELISM": "false"}
    said = ""
    try:
        done = subprocess.run(  # noqa: S603 - this Python, and a file to read
            trial, capture_output=True, text=True, timeout=HANGS_SECONDS, check=False, env=quiet
        )
    except subprocess.TimeoutExpired:
        code = 3
    else:
        code, said = done.returncode, done.stdout
    if code == 2:
        raise ModelError(
            f"model {name!r}: its tokenizer does not load (tokenizer.json breaks the library that reads it: "
            f"{first_line(ValueError(said))[:100]}); save the tokenizer again"
        )
    if code == 3 or code < 0:
        raise ModelError(
            f"model {name!r}: its tokenizer does not end: one line of text takes over {CPU_SECONDS} s or "
            f"{GIB} GiB; look for a normalizer or pre_tokenizer in tokenizer.json that repeats"
        )
