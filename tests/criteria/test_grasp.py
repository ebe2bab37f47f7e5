"""GraSP: the exact product and when the squared gradient norm may stand in for it."""

import logging

import pytest
import torch
from torch import nn

from layerticket.batch import CrossEntropy, model_loss
from layerticket.blocks.find import find_blocks
from layerticket.criteria.grasp import grasp as plain_grasp
from layerticket.data.batches import scoring_batch
from layerticket.data.sources import load_data
from layerticket.errors import LayerticketError
from layerticket.models.cifar_resnet import CifarResNet
from layerticket.scoring import score
from tiny import ConvBlock, TwoBlocks, chain, conv_net, half_square, image_batch, one, token_net

SHORTCUT, EXACT = "GraSP through the squared gradient norm", "GraSP through the exact H g"


def grasp(model, batch, **options):
    return score(model, find_blocks(model, batch[0][:1]), batch, "grasp", **options).values


def way(caplog, model, batch, **options):
    caplog.clear()
    with caplog.at_level(logging.INFO, "layerticket.criteria.grasp"):
        grasp(model, batch, **options)
    return caplog.messages


def relative_error(model, batch):
    fast = grasp(model, batch, hessian="shortcut")
    exact = grasp(model, batch, hessian="exact")
    assert sorted(fast, key=fast.get) == sorted(exact, key=exact.get)
    return max(abs(fast[name] / exact[name] - 1) for name in exact)


def digits(images=100):
    data = load_data("digits")
    return scoring_batch(data, data.train, images, seed=0)


@pytest.mark.parametrize(("depth", "projection"), [(20, True), (32, False)])
def test_shortcut_against_double_backward_on_digits(depth, projection):
    model = CifarResNet(depth, classes=10, channels=1, projection=projection)
    assert relative_error(model, digits()) < 1e-3


@pytest.mark.slow
def test_shortcut_against_double_backward_on_cifar(cifar10_dir):
    data = load_data("cifar10", data_dir=cifar10_dir)
    batch = scoring_batch(data, data.train, 20, seed=0)
    assert relative_error(CifarResNet(20, classes=10), batch) < 1e-3


def test_the_shortcut_is_minus_the_squared_gradient_norm():
    model, batch = conv_net(), image_batch()
    values = grasp(model, batch, hessian="shortcut")
    model.train()
    CrossEntropy(200.0)(model, batch).backward()
    for name, value in values.items():
        weights = [p for p in model.get_submodule(name).parameters() if p.ndim > 1]
        assert value == pytest.approx(-sum(p.grad.square().sum().item() for p in weights), rel=1e-5)


def test_the_shortcut_is_verified_on_a_few_examples():
    """Beyond the gradient of the whole batch, two forward passes of 16 examples."""
    model, batch, sizes = conv_net(), image_batch(40), []
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    weights = dict(model.named_parameters())
    weights = {name: weights[name] for name in weights if name.endswith("conv1.weight")}
    assert weights
    plain_grasp(model.train(), weights, batch)
    assert sizes == [40, 16, 16]


def test_auto_takes_the_shortcut_where_it_holds_and_the_exact_product_elsewhere(caplog):
    images = image_batch()
    assert way(caplog, conv_net(), images) == [SHORTCUT]
    assert way(caplog, conv_net(pre=True), images) == [EXACT]
    assert way(caplog, conv_net(), images, normalization="running") == [EXACT]
    tokens = torch.randn(6, 3, 4), torch.arange(6) % 3
    assert way(caplog, token_net(), tokens) == [EXACT]
    for model, batch in ((conv_net(pre=True), images), (token_net(), tokens)):
        with pytest.raises(LayerticketError, match=r"shortcut is not valid.*hessian='exact'"):
            grasp(model, batch, hessian="shortcut")
    with pytest.raises(LayerticketError, match="hessian is 'fast'; allowed are auto, shortcut"):
        grasp(conv_net(), images, hessian="fast")


