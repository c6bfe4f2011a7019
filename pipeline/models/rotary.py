"""The rotary embedding of GPT-J, whose attention makes it inside instead of being given tables.

Everything else uses its family's own function. Checked, like all adapters, against the stock model at load.
"""

from typing import Any

import torch
from torch import Tensor, nn


def gptj_tables(attn: nn.Module, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin [prompt, pos, rot / 2] from the table that the attention module holds."""
    owner: Any = attn
    table = owner._get_embed_positions(position_ids)  # noqa: SLF001 - what the module's own forward calls
    index = position_ids.unsqueeze(-1).expand(-1, -1, table.shape[-1])
    sin, cos = torch.gather(table, 1, index).chunk(2, -1)
    return cos, sin


def gptj_rotary(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
) -> tuple[Tensor, Tensor]:
    """q and k with neighbouring pairs of their first entries turned by the tables' angles."""
    cos, sin = (t.repeat_interleave(2, -1).to(q.dtype).unsqueeze(unsqueeze_dim) for t in (cos, sin))
    return _turned(q, cos, sin), _turned(k, cos, sin)


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    part, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    pairs = torch.stack((-part[..., 1::2], part[..., ::2]), -1).flatten(-2)
    return torch.cat([part * cos + pairs * sin, rest], -1)
