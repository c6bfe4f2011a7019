"""What has to stand in the environment before Prefect or Ray is imported: nothing is sent, little is logged.

Knows variables. What a person has set stays as it is.
"""

import os

VARIABLES = {
    "DO_NOT_TRACK": "1",
    "PREFECT_CLIENT_MAX_RETRIES": "2",  # a run that is over does not wait a minute for who shows it
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",  # the progress says what happens, and errors come as one line
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def set_quiet_environment() -> None:
    """Sets every variable that is not set yet."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
