"""Branches: attention or multilayer perceptron alone, taken out for real."""

import copy

import pytest
import torch
from torch import nn

from layerticket.batch import call, logits_of
from layerticket.blocks.block import block_of, block_record
from layerticket.blocks.find import find_blocks
from layerticket.counting import count_macs, count_params
from layerticket.errors import LayerticketError
from layerticket.scoring import score
from layerticket.selection import Budget
from layerticket.surgery.remove import remove_blocks, zero_blocks
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Ticket
from tiny import (
    PostNormBlock,
    ScalarBlock,
    chain,
    conv_net,
    image_batch,
    owned_by_the_caller,
    token_net,
)

TOKENS = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))


def branches(model, example):
    return find_blocks(model, example, granularity="branch")


def cuts(found):
    return {b.name: [c.name.removeprefix(f"{b.branch.of}.") for c in b.replacements] for b in found}


def without(model, gone, example):
    """The smaller network; checked against the oracle of zeros and against what was promised."""
    small = remove_blocks(model, gone).eval()
    with torch.no_grad():
        output = logits_of(call(small, example))
        zeros = logits_of(call(zero_blocks(model, gone).eval(), example))
        assert torch.equal(output, zeros)
        assert not torch.equal(output, logits_of(call(model.eval(), example)))
    assert count_params(small) == count_params(model) - sum(b.params for b in gone)
    assert count_macs(small, example) == count_macs(model, example) - sum(b.macs for b in gone)
    assert all(b.params > 0 and b.macs > 0 for b in gone)
    return small


def test_attention_and_perceptron_of_a_block_by_hand():
    model = token_net()
    found = branches(model, TOKENS)
    assert cuts(found) == {
        "1.attention": ["attention", "norm"],
        "1.mlp": ["mlp", "mlp_norm"],
        "2.attention": ["attention", "norm"],
        "2.mlp": ["mlp", "mlp_norm"],
    }
    assert [b.position for b in found] == [0, 1, 2, 3]
    assert [b.stage for b in found] == [0, 1, 0, 1]  # attention with attention
    assert found[0].params == 4 * 8 * 8 + 4 * 8 + 2 * 8
    assert found[1].params == 2 * 8 * 16 + 16 + 8 + 2 * 8
    assert found[1].macs == 2 * 8 * 16 * 3
    small = without(model, found.named(["1.attention", "2.mlp"]), TOKENS)
    expected = {
        name
        for name in model.state_dict()
        if not name.startswith(("1.attention.", "1.norm.", "2.mlp.", "2.mlp_norm."))
    }
    assert set(small.state_dict()) == expected
    small.train()(TOKENS).sum().backward()
    assert all(p.grad is not None for p in small.parameters())  # nothing idle is left


def test_a_block_of_one_branch_goes_as_a_whole():
    for model, example in (
        (conv_net(), image_batch()[0]),
        (chain(ScalarBlock(0.1, 8), PostNormBlock()), TOKENS[:, 0]),
    ):
        whole, parts = find_blocks(model, example), branches(model, example)
        assert len(whole)
        assert parts.removable == whole.removable


def test_branches_in_one_module_kept_apart_by_what_they_give():
    class Split(nn.Module):
        """Two branches of bare layers, scales of its own, one norm for both (parallel)."""

        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(8)
            self.mix, self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)
            self.gain = nn.Parameter(torch.full((8,), 1e-4))

        def forward(self, x):
            y = self.norm(x)
            return x + self.gain * self.mix(y) + self.down(torch.sigmoid(self.up(y)))

    model = chain(Split())
    found = branches(model, TOKENS)
    assert cuts(found) == {"1.mix": ["mix"], "1.up": ["down", "up"]}  # the norm serves both
    without(model, found[1:], TOKENS)  # sigmoid(0) is not 0: what is cut is the end
    without(model, found[:1], TOKENS)


def test_gates_and_sequences_are_no_branches():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.gate = nn.Linear(8, 8), nn.Linear(8, 8)
            self.last = nn.Linear(8, 8)

        def forward(self, x):
            return x + self.last(self.value(x) * torch.sigmoid(self.gate(x)))

    assert [b.branch for b in branches(chain(Gated()), TOKENS)] == [None]


def test_the_model_is_left_as_it_was_and_granularity_is_checked():
    model = token_net().train()
    before = owned_by_the_caller(model)
    branches(model, TOKENS)
    assert owned_by_the_caller(model) == before
    with pytest.raises(LayerticketError, match="granularity is 'layer'; allowed are 'block' and"):
        find_blocks(model, TOKENS, granularity="layer")


@pytest.mark.parametrize("criterion", ["snip", "grasp", "kl", "magnitude", "random"])
def test_criteria_score_branches_as_they_score_blocks(criterion):
    model, labels = token_net(), torch.tensor([0, 2])
    found = branches(model, TOKENS)
    values = score(model, found, (TOKENS, labels), criterion).values
    assert list(values) == [b.name for b in found]
    if criterion == "snip":
        whole = score(model, find_blocks(model, TOKENS), (TOKENS, labels), "snip").values
        assert values["1.attention"] + values["1.mlp"] == pytest.approx(whole["1"])


