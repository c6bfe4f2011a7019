"""How closely every family is met, as a table: `pytest -m slow -s` prints it, and CIRCUITS_PARITY_TABLE names a file
for it.

Each number is the largest difference between the logits of a run recomputed from parts and of the stock model,
as a share of the largest logit, at the answers of a small random model. Runs are the clean one, with all edges
kept, and the corrupted one, recomputed from its embeddings. In the float64 columns nothing leaves float64; in the
float32 columns the stock model is as it is.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.exactness import PADDINGS, recomputed_logits, relative_error, stock_logits
from tests.oracles import models

LIMITS = {"float64": 1e-10, "float32": 1e-5}


def parity(setting):
    senders, p = setting.graph.edge_senders, setting.prompts
    runs = ((np.ones(len(senders), dtype=bool), p.clean), (senders != 0, p.corrupted))
    return max(
        relative_error(recomputed_logits(setting, kept), stock_logits(setting, ids)) for kept, ids in runs
    )


def table(errors):
    columns = [f"{dtype}, {padding}" for dtype in LIMITS for padding in PADDINGS]
    lines = ["| family | model type | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for (kind, model_type), row in errors.items():
        lines.append(
            f"| {kind} | {model_type} | " + " | ".join(f"{error:.0e}" for error in row.values()) + " |"
        )
    return "\n".join(lines)


@pytest.mark.slow  # the same comparisons run case by case in test_exactness_executor.py; this one makes the table
def test_every_family_is_met_within_the_limits(setting_of):
    errors = {}
    for kind in models.KINDS:
        row = {}
        for dtype in LIMITS:
            for padding in PADDINGS:
                setting = setting_of(kind, dtype=dtype, padding=padding)
                row[dtype, padding] = parity(setting)
        errors[kind, setting.stock.config.model_type] = row
    text = table(errors)
    print(f"\n{text}")
    if path := os.environ.get("CIRCUITS_PARITY_TABLE"):
        Path(path).write_text(text + "\n", encoding="utf-8")
    assert not [
        (kind, column)
        for kind, row in errors.items()
        for column, error in row.items()
        if not error <= LIMITS[column[0]]
    ]
