"""Named tensors in a file: equal bytes for equal tensors, and every damage is seen."""

import pytest
import torch

from layerticket.errors import LayerticketError
from layerticket.tensors import load_tensors, save_tensors, tensor_digest

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "count": torch.tensor(3),
    "none": torch.empty(0, 4),
}


def test_round_trip(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors = TENSORS | {"turned": TENSORS["a"].t(), "tied": TENSORS["a"]}
    save_tensors(path, tensors, {"epoch": 3})
    first = path.read_bytes()
    read, facts = load_tensors(path)
    assert facts == {"epoch": 3}
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor)
        assert read[name].dtype == tensor.dtype
    save_tensors(path, dict(reversed(tensors.items())), {"epoch": 3})
    assert path.read_bytes() == first


def test_digest_sees_names_types_shapes_and_bytes_but_not_order_or_layout():
    plain = tensor_digest(TENSORS)
    assert tensor_digest(dict(reversed(TENSORS.items()))) == plain
    assert tensor_digest(TENSORS | {"a": TENSORS["a"].t().contiguous().t()}) == plain
    changes = [
        {"b": torch.ones(1)},
        {"a": TENSORS["a"].reshape(3, 2)},
        {"a": TENSORS["a"].double()},
        {"a": -TENSORS["a"]},
        {"none": torch.empty(4, 0)},
    ]
    assert len({plain, *(tensor_digest(TENSORS | change) for change in changes)}) == 6


def test_what_is_no_tensor_or_no_file_of_ours_is_refused(tmp_path):
    with pytest.raises(
        LayerticketError, match="state 'x' is a list, but only tensors can be saved"
    ):
        save_tensors(tmp_path / "x", {"x": [1]}, {})
    (tmp_path / "y").write_bytes(b"not ours")
    for name in ("missing", "y"):
        with pytest.raises(LayerticketError, match=f"{name} is damaged or was not written by"):
            load_tensors(tmp_path / name)
