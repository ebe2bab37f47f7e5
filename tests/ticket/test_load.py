"""A trained ticket is built again from its folder and the checkpoint of any trainer."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import layerticket as lt
from layerticket.errors import LayerticketError
from layerticket.ticket.load import load


def network():
    return lt.build_model("resnet20", classes=4, channels=1, seed=0)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A ticket in a folder, and the network that was trained of it."""
    batch = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 4
    ticket = lt.find_ticket(network(), batch, criterion="snip", budget=lt.Budget(remove=2))
    folder = ticket.save(tmp_path_factory.mktemp("ticket") / "a")
    trained = ticket.apply(network())
    with torch.no_grad():
        for one in trained.parameters():
            one.add_(0.125)
    return folder, trained


def equal(one, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_without_a_checkpoint_it_has_its_first_weights(place):
    folder, trained = place
    again = load(folder, network())
    assert equal(again, lt.Ticket.load(folder).apply(network()))
    assert not equal(again, trained)


@pytest.mark.parametrize("prefix", ["", "network.", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("entry", [None, "state_dict", "model"])
def test_a_checkpoint_of_any_trainer_fits(place, prefix, entry):
    folder, trained = place
    state = {f"{prefix}{name}": tensor for name, tensor in trained.state_dict().items()}
    checkpoint = state if entry is None else {"epoch": 3, entry: state, "optimizer": {"lr": 0.1}}
    assert equal(load(folder, network(), checkpoint=checkpoint), trained)


def test_what_else_a_module_has_beside_its_network_does_no_harm(place):
    folder, trained = place
    state = {f"network.{name}": tensor for name, tensor in trained.state_dict().items()}
    state["loss.weight"] = torch.ones(4)
    assert equal(load(folder, network(), checkpoint=state), trained)


@pytest.mark.parametrize("name", ["empty.pt", "empty.safetensors"])
def test_an_empty_file_is_refused_in_one_sentence(place, tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(LayerticketError, match=r"cannot be read: [^.]+\. If you trust") as caught:
        load(place[0], network(), checkpoint=tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_files_are_read_without_running_their_code(place, tmp_path):
    folder, trained = place
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "a.ckpt")
    save_file(trained.state_dict(), tmp_path / "a.safetensors")
    for name in ("a.ckpt", "a.safetensors"):
        assert equal(load(folder, network(), checkpoint=tmp_path / name), trained)

    class Wicked:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    torch.save(Wicked(), tmp_path / "b.pt")
    with pytest.raises(LayerticketError, match="cannot be read"):
        load(folder, network(), checkpoint=tmp_path / "b.pt")
    assert not (tmp_path / "written").exists()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.last.weight = self.first.weight
        self.blocks = nn.ModuleList(Toy() for _ in range(2))

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.inner(x)


def test_a_weight_that_a_file_leaves_out_stays_tied(tmp_path):
    batch = torch.randn(6, 4), torch.arange(6) % 4
    ticket = lt.find_ticket(Tied(), batch, criterion="snip", budget=lt.Budget(remove=1))
    ticket.save(tmp_path / "t")
    trained = {name: torch.randn_like(one) for name, one in ticket.apply(Tied()).named_parameters()}
    assert "last.weight" not in trained
    again = load(tmp_path / "t", Tied(), checkpoint=trained)
    assert torch.equal(again.last.weight, trained["first.weight"])
    assert again.last.weight is again.first.weight


@pytest.mark.parametrize(
    ("checkpoint", "match"),
    [
        (lambda small: network().state_dict(), "of shape .*, but .* has no such tensor"),
        (lambda small: {"a": torch.ones(2)}, "missing are conv1.weight, .* unexpected are a"),
        (lambda small: {"weights": {"a": 1}}, "has no tensors .* its keys are weights"),
        (lambda small: small | {"fc.bias": torch.ones(7)}, r"'fc.bias' of shape \(7,\)"),
        (lambda small: "nowhere.pt", "there is no checkpoint 'nowhere.pt'"),
    ],
)
def test_another_checkpoint_is_refused(place, checkpoint, match):
    folder, trained = place
    with pytest.raises(LayerticketError, match=match):
        load(folder, network(), checkpoint=checkpoint(trained.state_dict()))


def test_a_file_of_something_else_is_refused(place, tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(LayerticketError, match="has a list"):
        load(place[0], network(), checkpoint=tmp_path / "list.pt")
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(LayerticketError, match="cannot be read"):
        load(place[0], network(), checkpoint=tmp_path / "x.safetensors")
