"""A model that is not what its family's row says is refused at load; one that is loads, whatever its weights."""

import pytest
import torch
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function, eager_mask

from pipeline import load_model
from pipeline.core.errors import ModelError
from pipeline.engine.attending import EXACT
from pipeline.engine.patchable import patchable
from pipeline.engine.selfcheck import relative_error, stock_logits, tolerance
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


@pytest.mark.slow
def test_a_deep_model_in_16_bits_loads_although_every_layer_rounds():
    stock = models.build("llama", layers=64, width=64).to(torch.bfloat16)
    assert 0.02 < relative_error(patchable(stock)) <= tolerance(torch.bfloat16, 64)
    stock.model.layers[1].self_attn.o_proj.register_forward_hook(lambda _module, _args, out: 1.5 * out)
    with pytest.raises(ModelError, match=r"\(allowed 6e-02 in bfloat16\)"):
        patchable(stock)


# --- lengths at which a model changes ---------------------------------------------------------------------

LONG = {
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10.0,
        "short_factor": [1.0, 1.3],
        "long_factor": [2.0, 5.0],
        "partial_rotary_factor": 1.0,
    },
    "original_max_position_embeddings": 4096,
    "max_position_embeddings": 8192,
}
DYNAMIC = {
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10.0, "factor": 4.0},
    "max_position_embeddings": 4096,
}


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("phi3", LONG | {"sliding_window": None}),
        ("phi3", LONG | {"sliding_window": 2048}),
        ("phi3", LONG | {"original_max_position_embeddings": 3}),
        ("llama", DYNAMIC),
        ("llama", DYNAMIC | {"max_position_embeddings": 6}),
        ("gemma2", {"sliding_window": 4096}),
    ],
)
def test_a_model_is_checked_beyond_the_length_at_which_it_changes_with_few_tokens(kind, changed):
    with float64_throughout():
        stock = models.build(kind, changed=changed)
        longest = []
        stock.model.register_forward_pre_hook(
            lambda _module, _args, kwargs: longest.append(kwargs["input_ids"].shape[1]), with_kwargs=True
        )
        window = getattr(stock.config, "sliding_window", None)
        model = patchable(stock)
        assert len(stock_logits(stock)) == 2
        assert relative_error(model) <= 1e-10
        assert max(longest) <= 8
        assert getattr(stock.config, "sliding_window", None) == window


def test_a_rotary_embedding_that_changes_unseen_is_refused(monkeypatch):
    monkeypatch.setattr("pipeline.models.adapters.rotary_by_length", lambda _base: ())
    with pytest.raises(ModelError, match="self-check"):
        patchable(models.build("phi3", changed=LONG))


def test_a_far_window_that_is_not_recorded_is_refused(monkeypatch):
    def windowless(*args, **kwargs):
        return eager_mask(*args, **kwargs | {"mask_function": causal_mask_function})

    monkeypatch.setitem(AttentionMaskInterface._global_mapping, EXACT, windowless)
    patchable(models.build("mistral", changed={"sliding_window": None}))
    with pytest.raises(ModelError, match="self-check"):
        patchable(models.build("mistral", changed={"sliding_window": 4096}))


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


def test_a_stock_model_whose_kernel_leaves_the_cap_of_attention_out_is_run_by_one_that_does_not():
    """As transformers 5.17 loads Gemma 2; later versions refuse to."""
    stock = models.build("gemma2")
    stock.config._attn_implementation = "sdpa"
    assert patchable(stock).hf.config._attn_implementation == "eager"
