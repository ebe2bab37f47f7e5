import sys
import warnings

import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from layerticket.blocks.find import find_blocks
from layerticket.criteria.expect_abs import expect_abs
from layerticket.criteria.features import block_activations
from layerticket.criteria.hrank import hrank
from layerticket.criteria.pls import pls
from layerticket.errors import LayerticketError, ModelError
from layerticket.models.load import build_model
from layerticket.scoring import score
from toy_residual import Maps, Vectors

NONE = [[0.0, 0.0], [0.0, 0.0]]

# Maps A = [[1, 0], [0, 0]] and B = [[0, 0], [0, 1]] enter as the two channels; then
#   block 0: (A + B, B)             ranks 2, 1 -> 1.5    mean |.| 2/4, 1/4 -> 0.375
#   block 1: (0, B + 3 (A + B))     ranks 0, 2 -> 1      mean |.| 0, 7/4   -> 0.875
# and the same for -A and -B, which would cancel in a mean without absolute values.
A, B = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]])
IMAGES = torch.stack([torch.stack([A, B]), torch.stack([-A, -B])])


@pytest.fixture
def maps():
    model = Maps([[0.0, 1.0], [0.0, 0.0]], [[-1.0, 0.0], [3.0, 0.0]]).eval()
    return model, find_blocks(model, IMAGES), (IMAGES, torch.tensor([0, 1]))


def test_hrank_by_hand(maps):
    assert hrank(*maps) == {"blocks.0": 1.5, "blocks.1": 1.0}
    assert hrank(*maps, relative=True) == {"blocks.0": 0.75, "blocks.1": 0.5}


def test_expect_abs_by_hand(maps):
    assert expect_abs(*maps) == {"blocks.0": 0.375, "blocks.1": 0.875}


def test_pls_by_hand():
    # x_0 is the class as +-1, x_1 is uncorrelated with it. Block 0 passes both on, block 1 mutes
    # x_0: the four features are (x_0, x_1, 0, x_1), the one weight vector is (1, 0, 0, 0), so
    # VIP = sqrt(4) * (1, 0, 0, 0), and the means over the blocks' features are 1 and 0.
    model = Vectors(NONE, [[-1.0, 0.0], [0.0, 0.0]])
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    batch = (x, torch.tensor([7, 7, 3, 3]))
    scores = pls(model, find_blocks(model, x), batch, n_components=1)
    assert scores == pytest.approx({"blocks.0": 1.0, "blocks.1": 0.0})


def test_pls_takes_no_rounding_for_a_feature():
    model = Vectors(NONE, NONE)
    x = torch.tensor([[1.0, 0.1], [1.0, 0.1], [-1.0, 0.1], [-1.0, 0.1], [-1.0, 0.1]])
    batch = (x, torch.tensor([0, 0, 1, 1, 1]))
    scores = pls(model, find_blocks(model, x), batch, n_components=1)
    # Features (x_0, 0.1, x_0, 0.1): w = (1, 0, 1, 0) / sqrt(2), VIP = sqrt(2) * (1, 0, 1, 0).
    assert scores == pytest.approx({"blocks.0": 0.5**0.5, "blocks.1": 0.5**0.5})


@pytest.fixture
def resnet():
    model = build_model("resnet20", classes=4, channels=1, seed=1).eval()
    random = torch.Generator().manual_seed(2)
    images = torch.randn(16, 1, 8, 8, generator=random)
    targets = torch.randint(4, (16,), generator=random)
    return model, find_blocks(model, images), (images, targets)


def outputs_of(model, blocks, images):
    """What each block returns, recorded in the plainest way."""
    found = {}
    for block in blocks:
        module = model.get_submodule(block.name)
        module.register_forward_hook(lambda _m, _a, y, name=block.name: found.update({name: y}))
    with torch.no_grad():
        model(images)
    return found


@pytest.mark.peer
def test_hrank_is_the_mean_of_single_matrix_ranks(resnet, monkeypatch):
    monkeypatch.setattr(
        sys.modules["layerticket.criteria.hrank"], "AT_ONCE", 100
    )  # many small steps
    scores = score(*resnet, "hrank").values
    for name, output in outputs_of(resnet[0], resnet[1], resnet[2][0]).items():
        ranks = [torch.linalg.matrix_rank(one).item() for maps in output for one in maps]
        assert scores[name] == pytest.approx(sum(ranks) / len(ranks))
        assert len(set(ranks)) > 1  # a test that could not fail shows nothing


