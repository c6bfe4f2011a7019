"""Attribution in 16-bit models ranks edges as in float32: differences and products are kept in float32."""

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.engine.patchable import patchable
from pipeline.methods import Eap, EapIg
from tests.oracles import models


def scores(method, dtype):
    model = patchable(models.build("llama", width=32, layers=3).to(dtype))
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(1, models.VOCABULARY, (2, 16, 8), generator=generator)
    answers = torch.randint(0, models.VOCABULARY, (2, 16), generator=generator)
    return method.score(model, [model.batch_from_ids(clean, corrupted, *answers)]).score


@pytest.mark.parametrize("method", [Eap(), EapIg(steps=3)], ids=lambda m: m.name)
def test_bfloat16_ranks_edges_as_float32_does(method):
    wide, narrow = scores(method, torch.float32), scores(method, torch.bfloat16)
    ranks = [pd.Series(np.abs(x)).rank() for x in (wide, narrow)]
    assert ranks[0].corr(ranks[1]) > 0.98
    assert not np.array_equal(wide, narrow)
