"""What is left of a session, done in this process or on Ray.

Knows where progress is shown. Does not know verbs, nor what is said at the end.
"""

import contextlib
import sys
from contextlib import closing
from typing import Any


def computed(session: Any, *, local: bool, quiet: bool) -> bool:
    """Does all that is left of a session, and says whether there was nothing to do."""
    from flows.progress import shown
    from pipeline.schedule.conduct import settle

    already = settle(session)
    if not already:
        # Whatever a library prints must not get into the data on stdout.
        with contextlib.redirect_stdout(sys.stderr), shown(quiet=quiet) as on_event, session.continued():
            _compute(session, on_event, local)
    return already


def _compute(session: Any, on_event: Any, local: bool) -> None:
    if local:
        from pipeline.schedule.conduct import conduct
        from pipeline.schedule.pools import open_pool

        with closing(open_pool(session, local=True)) as pool:
            conduct(session, pool, on_event)
        return
    from flows.environment import set_quiet_environment

    set_quiet_environment()
    from flows.running import run_flow

    run_flow(session, on_event)
