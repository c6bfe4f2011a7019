"""Stands in for the agent of Ray's pages on a private Ray, which has none: a script of its own that imports nothing.

Knows what Ray's server of a machine waits for before it says that it is up: files that name the ports of that agent,
which imports for seconds to write them. -1 is what Ray itself writes there of what does not listen. Like any agent it
is there for as long as its server is.
"""

import os
import sys
import time

PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")


def _say(folder: str, node: str) -> None:
    for name in PORTS:
        path = os.path.join(folder, f"{name}_{node}")  # noqa: PTH118 - pathlib takes longer than all of this
        with open(f"{path}.new", "w") as file:  # noqa: PTH123
            file.write("-1")
        os.replace(f"{path}.new", path)  # noqa: PTH105


def _is_there(server: int) -> bool:
    try:
        os.kill(server, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    _say(*sys.argv[1:3])  # the server adds words of its own
    while _is_there(int(os.environ["RAY_RAYLET_PID"])):
        time.sleep(1)