def vip(features, classes, components):
    """Two-block PLS by the singular vectors of X'Y, and the definition of VIP, in torch."""
    spread = features.std(0)
    x = (features - features.mean(0)) / torch.where(spread == 0, 1, spread)  # dead channels
    y = (classes - classes.mean(0)) / classes.std(0)
    total, weighted = 0.0, torch.zeros(features.shape[1], dtype=torch.double)
    for _ in range(components):
        w = torch.linalg.svd(x.T @ y)[0][:, 0]
        t = x @ w
        q = y.T @ t / (t @ t)
        x, y = x - torch.outer(t, x.T @ t) / (t @ t), y - torch.outer(t, q)
        explained = (t @ t) * (q @ q)
        total, weighted = total + explained, weighted + explained * w**2
    return (len(weighted) * weighted / total).sqrt()


@pytest.mark.peer
@pytest.mark.parametrize("components", [1, 2, 3])
def test_pls_is_the_mean_of_vip_by_its_definition(resnet, components):
    model, blocks, (images, targets) = resnet
    pooled = {n: y.double().mean((2, 3)) for n, y in outputs_of(model, blocks, images).items()}
    one_hot = nn.functional.one_hot(targets).double()
    expected = vip(torch.cat(list(pooled.values()), 1), one_hot, components)
    parts = expected.split([part.shape[1] for part in pooled.values()])
    scores = score(*resnet, "pls", n_components=components).values
    assert scores == pytest.approx(
        {name: part.mean().item() for name, part in zip(pooled, parts, strict=True)}, rel=1e-4
    )


@pytest.mark.parametrize("name", ["hrank", "expect_abs", "pls"])
def test_micro_batches_change_nothing(resnet, name):
    whole, parts = (score(*resnet, name, micro_batches=n).values for n in (1, 3))
    assert parts == pytest.approx(whole, rel=1e-4)


def test_no_hook_stays_when_the_reduction_fails(maps):
    model, blocks, batch = maps

    def fail(_):
        raise ZeroDivisionError

    with pytest.raises(ModelError, match="ZeroDivisionError"):
        block_activations(model, blocks, batch, fail)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_block_that_is_not_called_is_told(maps):
    model, blocks, batch = maps
    model.forward = lambda x: x.mean((2, 3))
    with pytest.raises(LayerticketError, match=r"'blocks.0' gave outputs for 0 examples"):
        expect_abs(model, blocks, batch)


def test_hrank_refuses_what_is_no_map():
    model, x = Vectors(NONE, NONE), torch.rand(3, 2)
    with pytest.raises(LayerticketError, match=r"hrank needs feature maps.*\(2,\).*expect_abs"):
        hrank(model, find_blocks(model, x), (x, torch.zeros(3)))


@pytest.mark.parametrize(
    ("targets", "options", "complaint"),
    [
        (torch.rand(16), {}, "needs the class of every example"),
        (torch.zeros(16, 2, dtype=torch.long), {}, "needs the class of every example"),
        (torch.zeros(16, dtype=torch.long), {}, "all 16 examples have the same class"),
        (torch.arange(16) % 4, {"n_components": 0}, "n_components is 0; allowed are 1 to 16"),
        (torch.arange(16) % 4, {"n_components": 17}, "n_components is 17; allowed are 1 to 16"),
        (torch.arange(16) % 2, {"n_components": 16}, "does not exist or did not converge"),
    ],
)
def test_pls_refuses_what_it_cannot_project(resnet, targets, options, complaint):
    model, blocks, (images, _) = resnet
    with pytest.raises(LayerticketError, match=complaint):
        pls(model, blocks, (images, targets), **options)


def test_pls_tells_of_a_projection_that_does_not_converge(resnet, monkeypatch):
    def fit(self, x, y):
        warnings.warn("stuck", ConvergenceWarning, stacklevel=1)

    monkeypatch.setattr("sklearn.cross_decomposition.PLSRegression.fit", fit)
    with pytest.raises(LayerticketError, match=r"did not converge \(stuck\)"):
        pls(*resnet)


def test_pls_reads_labels_of_a_dict(resnet):
    model, blocks, (images, targets) = resnet
    forward = model.forward
    model.forward = lambda x, labels: forward(x)
    by_dict = pls(model, blocks, {"x": images, "labels": targets})
    model.forward = forward
    assert by_dict == pls(model, blocks, (images, targets))
