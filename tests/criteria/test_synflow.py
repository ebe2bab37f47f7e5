"""SynFlow: conservation of flow, and what it refuses."""

import copy

import pytest
import torch
from torch import nn

from layerticket.blocks.find import find_blocks
from layerticket.criteria.saliency import network_weights
from layerticket.criteria.synflow import synflow
from layerticket.errors import LayerticketError
from layerticket.models.cifar_resnet import CifarResNet
from layerticket.scoring import score
from tiny import conv_net, image_batch


def textbook(model, inputs):
    """Per-weight synaptic flow on a copy whose weights are overwritten by absolute values."""
    positive = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for tensor in (*positive.parameters(), *positive.buffers()):
            tensor.abs_() if tensor.is_floating_point() else None
    flow = positive(torch.ones_like(inputs[:1]).double()).sum()
    flow.backward()
    return flow.item(), {n: (p * p.grad).detach() for n, p in positive.named_parameters()}


@pytest.mark.parametrize("make", [conv_net, lambda: CifarResNet(20, classes=3, channels=2)])
def test_against_the_definition(make):
    model, batch = make(), image_batch(size=8)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.2, 0.2)
    found = find_blocks(model, batch[0])
    _, flow = textbook(model, batch[0])
    for name, value in score(model, found, batch, "synflow").values.items():
        own = [n for n, t in flow.items() if n.startswith(f"{name}.") and t.ndim > 1]
        assert value == pytest.approx(sum(flow[n].sum().item() for n in own), rel=1e-9)


def test_flow_is_conserved_from_layer_to_layer():
    """Without biases, all of R passes through every layer of a chain: sum theta dR/dtheta = R."""
    torch.manual_seed(0)
    chain = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 3, 2, bias=False), nn.Flatten(),
        nn.Linear(27, 5, bias=False),
    )  # fmt: skip
    total, flow = textbook(chain, torch.ones(1, 2, 6, 6))
    values = synflow(chain, network_weights(chain), image_batch())
    assert [v.sum().item() for v in values.values()] == pytest.approx([total] * 3, rel=1e-6)
    assert flow["0.weight"].sum().item() == pytest.approx(total)


def test_labels_and_pixels_do_not_matter_but_the_mode_is_always_running():
    model, (images, labels) = conv_net(), image_batch()
    found = find_blocks(model, images)
    first = score(model, found, (images, labels), "synflow")
    second = score(model, found, (images * 7, labels + 1), "synflow")
    assert first.values == second.values
    with pytest.raises(LayerticketError, match="normalization"):
        score(model, found, (images, labels), "synflow", normalization="batch")
    assert first.options["normalization"] == second.options["normalization"] == "running"


def test_an_input_that_cannot_be_ones_is_refused():
    model, (images, labels) = conv_net(), image_batch()
    found = find_blocks(model, images)
    for inputs in ((images,), images.to(torch.uint8)):
        with pytest.raises(LayerticketError, match="must be one floating-point tensor; use"):
            score(model, found, (inputs, labels), "synflow")
