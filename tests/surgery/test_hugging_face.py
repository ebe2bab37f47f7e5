"""Hugging Face networks leave surgery as ordinary networks of their class.

Oracle: the dense network with the blocks skipped by hooks, at any width of outputs.
"""

import contextlib
import copy
import json
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from hf_families import FAMILIES, MORE, Family
from layerticket.blocks.find import find_blocks
from layerticket.selection import Budget
from layerticket.surgery.hugging_face import name_after_removal
from layerticket.surgery.remove import remove_blocks, zero_blocks
from layerticket.ticket.find import find_ticket
from layerticket.ticket.ticket import Ticket
from tiny import owned_by_the_caller

pytest.importorskip("transformers")

EVERY = [
    *FAMILIES,
    *(pytest.param(name, marks=pytest.mark.slow) for name in MORE),
]


@pytest.fixture(scope="module")
def cut():
    """Dense network, what find_blocks says, and the smaller network, made once for a family."""
    made = {}

    def of(name):
        if name not in made:
            family = {**FAMILIES, **MORE}[name]
            model = family.build()
            found = find_blocks(model, family.inputs)
            made[name] = family, model, remove_blocks(model, found.named(family.remove)).eval()
        return made[name]

    return of


@contextlib.contextmanager
def skipped(model, names):
    """Let modules return what they are given, further outputs as they are."""

    def skip(_, args, kwargs, output):
        x = args[0] if args else kwargs["hidden_states"]
        return x if isinstance(output, torch.Tensor) else (x, *output[1:])

    hooks = [
        model.get_submodule(n).register_forward_hook(skip, with_kwargs=True, prepend=True)
        for n in names
    ]
    yield model
    for hook in hooks:
        hook.remove()


def quiet(family: Family) -> dict:
    return {**family.inputs, **({"use_cache": False} if family.writes else {})}


def first(output):
    return output.logits if "logits" in output else output[0]


@torch.no_grad()
def logits(model, family):
    return first(model(**quiet(family)))


@pytest.mark.parametrize("name", EVERY)
def test_it_computes_what_the_dense_network_computes_without_the_blocks(name, cut):
    family, model, small = cut(name)
    with skipped(model, family.remove):
        expected = logits(model, family)
    assert torch.allclose(logits(small, family), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, logits(model, family), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", EVERY)
def test_it_is_saved_and_read_back_as_any_other_of_its_class(name, cut, tmp_path):
    family, _, small = cut(name)
    small.save_pretrained(tmp_path)
    again, told = type(small).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values()), told
    assert torch.equal(logits(again.eval(), family), logits(small, family))
    assert list(again.state_dict()) == list(small.state_dict())
    apart = {"architectures": None, "_name_or_path": None}
    assert small.config.to_dict() | apart == again.config.to_dict() | apart
    if small._supports_sdpa:
        eager = type(small).from_pretrained(tmp_path, attn_implementation="eager").eval()
        assert torch.allclose(logits(eager, family), logits(small, family), atol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_hidden_states_are_those_of_the_layers_that_are_left(name, cut):
    family, model, small = cut(name)
    key = "encoder_hidden_states" if small.config.is_encoder_decoder else "hidden_states"
    with torch.no_grad():
        ask = {**quiet(family), "output_hidden_states": True}
        dense, ticket = model(**ask), small(**ask)
    gone = [n for n in family.remove if "decoder" not in n or not small.config.is_encoder_decoder]
    if "stages" in gone[0]:  # one state a stage
        gone = []
    assert len(ticket[key]) == len(dense[key]) - len(gone)
    assert not gone or len(ticket[key]) < len(dense[key])


@pytest.mark.parametrize("name", EVERY)
def test_gradients_through_checkpoints_are_the_gradients(name, cut):
    family, _, small = cut(name)
    if not small.supports_gradient_checkpointing:
        pytest.skip("the class has no gradient checkpointing")
    small = copy.deepcopy(small)

    def gradients():
        torch.manual_seed(0)
        small.zero_grad()
        first(small.train()(**quiet(family))).square().mean().backward()
        return [p.grad.clone() for p in small.parameters() if p.grad is not None]

    plain = gradients()
    small.activation_checkpointing_enable()
    again = gradients()
    assert len(again) == len(plain) > 0
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(again, plain, strict=True))


@pytest.mark.parametrize("name", [n for n, f in FAMILIES.items() if f.writes] + [
    pytest.param(n, marks=pytest.mark.slow) for n, f in MORE.items() if f.writes
])  # fmt: skip
def test_it_writes_the_same_with_a_cache_as_without(name, cut):
    family, model, small = cut(name)
    inputs = {k: v for k, v in family.inputs.items() if k != "decoder_input_ids"}
    how = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    cached = small.generate(**inputs, **how, use_cache=True)
    assert torch.equal(cached, small.generate(**inputs, **how, use_cache=False))
    with skipped(model, family.remove):
        assert torch.equal(cached, model.generate(**inputs, **how, use_cache=False))


