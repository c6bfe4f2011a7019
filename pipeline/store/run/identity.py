"""Whether two runs are the same, one a part of the other, or how they differ, in words.

Knows the identity that a manifest holds, as plain data. Does not know files.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any


def holds(larger: Mapping[str, Any], smaller: Mapping[str, Any]) -> bool:
    """Whether a run with the identity `larger` computes all that one with `smaller` does."""
    for key in {*larger, *smaller}:
        if key in ("tasks", "methods", "spans"):  # spans: only where some are read
            if any(larger.get(key, {}).get(id_) != entry for id_, entry in smaller.get(key, {}).items()):
                return False
        elif larger.get(key) != smaller.get(key):
            return False
    return True


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first difference of two identities, in words: `shards.prompts is 64 there, 32 here`."""
    before, after = dict(_flat(old)), dict(_flat(new))
    for key in sorted({*before, *after}, key=lambda key: (key not in before or key not in after, key)):
        if before.get(key) == after.get(key):
            continue
        entry, name = key[:2], ".".join(key[:2])
        if not any(other[:2] == entry for other in after):
            return f"it has {name}, which this config has not"
        if not any(other[:2] == entry for other in before):
            return f"it has no {name}"
        if key[-1] in ("sha256", "fingerprint", "graph"):
            name = ".".join(part for part in entry if part not in ("fingerprint", "graph"))
            return f"{name} has other contents there"
        return f"{'.'.join(key)} is {before.get(key)} there, {after.get(key)} here"
    return "nothing that is named"


def _flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, (*path, str(key)))
    else:
        yield path, json.dumps(value)
