"""What tests of the config share: the smallest one, and the line that refuses one."""

import pytest

from pipeline.config import RunConfig
from pipeline.core.errors import ConfigError

MINIMAL = {
    "name": "demo",
    "model": {"name": "toy:planted"},
    "tasks": [{"name": "induction"}],
    "methods": [{"name": "eap"}],
}


def config(**changes) -> RunConfig:
    return RunConfig.from_mapping({**MINIMAL, **changes})


def error_of(mapping) -> str:
    with pytest.raises(ConfigError) as caught:
        RunConfig.from_mapping(mapping, where="run.yaml")
    message = str(caught.value)
    assert message.startswith("run.yaml: ")
    assert "\n" not in message
    return message