@pytest.mark.parametrize("name", ["gemma3", "t5", "convnext"])
def test_the_dense_network_and_its_configuration_stay_as_they_are(name):
    family = FAMILIES[name]
    model = family.build()
    found = find_blocks(model, family.inputs)
    before, config = owned_by_the_caller(model), model.config.to_dict()
    small = remove_blocks(model, found.named(family.remove))
    assert owned_by_the_caller(model) == before
    assert model.config.to_dict() == config
    mine = {id(m.config) for m in small.modules() if hasattr(m, "config")}
    assert not mine & {id(m.config) for m in model.modules() if hasattr(m, "config")}


def test_layers_are_numbered_in_names_caches_and_configuration(cut):
    _, _, small = cut("gemma3")
    layers = small.model.layers
    assert list(layers._modules) == ["0", "1"]
    assert [layer.self_attn.layer_idx for layer in layers] == [0, 1]
    assert small.config.num_hidden_layers == 2
    assert small.config.layer_types == ["full_attention", "full_attention"]
    assert small.model.config is small.config
    assert layers[0].self_attn.config is small.config


def test_several_lists_of_one_network(cut):
    _, _, small = cut("t5")
    assert (small.config.num_layers, small.config.num_decoder_layers) == (2, 2)
    assert (small.encoder.config.num_layers, small.decoder.config.num_layers) == (2, 2)
    assert list(cut("convnext")[2].config.depths) == [1, 2, 2, 2]
    rates = [
        getattr(layer.drop_path, "drop_prob", 0.0)
        for stage in cut("convnext")[2].convnext.encoder.stages
        for layer in stage.layers
    ]
    assert rates == pytest.approx([0.2 * i / 6 for i in range(7)], abs=1e-6)


def told(build, remove, inputs):
    model = build()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        small = remove_blocks(model, find_blocks(model, inputs).named(remove))
    return [str(warning.message) for warning in caught], small.eval(), model


def test_a_network_no_configuration_describes_is_told_with_the_reason():
    import transformers

    gpt2 = FAMILIES["gpt2"]
    said, small, model = told(
        lambda: gpt2.build(scale_attn_by_inverse_layer_idx=True), ["transformer.h.1"], gpt2.inputs
    )
    assert len(said) == 1
    assert "GPT2LMHeadModel without transformer.h.1 runs and trains, but no" in said[0]
    assert "transformer.h.1.attn: scaling is" in said[0]
    with skipped(model, ["transformer.h.1"]):  # still what the dense network computes
        assert torch.allclose(logits(small, gpt2), logits(model, gpt2), atol=1e-5)
    config = transformers.SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, depths=[2, 4], num_heads=[2, 2], window_size=4,
        drop_path_rate=0.0,
    )  # fmt: skip
    pixels = FAMILIES["vit"].inputs
    names = [f"swin.encoder.layers.1.blocks.{i}" for i in (1, 2, 3)]
    build = lambda: transformers.SwinForImageClassification(config).eval()  # noqa: E731
    (said,), *_ = told(build, names[:1], pixels)
    assert "swin.encoder.layers.1.blocks.1: shift_size is 0, not 2" in said
    said, small, _ = told(build, names[:2], pixels)  # a pair leaves shifted windows in turns
    assert not said
    assert small.config.depths == [2, 2]


def test_a_network_of_the_users_own_around_it():
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = FAMILIES["llama"].build().model
            self.head = torch.nn.Linear(16, 3)

        def forward(self, ids):
            return self.head(self.body(ids).last_hidden_state)

    model, ids = Wrapped().eval(), FAMILIES["llama"].inputs["input_ids"]
    small = remove_blocks(model, find_blocks(model, ids).named(["body.layers.1"]))
    assert small.body.config.num_hidden_layers == 3
    assert model.body.config.num_hidden_layers == 4
    with skipped(model, ["body.layers.1"]):
        assert torch.allclose(small(ids), model(ids), atol=1e-5)


