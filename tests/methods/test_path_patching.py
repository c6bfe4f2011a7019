"""Path patching to sets of receivers against a dense forward, and against the IOI paper's recipe on stock GPT-2."""

import numpy as np
import pytest
import torch

from pipeline.core.errors import CircuitsError
from pipeline.engine.patchable import patchable
from pipeline.methods import EdgePatching, PathPatching
from tests.exactness import relative_error
from tests.oracles import models


@pytest.mark.parametrize("kind", models.KINDS)
def test_direct_paths_to_a_set_are_its_edges_removed_together(setting_of, kind):
    setting = setting_of(kind)
    graph, names = setting.graph, ["a0.h1<v>", "a1.h2<q>", "m1", "logits"]
    found = PathPatching(receivers=names).score(setting.model, [setting.batch])
    clean = setting.harm("logit_diff", setting.clean.logits)
    expected = []
    for sender in found.node:
        kept = np.ones(graph.n_edges, dtype=bool)
        for name in names:
            receiver = graph.receiver_index(name)
            if sender < graph.senders_read[receiver]:
                kept[graph.first_edge[receiver] + sender] = False
        expected.append((setting.harm("logit_diff", setting.patched(kept)) - clean).mean())
    assert relative_error(found.score, expected) <= 1e-9


@pytest.mark.parametrize("direction", ["noising", "denoising"])
@pytest.mark.parametrize("receiver", ["a1.h0<k>", "m0", "logits"])
def test_one_receiver_is_one_edge_each(setting_of, direction, receiver):
    setting = setting_of("llama")
    method = PathPatching(receivers=receiver, direction=direction)
    found = method.score(setting.model, [setting.batch], metric="kl_divergence")
    edges = EdgePatching(direction=direction).score(setting.model, [setting.batch], metric="kl_divergence")
    into = edges.score[setting.graph.edges_into(setting.graph.receiver_index(receiver))]
    assert relative_error(found.score, into) <= 1e-9


class Recorded:
    """A stock GPT-2 run with hooks: sender outputs overwritten, attention patterns and values frozen, inputs set."""

    def __init__(self, hf):
        self.hf, self.blocks = hf, hf.transformer.h

    def qkv(self, ids):
        out, handles = {}, []
        for i, block in enumerate(self.blocks):
            handles.append(
                block.attn.c_attn.register_forward_hook(lambda _m, _a, o, i=i: out.__setitem__(i, o))
            )
        self.hf(ids)
        [handle.remove() for handle in handles]
        return out

    def z(self, ids):
        out, handles = {}, []
        for i, block in enumerate(self.blocks):
            handles.append(
                block.attn.c_proj.register_forward_pre_hook(lambda _m, a, i=i: out.__setitem__(i, a[0]))
            )
        self.hf(ids)
        [handle.remove() for handle in handles]
        return out


@pytest.mark.parametrize("receivers", [("logits",), ("a2.h1<q>", "a2.h3<v>"), ("m1", "a2.h0<k>")])
def test_the_ioi_reading_is_the_papers_recipe(receivers):
    """C: clean run, all q, k, v frozen, one head overwritten, MLPs recomputed. D: receivers set to what C read."""
    hf = models.build("gpt2", layers=3)
    p = models.prompts([5, 5])
    model = patchable(hf)
    batch = model.batch_from_ids(p.clean, p.corrupted, torch.tensor([1, 2]), torch.tensor([3, 4]))
    found = PathPatching(receivers=receivers, reading="ioi").score(model, [batch])
    d_head, graph = 4, model.graph
    stock = Recorded(hf)
    frozen, other = stock.qkv(p.clean), stock.z(p.corrupted)

    def metric(logits):
        right = logits[[0, 1], -1, [1, 2]]
        return right - logits[[0, 1], -1, [3, 4]]

    clean = metric(hf(p.clean).logits)

    def recipe(layer, head):
        reads, handles = {}, []

        def overwrite(_module, args):
            z, columns = args[0].clone(), slice(head * d_head, (head + 1) * d_head)
            z[..., columns] = other[layer][..., columns]
            return (z,)

        def keep(module, key):
            handles.append(module.register_forward_hook(lambda _m, _a, o: reads.__setitem__(key, o)))

        handles.append(stock.blocks[layer].attn.c_proj.register_forward_pre_hook(overwrite))
        for i, block in enumerate(stock.blocks):
            handles.append(block.attn.c_attn.register_forward_hook(lambda _m, _a, _o, i=i: frozen[i]))
            keep(block.ln_1, (i, "ln_1"))
            keep(block.ln_2, (i, "ln_2"))
        keep(hf.transformer.ln_f, "logits")
        hf(p.clean)
        [handle.remove() for handle in handles]
        handles = []
        for name in receivers:
            node = graph.receivers[graph.receiver_index(name)]
            if node.kind == "logits":
                handles.append(hf.transformer.ln_f.register_forward_hook(lambda *_: reads["logits"]))
            elif node.kind == "mlp":
                norm, read = stock.blocks[node.layer].ln_2, reads[node.layer, "ln_2"]
                handles.append(norm.register_forward_hook(lambda *_, read=read: read))
            else:

                def put(module, _args, out, node=node):
                    full = reads[node.layer, "ln_1"] @ module.weight + module.bias
                    first = "qkv".index(node.port) * 16 + node.head * d_head
                    out = out.clone()
                    out[..., first : first + d_head] = full[..., first : first + d_head]
                    return out

                handles.append(stock.blocks[node.layer].attn.c_attn.register_forward_hook(put))
        patched = metric(hf(p.clean).logits)
        [handle.remove() for handle in handles]
        return float((clean - patched).mean())

    for layer, head in ((0, 0), (0, 2), (1, 1)):
        sender = graph.head_sender(layer, head)
        if sender in found.node:
            expected = recipe(layer, head)
            assert abs(found.score[list(found.node).index(sender)] - expected) <= 1e-9
            assert abs(expected) > 1e-6


def test_at_the_answer_alone_the_last_position_is_patched(setting_of):
    setting = setting_of("gpt2")
    every = PathPatching().score(setting.model, [setting.batch])
    last = PathPatching(positions="last").score(setting.model, [setting.batch])
    np.testing.assert_allclose(last.score, every.score, atol=1e-10)  # logits read that position only
    assert set(last.span) == {"last"}
    inner = PathPatching(receivers="a1.h0<v>").score(setting.model, [setting.batch])
    inner_last = PathPatching(receivers="a1.h0<v>", positions="last").score(setting.model, [setting.batch])
    assert np.abs(inner.score - inner_last.score).max() > 1e-6


def test_counters_equal_the_cost(setting_of):
    setting = setting_of("gpt2")
    method = PathPatching(receivers=["m0", "a1.h1<q>"], reading="ioi")
    setting.model.counters.reset()
    found = method.score(setting.model, [setting.batch])
    cost = method.cost(setting.graph, [6, 6, 6])
    counters = setting.model.counters
    assert (counters.forward_passes, counters.backward_passes) == (cost.forward_passes, 0)
    assert (counters.evaluations, len(found.score)) == (cost.evaluations, cost.rows)


def test_a_receiver_that_is_not_there_is_named(setting_of):
    with pytest.raises(CircuitsError, match=r"no receiver 'a9.h9<q>'"):
        PathPatching(receivers="a9.h9<q>").cost(setting_of("gpt2").graph, [4])