@pytest.mark.parametrize("eps", [1e-5, 1e-4, 1e-3, 1e-2, 1.0])
@pytest.mark.parametrize("size", [1, 8])
def test_the_shortcut_is_given_up_before_epsilon_matters(eps, size, caplog):
    """One pixel an image leaves a normalization few values, some of hardly any variance."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        *(ConvBlock(8) for _ in range(4)),
        nn.Flatten(),
        nn.Linear(8 * size**2, 3),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = eps
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    batch = image_batch(12, 2, size)
    automatic, exact = grasp(model, batch), grasp(model, batch, hessian="exact")
    for name, value in exact.items():
        assert automatic[name] == pytest.approx(value, rel=1e-2)
    expected = {1e-5: [SHORTCUT], 1e-2: [EXACT], 1.0: [EXACT]}
    if size == 8 and eps in expected:
        assert way(caplog, model, batch) == expected[eps]


def test_two_layers_whose_scales_cancel_are_not_scale_invariant():
    with pytest.raises(LayerticketError, match="shortcut is not valid"):
        # Scaled by 1/2 and 2: (1 + 2/2) (1 + 1 * 2) = 6, as before. Only theta . g tells.
        grasp(TwoBlocks(a=2.0, b=1.0), one(), hessian="shortcut", loss_fn=half_square)


def test_a_loss_of_the_callers_own_on_outputs_of_any_form():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = conv_net()

        def forward(self, x):
            return {"answer": self.net(x)}

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0])["answer"] / 200, batch[1])

    model, batch = Own(), image_batch()
    assert list(grasp(model, batch, loss_fn=loss).values()) == pytest.approx(
        list(grasp(model.net, batch, hessian="exact").values()), rel=1e-4
    )


def test_a_loss_linear_in_the_weights_has_no_curvature():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(TwoBlocks().first)

        def forward(self, x):
            return self.body(x)

    model = Linear()
    values = grasp(model, one(), loss_fn=lambda m, b: m(b[0]).sum())
    assert values == {"body.0": 0.0}


def test_attention_has_a_second_derivative():
    transformers = pytest.importorskip("transformers")
    size = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 16, "max_position_embeddings": 8}  # fmt: skip
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**size))
    assert model.config._attn_implementation == "sdpa"
    ids = torch.randint(20, (4, 5))
    batch = {"input_ids": ids, "labels": ids}
    found = find_blocks(model, batch)
    got = score(model, found, batch, "grasp")
    assert got.options["loss_fn"] == "layerticket.batch.model_loss"
    assert got.options["temperature"] is None

    model.eval().set_attn_implementation("eager")
    weights = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    gradient = torch.autograd.grad(model_loss(model, batch), weights.values(), create_graph=True)
    inner = sum((g * g.detach()).sum() for g in gradient)
    product = dict(zip(weights, torch.autograd.grad(inner, weights.values()), strict=True))
    for name, value in got.values.items():
        own = [n for n in weights if n.startswith(f"{name}.")]
        expected = sum((weights[n] * product[n]).sum().item() for n in own)
        assert value == pytest.approx(expected, rel=1e-3)


def test_temperature_is_short_for_a_cooled_cross_entropy():
    model, batch = chain(MlpBlock(), MlpBlock()), (torch.randn(6, 4), torch.arange(6) % 3)
    short = grasp(model, batch, temperature=3.0)
    assert short == grasp(model, batch, loss_fn=CrossEntropy(temperature=3.0))
    assert short != grasp(model, batch)
    with pytest.raises(LayerticketError, match="temperature and loss_fn are both given"):
        grasp(model, batch, temperature=3.0, loss_fn=CrossEntropy())
    with pytest.raises(LayerticketError, match="temperature is 0; it must be > 0"):
        grasp(model, batch, temperature=0)


def by_halves(model, batch, blocks):
    """The authors' procedure: gradients of two halves added up, then theta (H1 + H2) g."""
    images, classes = batch
    order = sorted(range(len(classes)), key=lambda i: classes[i].item())
    parts = [(images[part], classes[part]) for part in (order[:6], order[6:])]
    weights = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    loss = CrossEntropy(200.0)

    def gradients(part):
        return torch.autograd.grad(loss(model, part), weights.values(), create_graph=True)

    summed = [a + b for a, b in zip(*map(gradients, parts), strict=True)]
    total = dict.fromkeys(weights, 0.0)
    for part in parts:
        inner = sum((g * s.detach()).sum() for g, s in zip(gradients(part), summed, strict=True))
        for name, row in zip(weights, torch.autograd.grad(inner, weights.values()), strict=True):
            total[name] = total[name] + (weights[name].detach() * row).sum().item()
    return {b: sum(v for n, v in total.items() if n.startswith(f"{b}.")) for b in blocks}


@pytest.mark.parametrize("hessian", ["shortcut", "exact"])
def test_halves_are_those_of_the_authors(hessian):
    model, (images, _) = conv_net(), image_batch(12)
    classes = torch.tensor([2, 0, 1] * 4)  # sorting matters
    found = grasp(model, (images, classes), halves=True, hessian=hessian)
    expected = by_halves(model.train(), (images, classes), found)
    for name, value in found.items():
        assert value == pytest.approx(expected[name] / 4, rel=1e-3)
        assert value != pytest.approx(grasp(model, (images, classes))[name], rel=1e-2)


def test_halves_that_cannot_be_made():
    model, images = conv_net(), image_batch()
    with pytest.raises(LayerticketError, match="micro_batches is 3 and halves is True"):
        grasp(model, images, halves=True, micro_batches=3, normalization="running")
    with pytest.raises(LayerticketError, match="one class per example"):
        grasp(model, (images[0], torch.rand(len(images[0]), 3)), halves=True)


def test_redraw_draws_linear_layers_anew_and_nothing_of_the_callers():
    model, batch = conv_net(), image_batch()
    (head,) = [m for m in model.modules() if isinstance(m, nn.Linear)]
    before = head.weight.detach().clone()
    plain, first = grasp(model, batch), grasp(model, batch, redraw=1)
    assert torch.equal(head.weight, before)
    assert first == grasp(model, batch, redraw=1)
    assert len({plain["2"], first["2"], grasp(model, batch, redraw=2)["2"]}) == 3
    nn.init.xavier_normal_(head.weight.data, generator=torch.Generator().manual_seed(1))
    assert grasp(model, batch) == first
    with pytest.raises(LayerticketError, match="redraw is -1; it must be a whole number from 0"):
        grasp(model, batch, redraw=-1)
    convolutions = nn.Sequential(*list(model)[:-2])
    with pytest.raises(LayerticketError, match="no layer of kind Linear"):
        grasp(convolutions, batch, redraw=0, loss_fn=half_square)


class MlpBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return x + torch.tanh(self.fc(x))