def test_names_after_removal():
    model = FAMILIES["llama"].build()
    renamed = name_after_removal(model, ["model.layers.0", "model.layers.2"])
    assert [renamed(f"model.layers.{i}.mlp.up_proj.weight") for i in (1, 3)] == [
        "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    ]  # fmt: skip
    assert renamed("model.norm.weight") == "model.norm.weight"


def text_batch(family):
    return {**family.inputs, "labels": family.inputs["input_ids"]}


@pytest.mark.parametrize("rounds", [1, 2])
def test_ticket_round_trip(rounds, tmp_path):
    family = FAMILIES["llama"]
    model = family.build()
    ticket = find_ticket(
        model, text_batch(family), criterion="snip", budget=Budget(remove=2), rounds=rounds
    )
    assert len(ticket.removed) == 2
    ticket.save(tmp_path / "ticket")
    loaded = Ticket.load(tmp_path / "ticket")
    small = loaded.apply(family.build(), initialization="ticket").eval()
    assert small.config.num_hidden_layers == 2
    assert ticket.init.keys() == small.state_dict().keys()
    assert loaded.digest == ticket.digest
    with skipped(model, ticket.removed):
        assert torch.allclose(logits(small, family), logits(model, family), atol=1e-5)


def test_rounds_score_the_blocks_that_are_left():
    family = FAMILIES["llama"]
    model, batch = family.build(), text_batch(family)
    how = {"criterion": "snip", "budget": Budget(remove=2)}
    ticket = find_ticket(model, batch, **how, rounds=2)
    first_round = find_ticket(model, batch, criterion="snip", budget=Budget(remove=1))
    trained = first_round.apply(model)
    further = find_ticket(trained, batch, **how, within=first_round)
    assert ticket.later_scores == further.later_scores
    assert ticket.removed == further.removed
    assert set(ticket.later_scores[0]) == set(ticket.scores) - set(first_round.removed)
    assert {k: v.tolist() for k, v in further.init.items()} == {
        k: v.tolist() for k, v in ticket.init.items()
    }


def test_a_ticket_written_before_layers_were_renumbered_still_applies():
    import dataclasses

    family = FAMILIES["llama"]
    model = family.build()
    ticket = find_ticket(model, text_batch(family), criterion="snip", budget=Budget(remove=2))
    gone = tuple(f"{name}." for name in ticket.removed)
    old = {k: v for k, v in model.state_dict().items() if not k.startswith(gone)}
    small = dataclasses.replace(ticket, init=old).apply(model)
    assert small.state_dict().keys() == ticket.init.keys()
    assert all(torch.equal(v, ticket.init[k]) for k, v in small.state_dict().items())


@pytest.mark.slow
def test_a_saved_ticket_needs_nothing_of_ours(cut, tmp_path):
    family, _, small = cut("llama")
    small.save_pretrained(tmp_path)
    code = """
import json, sys
sys.modules["layerticket"] = None
import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
with torch.no_grad():
    print(json.dumps(model(torch.arange(3, 15).reshape(2, 6)).logits.sum().item()))
"""
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert json.loads(out.stdout) == pytest.approx(logits(small, family).sum().item(), abs=1e-4)


@pytest.mark.parametrize("name", ["gemma3", "llama"])
def test_leaving_one_out_gives_what_removing_gives(name):
    from layerticket.criteria.leave_one_out import LeaveOneOut

    family = FAMILIES[name]
    model = family.build()
    found = find_blocks(model, family.inputs)
    without = LeaveOneOut(model, found, family.inputs)
    for block in found:
        small = remove_blocks(model, [block]).eval()
        assert torch.equal(without.without(block.name).logits, logits(small, family))


class Adapted(nn.Module):
    """A layer of the caller's own around one of the library's, with a part named dropout."""

    def __init__(self, base):
        super().__init__()
        self.base, self.dropout = base, nn.Dropout(0.1)
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(self.dropout(x)))


@pytest.mark.parametrize("layers", [(0, 1, 2, 3), (0, 2), (3,)])
@pytest.mark.parametrize("place", ["mlp.up_proj", "self_attn.q_proj"])
def test_modules_of_the_callers_own_are_carried_over(place, layers):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=4,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    for index in layers:
        layer = model.model.layers[index]
        layer.set_submodule(place, Adapted(layer.get_submodule(place)))
    model.eval()
    inputs = {"input_ids": torch.randint(0, 50, (2, 6))}
    found = find_blocks(model, inputs)
    assert len(found) == 4
    small = remove_blocks(model, found[1:2])
    assert small.config.num_hidden_layers == 3
    kept = [layer for layer in range(4) if layer != 1]
    for new, old in enumerate(kept):
        ours = small.model.layers[new].get_submodule(place)
        assert type(ours) is (Adapted if old in layers else nn.Linear)
        assert small.model.layers[new].self_attn.layer_idx == new
    with torch.no_grad():
        zeroed = zero_blocks(model, found[1:2])
        assert torch.equal(small(**inputs).logits, zeroed(**inputs).logits)