def test_ticket_of_branches(tmp_path):
    model, batch = token_net(), (TOKENS, torch.tensor([0, 2]))
    ticket = find_ticket(
        model, batch, criterion="snip", budget=Budget(remove=2), granularity="branch"
    )
    loaded = Ticket.load(ticket.save(tmp_path / "t"))
    assert loaded.digest == ticket.digest
    assert loaded.blocks == ticket.blocks
    small = loaded.apply(token_net())
    with torch.no_grad():
        assert torch.equal(small.eval()(TOKENS), ticket.apply(model).eval()(TOKENS))
    assert count_params(small) == ticket.params["ticket"]
    assert count_macs(small, TOKENS) == ticket.macs["ticket"]


def test_the_record_of_a_block_says_nothing_of_branches():
    model = token_net()
    assert set(block_record(find_blocks(model, TOKENS)[0])) == {
        "name", "position", "stage", "shape", "params", "macs", "call", "post_norm"
    }  # fmt: skip
    for block in (find_blocks(model, TOKENS)[0], branches(model, TOKENS)[0]):
        assert block_of(block_record(block)) == block


def timm_vit():
    timm = pytest.importorskip("timm")
    model = timm.models.vision_transformer.VisionTransformer(
        32, 8, embed_dim=16, depth=2, num_heads=2, num_classes=4, init_values=1e-5
    )
    return model, torch.randn(2, 3, 32, 32), {"attn": ["ls1", "norm1", "attn"],
                                              "mlp": ["ls2", "norm2", "mlp"]}  # fmt: skip


def swin():
    timm = pytest.importorskip("timm")
    model = timm.models.swin_transformer.SwinTransformer(
        32, 4, embed_dim=8, depths=(2,), num_heads=(2,), window_size=4, num_classes=4
    )
    return model, torch.randn(2, 3, 32, 32), {"attn": ["attn", "norm1"], "mlp": ["mlp", "norm2"]}


SIZE = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 32}  # fmt: skip
IDS = torch.arange(14).reshape(2, 7) + 3


def llama(**more):
    hf = pytest.importorskip("transformers")
    model = hf.LlamaForCausalLM(hf.LlamaConfig(**SIZE, **more))
    return model, {"input_ids": IDS}, {"self_attn": ["self_attn", "input_layernorm"],
                                       "mlp": ["mlp", "post_attention_layernorm"]}  # fmt: skip


def mixture():
    hf = pytest.importorskip("transformers")
    config = hf.MixtralConfig(**SIZE, num_key_value_heads=2, num_local_experts=2, use_cache=False)
    return hf.MixtralForCausalLM(config), {"input_ids": IDS}, llama()[2]


@pytest.mark.parametrize("build", [timm_vit, swin, lambda: llama(use_cache=False), mixture])
def test_transformers_of_libraries(build):
    model, example, kinds = build()
    found = branches(model, example)
    assert {b.name.rpartition(".")[2]: c for b, c in zip(found, cuts(found).values(), strict=True)
            } == kinds  # fmt: skip
    assert len(found) == 2 * len(find_blocks(model, example))
    for gone in (found[::2], found[1::3], found[:]):
        small = without(model, gone, example)
        logits_of(call(small.train(), example)).sum().backward()


def test_a_post_norm_network_keeps_the_norm_behind_its_perceptron():
    hf = pytest.importorskip("transformers")
    model = hf.BertForSequenceClassification(hf.BertConfig(**SIZE))
    found = branches(model, {"input_ids": IDS})
    first = "bert.encoder.layer.0."
    assert cuts(found[:2]) == {
        f"{first}attention": ["attention"],
        f"{first}intermediate": ["output.dense", "intermediate"],
    }
    assert found[0].replacements[0].output == "input"  # it holds its own addition and norm
    small = without(model, found[1:2], {"input_ids": IDS})
    assert f"{first}output.LayerNorm.weight" in small.state_dict()
    with pytest.raises(LayerticketError, match="post-norm: with zeros it would output zeros"):
        zero_blocks(model, found[:1])
    assert remove_blocks(model, found[:1])(input_ids=IDS).logits.shape == (2, 2)


def test_generation_with_cache_goes_on_without_attention():
    model, example, _ = llama()
    found = branches(model, example)
    names = [b.name for b in found]
    assert "model.layers.0.self_attn" not in names  # the cache counts its tokens there
    told = {r.name: r.reason for r in found.rejected}["model.layers.0.self_attn"]
    assert told.endswith("its key-value cache counts the tokens in this block")
    gone = found.named(["model.layers.0.mlp", "model.layers.1.self_attn"])
    small = without(model, gone, example)
    how = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    cached = small.generate(**example, use_cache=True, **how)
    assert cached.shape == (2, 13)
    assert torch.equal(cached, small.generate(**example, use_cache=False, **how))


def test_only_networks_with_rich_calls_hold_a_part_of_ours():
    def modules_of_ours(model):
        classes = {type(m).__module__ for m in model.modules()}
        return sorted(c for c in classes if c.startswith("layerticket"))

    model, example, _ = timm_vit()
    found = branches(model, example)
    assert modules_of_ours(remove_blocks(model, found[1::2])) == []  # called with one tensor
    small = remove_blocks(model, found[::2])  # called with a mask as well
    assert modules_of_ours(small) == ["layerticket.surgery.remove"]
    assert copy.deepcopy(small)(example).shape == (2, 4)
