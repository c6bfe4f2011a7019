"""A model that is not what its family's row says is refused at load; one that is loads, whatever its weights."""

import pytest
import torch

from pipeline import load_model
from pipeline.core.errors import ModelError
from pipeline.engine.patchable import patchable
from pipeline.engine.selfcheck import relative_error
from tests.oracles import models
from tests.oracles.float64 import float64_throughout


def modules(stock):
    """Places in a model where a variant of the architecture could differ, by name."""
    gpt2 = hasattr(stock, "transformer")
    block = stock.transformer.h[1] if gpt2 else stock.model.layers[1]
    return {
        "attention": block.attn.c_proj if gpt2 else block.self_attn.o_proj,
        "query": block.attn.c_attn if gpt2 else block.self_attn.q_proj,
        "norm": block.ln_2 if gpt2 else block.post_attention_layernorm,
        "mlp": block.mlp,
        "block": block,
        "logits": stock.lm_head,
    }


@pytest.mark.parametrize("place", ["attention", "query", "block", "logits"])
@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_a_model_that_computes_something_more_is_refused(kind, place):
    stock = models.build(kind)
    patchable(stock)
    handle = modules(stock)[place].register_forward_hook(lambda _module, _args, out: 1.01 * out)
    with pytest.raises(ModelError, match="self-check"):
        patchable(stock)
    handle.remove()
    patchable(stock)


@pytest.mark.parametrize("place", ["norm", "mlp"])
def test_what_lies_inside_of_a_module_that_is_called_whole_is_taken_over(place):
    stock = models.build("gpt2")
    modules(stock)[place].register_forward_hook(lambda _module, _args, out: 1.01 * out)
    patchable(stock)


@pytest.mark.parametrize("kind", models.KINDS)
@pytest.mark.parametrize("kv", ["query_head", "kv_head"])
def test_the_error_of_a_supported_model_is_rounding(kind, kv):
    with float64_throughout():
        assert relative_error(patchable(models.build(kind), kv=kv)) <= 1e-10


def test_no_hook_or_setting_remains_after_an_exception():
    stock = models.build("llama")
    before = stock.config._attn_implementation
    model, p = patchable(stock), models.prompts([4, 4])
    batch = model.batch_from_ids(p.clean, p.corrupted, torch.tensor([1, 2]))

    def fail(*_):
        raise RuntimeError("on purpose")

    mine = stock.model.layers[1].mlp
    mine.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        model.capture(batch)
    assert stock.config._attn_implementation == before
    assert [m for m in stock.modules() if m._forward_hooks or m._forward_pre_hooks] == [mine]
    assert len(mine._forward_hooks) == 1


def test_logits_that_cancel_at_the_answer_do_not_count_as_an_error(shared_data):
    load_model(str(shared_data / "models" / "tracr-reverse"))
