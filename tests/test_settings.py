"""One declaration of a setting meets the same check at the constructor, `replace` and a table."""

import pickle
from dataclasses import field, replace
from pathlib import Path
from typing import Literal

import pytest

from layerticket.errors import LayerticketError
from layerticket.selection import Budget
from layerticket.settings import Count, Flag, Number, Share, from_table, settings, to_table


@settings
class Inner:
    blocks: Count = 1
    share: Share = 0.5
    way: Literal["sum", "mean"] = "sum"
    most: Count | None = None
    names: tuple[str, ...] = ()
    folder: Path | None = None
    on: Flag = True
    weight: Number = 0.0


@settings
class Outer:
    title: str
    inner: Inner = field(default_factory=Inner)
    several: tuple[Inner, ...] = ()

    def __post_init__(self) -> None:
        if self.inner.blocks == 7:
            raise LayerticketError("seven blocks are too many.")


REFUSED = [
    ({"blocks": 0}, "blocks is 0; it must be at least 1"),
    ({"blocks": "3"}, "blocks is '3'; it must be a whole number"),
    ({"blocks": True}, "blocks is True; it must be a whole number"),
    ({"blocks": 10**5000}, "blocks is a number of 16610 bits; it must be at most 9007199254740992"),
    ({"share": 1}, "share is 1; it must be below 1"),
    ({"weight": float("nan")}, "weight is nan; it must be a finite number"),
    ({"weight": "0.1"}, "weight is '0.1'; it must be a number"),
    ({"way": "summ"}, "Did you mean 'sum'"),
    ({"on": 1}, "on is 1; it must be true or false"),
    ({"most": "d"}, "most is 'd'; it must be a whole number"),
    ({"names": "ab"}, "names is 'ab'; it must be a list"),
    ({"blocs": 2}, "Did you mean 'blocks'"),
]


@pytest.mark.parametrize(("given", "said"), REFUSED, ids=[str(said) for _, said in REFUSED])
def test_every_door_refuses_alike(given, said):
    with pytest.raises(LayerticketError) as one:
        Inner(**given)
    assert said in str(one.value)
    with pytest.raises(LayerticketError) as other:
        from_table(Inner, given, "study.toml: inner")
    assert str(other.value).startswith("study.toml: inner")
    if "blocs" not in given:
        assert said in str(other.value)
        with pytest.raises(LayerticketError) as third:
            replace(Inner(), **given)
        assert str(third.value) == str(one.value)


def test_values_become_what_the_annotation_says():
    made = from_table(Outer, {"title": "t", "inner": {"names": ["a"], "folder": "x"}}, "f")
    assert made.inner == Inner(names=("a",), folder=Path("x"))
    assert Inner(share=0).share == 0.0
    assert isinstance(Inner(share=0).share, float)
    assert to_table(made)["inner"]["folder"] == "x"
    assert "most" not in to_table(made)["inner"]
    assert from_table(Outer, to_table(made), "f") == made
    assert pickle.loads(pickle.dumps(made)) == made
    assert hash(made) == hash(from_table(Outer, to_table(made), "f"))


def test_tables_within_tables_are_checked_and_named():
    with pytest.raises(LayerticketError, match=r"several\.1.*'blocs'.*Did you mean 'blocks'"):
        Outer(title="t", several=({"blocks": 2}, {"blocs": 2}))
    with pytest.raises(LayerticketError, match="inner: blocks is 0"):
        Outer(title="t", inner={"blocks": 0})


def test_missing_unnamed_and_combined():
    with pytest.raises(LayerticketError, match="title is missing"):
        Outer()
    with pytest.raises(LayerticketError, match="by name"):
        Inner(3)
    with pytest.raises(LayerticketError, match="seven blocks"):
        Outer(title="t", inner=Inner(blocks=7))
    with pytest.raises(AttributeError):
        Inner().blocks = 2


@pytest.mark.parametrize(
    ("given", "bytes_"), [(5, 5), ("500", 500), ("2GiB", 2 * 2**30), ("1.5 kB", 1500)]
)
def test_amounts_of_memory(given, bytes_):
    assert Budget(max_memory=given).max_memory == bytes_


@pytest.mark.parametrize("given", [0, True, "0", "2 gigs", "", 1.5, "9" * 5000, -1])
def test_what_is_no_amount_of_memory(given):
    with pytest.raises(LayerticketError, match="is not an amount of memory"):
        Budget(max_memory=given)
