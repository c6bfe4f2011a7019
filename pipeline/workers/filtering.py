"""Which prompts of a shard a model gets right: an item of its own, before whatever is measured on them.

Knows batches and metrics. Does not know tasks or what is done with the prompts. Right is what `accuracy` says: the
answer above every wrong one; where a prompt has none, above every other token.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.core.errors import ScoreError
from pipeline.metrics import get_metric
from pipeline.store.run import schema

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engine.batch import Batch
    from pipeline.engine.patchable import PatchableModel

LIKELIER = "a wrong answer is likelier"
ELSE = "something else is likelier"


def filtered(model: "PatchableModel", batches: "Sequence[Batch]") -> pa.Table:
    """A row per prompt, by id: whether it is kept, why not, and the token that the model says first."""
    import torch

    rows = []
    for batch in batches:
        with torch.no_grad():
            hidden = model.answer_hidden(batch, "clean")
            if not bool(torch.isfinite(hidden).all()):
                raise ScoreError(
                    "what the model computes of these prompts is not finite; look at the model's logits"
                )
            right = model.objective(get_metric("accuracy"), batch)(hidden).bool().tolist()
            said = model.unembedding.logits(_first(batch, hidden)).argmax(-1).tolist()
        compared = (batch.wrong_answers >= 0).any(-1).tolist()
        for prompt, kept, wrong, token in zip(batch.prompt_ids, right, compared, said, strict=True):
            rows.append((prompt, kept, None if kept else LIKELIER if wrong else ELSE, token))
    columns = list(zip(*sorted(rows), strict=True)) or [()] * len(schema.FILTERED)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema.FILTERED, strict=True)]
    return pa.table(arrays, schema=schema.FILTERED)


def _first(batch: "Batch", hidden: "Tensor") -> "Tensor":
    """Final hidden states where the first tokens of answers are read."""
    if batch.answer_tokens is None:
        return hidden
    import torch

    place = batch.answer_tokens[:, 0, 0, 0].to(hidden.device)
    return hidden[torch.arange(len(place), device=hidden.device), place]
