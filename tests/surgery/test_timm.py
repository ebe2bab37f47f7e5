"""Tickets of timm and torchvision keep what their classes can do."""

import pytest
import torch
from torch.nn import functional as F

from layerticket.blocks.find import find_blocks
from layerticket.surgery.remove import remove_blocks

timm = pytest.importorskip("timm")
IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).sin()
NETS = {
    "test_vit": ({"img_size": 32}, ("blocks.1",)),
    "test_convnext": ({}, ("stages.2.blocks.1",)),
    "test_resnet": ({}, ("layer3.1",)),
}


@pytest.fixture(scope="module", params=NETS)
def ticket(request):
    options, names = NETS[request.param]
    model = timm.create_model(request.param, num_classes=4, drop_path_rate=0.5, **options)
    with torch.no_grad():
        for parameter in model.parameters():  # else layer scales and zero gains mute the branches
            parameter.add_(0.1 * torch.randn_like(parameter))
    found = find_blocks(model, IMAGES[:1])
    available = [block.name for block in found]
    gone = [name for name in names if name in available] or available[-1:]
    return model, remove_blocks(model, found.named(gone)), gone


def test_it_trains_with_stochastic_depth(ticket):
    _, small, _ = ticket
    rates = [m.drop_prob for m in small.modules() if hasattr(m, "drop_prob")]
    assert any(rates), "no block drops its path"
    small.train()
    torch.manual_seed(0)
    assert len({tuple(small(IMAGES).detach().flatten().tolist()) for _ in range(8)}) > 1
    optimizer = torch.optim.SGD(small.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(small(IMAGES), torch.tensor([0, 1])).backward()
        optimizer.step()
    assert all(p.isfinite().all() for p in small.parameters())
    small.eval()


def test_classifier_and_features(ticket):
    model, small, _ = ticket
    model, small = model.eval(), small.eval()
    with torch.no_grad():
        assert small.forward_features(IMAGES).shape == model.forward_features(IMAGES).shape
        head = small.forward_head(small.forward_features(IMAGES))
        assert torch.allclose(head, small(IMAGES), atol=1e-6)
    small.reset_classifier(7)
    assert small(IMAGES).shape == (2, 7)
    small.reset_classifier(0)
    assert small(IMAGES).shape == (2, small.num_features)
    small.reset_classifier(4)
    again = find_blocks(small, IMAGES[:1])
    assert len(again) == len(find_blocks(model, IMAGES[:1])) - 1


def test_intermediate_features(ticket):
    _, small, _ = ticket
    if not hasattr(small, "forward_intermediates"):
        pytest.skip("the class has no forward_intermediates")
    with torch.no_grad():
        last, middle = small.eval().forward_intermediates(IMAGES)
    assert middle
    assert all(t.isfinite().all() for t in (last, *middle))


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet"])
def test_feature_pyramids_can_be_cut(name):
    model = timm.create_model(name, features_only=True).eval()
    found = find_blocks(model, IMAGES[:1])
    assert len(found)
    small = remove_blocks(model, found.named([found[-1].name])).eval()
    assert small.feature_info.channels() == model.feature_info.channels()
    assert [t.shape for t in small(IMAGES)] == [t.shape for t in model(IMAGES)]


def test_torchvision_features():
    extraction = pytest.importorskip("torchvision").models
    from torchvision.models.feature_extraction import create_feature_extractor

    model = extraction.resnet18(num_classes=4).eval()
    small = remove_blocks(model, find_blocks(model, IMAGES[:1]).named(["layer2.1"])).eval()
    features = create_feature_extractor(small, return_nodes={"layer2": "two", "avgpool": "pooled"})
    with torch.no_grad():
        out = features(IMAGES)
        assert torch.allclose(small.fc(out["pooled"].flatten(1)), small(IMAGES), atol=1e-5)
    assert out["two"].shape[1] == 128
