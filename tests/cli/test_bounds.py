"""Numbers, names and paths that make no sense are refused in one line before anything is built."""

import errno

import pytest

from layerticket.cli.app import main
from layerticket.errors import LayerticketError, TrainingError, in_words
from layerticket.files import check_folder, write_json
from layerticket.settings import DeviceName, bytes_of, checked
from layerticket.study.toml import study_of
from layerticket.training.checkpoint import epoch_at

DIGITS = "9" * 5000
FIND = ["find", "resnet20", "--remove", "1", "--out", "OUT"]
TRAIN = ["train", "resnet20", "--epochs", "1", "--out", "OUT"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["blocks", "resnet20", "--input-shape", "3,²,32"], "channels,height,width"),
        (["blocks", "resnet20", "--input-shape", f"3,{DIGITS},32"], "channels,height,width"),
        (["blocks", "resnet20", "--input-shape", "3,65535,65535"], "values per input; at most"),
        (["blocks", "resnet20", "--repeats", "9" * 400], "--repeats is a number of 1329 bits"),
        (["find", "resnet20", "--max-memory", DIGITS, "--out", "OUT"], "not an amount of memory"),
        (["find", "resnet20", "--max-memory", "9" * 400, "--out", "OUT"], "a number of 1329 bits"),
        (["find", "resnet20", "--max-memory", "2000TiB", "--out", "OUT"], "at most 1024 TiB"),
        (["find", "resnet20", "--remove", "9" * 400, "--out", "OUT"], "must be at most"),
        ([*FIND, "--rounds", "99999999"], "--rounds is 99999999; it must be at most 1000"),
        ([*FIND, "--timing-rounds", "99999999"], "it must be at most 1000"),
        ([*FIND, "--device", "cpu:3"], "'cpu:3' is not a device. Use auto, cpu, cuda or cuda:N"),
        ([*FIND, "--device", "xla"], "'xla' is not a device"),
        ([*FIND, "--seed", "-1"], "at least 0"),
        ([*TRAIN, "--device", "meta"], "'meta' is not a device"),
        ([*TRAIN, "--keep", DIGITS], "is not in a training"),
        ([*TRAIN, "--keep", "²"], "is not in a training"),
        ([*TRAIN, "--seed", "-1"], "--seed is -1; it must be at least 0"),
        ([*TRAIN, "--learning-rate", "1e9"], "it must be at most 100"),
        ([*TRAIN, "--weight-decay", "1e9"], "it must be at most 10"),
        ([*TRAIN, "--batch-size", "99999999"], "it must be at most 1048576"),
        (["train", "resnet20", "--epochs", DIGITS], "--epochs"),
        (["demo", "--margin", "0.5", "--out", "OUT"], "0.005 is half a percentage point"),
        (["demo", "--seeds", "0", "--out", "OUT"], "--seeds is 0; it must be at least 1"),
        (["demo", "--seeds", "9" * 30, "--out", "OUT"], "it must be at most 1000"),
        (["demo", "--epochs", "0", "--out", "OUT"], "--epochs is 0"),
        (["demo", "--image-size", "x", "--out", "OUT"], "'x' is no size of images"),
        (["demo", "--criteria", "grap", "--out", "OUT"], "Did you mean 'grasp'"),
        (["demo", "--model", "resnet21", "--out", "OUT"], "'resnet21' is not known. Did you mean"),
        (["demo", "--remove", "99", "--out", "OUT"], "resnet32 has only 13 removable blocks"),
        (["find", "resnet20", "--remove", "1", "--out", "a\0b"], "null byte"),
        (["blocks", "torch:zeros"], "'torch:zeros' is a built-in function"),
        (["blocks", "sys:exit"], "'sys:exit' is a built-in function"),
        (["blocks", "os:_exit"], "'os:_exit' is a built-in function"),
        (["blocks", "time:sleep"], "'time:sleep' is a built-in function"),
    ],
)
def test_one_line_and_code_2(words, said, tmp_path, capsys):
    out = tmp_path / "new"
    assert main([str(out) if word == "OUT" else word for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert len(line) < 2100
    assert not out.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["find", "resnet20", "--remove", "1"],
        ["train", "resnet20", "--epochs", "1"],
        ["study", "run", "quick"],
        ["demo"],
    ],
)
def test_a_file_where_a_folder_is_to_be(words, tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "inside"):
        assert main([*words, "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"{file} is not a folder" in line
    assert file.read_text() == "mine"


def test_a_folder_that_can_be_made():
    assert check_folder
    with pytest.raises(LayerticketError, match="name too long"):
        check_folder(__import__("pathlib").Path("x" * 5000))


STUDY = {"title": "t", "models": ["resnet20"], "methods": [{"method": "ticket"}]}
METHOD = STUDY["methods"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": 10**30}, "seeds is 1000000000000000000000000000000; it must be at most 10000"),
        ({"seeds": 2**63 - 1}, "it must be at most 10000"),
        ({"seeds": 0}, "seeds is 0; it must be at least 1"),
        ({"seeds": list(range(10_000)), "budgets": [{"remove": n} for n in range(1, 30)]}, "rows"),
        ({"methods": [{"method": ["ticket"]}]}, "is not known. Did you mean 'ticket'"),
        ({"methods": [{"method": {"a": 1}}]}, "is not known"),
        ({"methods": [METHOD | {"rounds": 99_999_999}]}, "it must be at most 1000"),
        ({"methods": [METHOD | {"seeds": 10**30}]}, "methods.0.: seeds is"),
        ({"methods": [METHOD | {"rounds": [1] * 2000}]}, "give 2,000 methods"),
        (
            {"methods": [METHOD, {"method": "control", "control": "random", "draws": 10**9}]},
            "draws is 1000000000; it must be at most 1000",
        ),
        ({"methods": [METHOD | {"options": {"temperature": [1]}}]}, "temperature is .1.; it must"),
        ({"methods": [METHOD | {"options": {"temperature_": 1}}]}, "Did you mean 'temperature'"),
        ({"methods": [METHOD | {"options": {"redraw": -1}}]}, "options.redraw is -1"),
        (
            {"methods": [METHOD, {"method": "filters", "criterion": "l1", "options": {"x": 1}}]},
            "option of criterion 'l1' 'x' is not known",
        ),
        (
            {"methods": [METHOD, {"method": "filters", "criterion": "snip",
                                  "options": {"slices": "some"}}]},
            "Available: all, filters",
        ),
        ({"recipe": {"learning_rate": 1e9}}, "learning_rate is 1000000000.0; it must be at most"),
        ({"recipe": {"epochs": 10**12}}, "it must be at most 100000"),
        ({"recipe": {"momentum": 10**400}}, "a number of 1329 bits; it must be a number"),
        (
            {"input_shape": [3, 65536, 65536], "fit": "a:b",
             "methods": [METHOD | {"criterion": "random"}]},
            "values per input",
        ),
        ({"conditions": {"frost_dir": "a\0b"}}, "null byte"),
        ({"conditions": {"shift_dir": ["a", "a\0b"]}}, "null byte"),
        ({"models": ["resnet21"]}, "'resnet21' is not known. Did you mean"),
    ],
)  # fmt: skip
def test_study_files(change, said):
    with pytest.raises(LayerticketError, match=said):
        study_of(STUDY | change)


def test_options_that_fit_are_taken():
    fine = {"temperature": 2, "redraw": 0, "halves": True, "reduction": "mean"}
    study = study_of(STUDY | {"methods": [METHOD | {"options": fine}]})
    assert study.methods[0].options == fine


def test_values_at_the_border():
    assert bytes_of("1024TiB") == 2**50
    assert checked("device", DeviceName, "cuda:7") == "cuda:7"
    with pytest.raises(LayerticketError, match="'cuda:1234567' is not a device"):
        checked("device", DeviceName, "cuda:1234567")
    assert epoch_at("000000003", 5) == 3
    with pytest.raises(LayerticketError, match="not in a training"):
        epoch_at("٣", 5)  # a three, but not one of ours


def test_errors_in_words(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device", "runs/a")
    assert in_words(full).startswith("runs/a: there is no space left on the disk. Free some")
    assert in_words(PermissionError(13, "Permission denied", "a")) == "a: Permission denied."
    assert in_words(LayerticketError("a  b")) == in_words(TrainingError("a b")) == "a b"
    assert in_words(MemoryError()) == "MemoryError"
    with pytest.raises(LayerticketError, match="cannot be written as JSON"):
        write_json(tmp_path / "a", {"a": "\udc80"})
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    with pytest.raises(LayerticketError, match="cannot be written as JSON"):
        write_json(tmp_path / "a", nested)


@pytest.mark.parametrize(
    ("err", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "x: there is no space left"),
        (RuntimeError("mat1 and mat2"), "RuntimeError: mat1 and mat2 (LAYERTICKET_TRACEBACK=1"),
        (KeyError("a"), "KeyError: 'a' (LAYERTICKET_TRACEBACK=1 shows where)"),
        (SystemExit("bye"), "SystemExit: bye (LAYERTICKET_TRACEBACK=1 shows where)"),
        (TrainingError("the loss is nan"), "layerticket: the loss is nan"),
    ],
)
def test_whatever_happens_ends_in_one_line(err, said, monkeypatch, capsys):
    def fail(*_, **__):
        raise err

    monkeypatch.setattr("layerticket.cli.blocks.check_model_name", fail)
    assert main(["blocks", "resnet20"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
