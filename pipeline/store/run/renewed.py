"""Merged scores that an earlier version has written, as this one would write them.

Knows what was different: normal intervals, signs counted over shards, intervals of methods that decide and of too few
prompts, no column for the decision itself. Does not know shards: everything follows from the merged columns.
"""

import numpy as np
import pyarrow as pa

from pipeline.core.intervals import t_95
from pipeline.store.run.bootstrap import FEWEST
from pipeline.store.run.rows import floats, with_columns


def renewed(table: pa.Table) -> pa.Table:
    """The table, all columns of today in it, with Student's intervals, without signs over shards and with `kept` filled
    in."""
    mean, sem = floats(table["score"]), floats(table["score_sem"])
    reach = t_95(table["n_prompts"].to_numpy().astype(np.int64)) * sem
    columns = {"sign_agreement": np.full(len(table), np.nan)}
    if "kept" in table.column_names:
        share = floats(table["kept_fraction"])
        decided = ~np.isnan(share)
        if decided.any():
            reach = np.full(len(table), np.nan)
            several = table["n_shards"].to_numpy().max() > 1  # of the first edge tested: every shard's
            columns["kept_fraction"] = share if several else np.full(len(table), np.nan)
        place = table.schema.get_field_index("kept")
        kept = pa.array(np.nan_to_num(share) >= 0.5, mask=~decided)
        table = table.set_column(place, table.field(place), kept)
        few = table["n_prompts"].to_numpy() < FEWEST
        columns |= {name: np.where(few, np.nan, floats(table[name])) for name in ("boot_low", "boot_high")}
    columns |= {"ci_low": mean - reach, "ci_high": mean + reach}
    return with_columns(table, columns)
