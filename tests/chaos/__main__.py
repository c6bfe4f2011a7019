"""`make chaos FAULTS=100 SEED=0`: the storm, and the table of its faults."""

import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.storm import blow

if __name__ == "__main__":
    faults, seed = map(int, sys.argv[1:])
    folder = Path(tempfile.mkdtemp(prefix="circuits-chaos-"))
    print(f"in {folder}", flush=True)
    since = time.monotonic()
    print(blow(folder, faults, seed))
    print(
        f"seed {seed}, {faults} faults in {time.monotonic() - since:.0f} s: aggregate and faithfulness byte-identical"
    )
