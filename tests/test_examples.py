"""The examples run, and what they train learns."""

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import nn

from gallery import NOTEBOOK, run_notebook
from layerticket.batch import call, logits_of, model_loss
from layerticket.blocks.find import find_blocks
from layerticket.models.cifar_resnet import CifarResNet
from layerticket.selection import Budget
from layerticket.ticket.find import find_ticket

EXAMPLES = Path(__file__).parents[1] / "examples"
LOOPS = {
    "plain_loop": (),
    "timm_training": ("timm",),
    "hugging_face_trainer": ("transformers",),
    "lightning_trainer": ("pytorch_lightning",),
}
SLOW = {"lightning_trainer"}


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run_here():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*LOOPS, "several_processes"}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in LOOPS]
)
def test_a_ticket_learns_in_other_peoples_loops(name, tmp_path, monkeypatch):
    for package in LOOPS[name]:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the trainers, about their own parts
        losses = load(name).main(tmp_path)  # it loads what it trained, too
    assert len(losses) >= 20
    assert fmean(losses[-5:]) < fmean(losses[:5])


def kinds_of_output(notebook):
    cells = [cell.get("outputs", []) for cell in notebook["cells"]]
    return [[sorted(output.get("data", ())) for output in outputs] for outputs in cells]


@pytest.mark.slow
def test_the_notebook_runs_as_in_jupyter_and_shows_what_it_shows(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Jupyter, about its own parts
        ran = run_notebook(NOTEBOOK, tmp_path)
    kept = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert kinds_of_output(ran) == kinds_of_output(kept)
    assert str(kinds_of_output(ran)).count("text/html") >= 6
    assert "/tmp" not in NOTEBOOK.read_text(encoding="utf-8")
    assert (tmp_path / "first-study" / "report.html").is_file()


@pytest.mark.slow
def test_ddp_and_fsdp2_take_a_ticket_as_any_network():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    ran = subprocess.run(
        [*command, "--nproc-per-node", "2", str(EXAMPLES / "several_processes.py")],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    assert "DDP is" in ran.stdout


def resnet():
    return CifarResNet(20, classes=4), torch.randn(4, 3, 16, 16)


def vit():
    timm = pytest.importorskip("timm")
    model = timm.models.vision_transformer.VisionTransformer(
        32, 8, embed_dim=16, depth=4, num_heads=2, num_classes=4
    )
    return model, torch.randn(4, 3, 32, 32)


def llama():
    hf = pytest.importorskip("transformers")
    config = hf.LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=16,
        use_cache=False,
    )
    ids = torch.arange(14).reshape(2, 7)
    return hf.LlamaForCausalLM(config), {"input_ids": ids, "labels": ids}


@pytest.mark.parametrize("granularity", ["block", "branch"])
@pytest.mark.parametrize("build", [resnet, vit, llama])
def test_a_ticket_compiles_as_one_graph(build, granularity):
    model, inputs = build()
    tokens = isinstance(inputs, dict)
    batch = inputs if tokens else (inputs, torch.arange(4) % 4)
    ticket = find_ticket(
        model,
        batch,
        criterion="snip",
        budget=Budget(remove=2),
        granularity=granularity,
        **({"loss_fn": model_loss} if tokens else {}),
    )
    small = ticket.apply(model).eval()
    assert isinstance(small, nn.Module)
    if granularity == "branch" and build is not resnet:
        assert len(find_blocks(small, inputs)) > 2  # only branches went
    torch._dynamo.reset()
    compiled = torch.compile(small, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        given, expected = logits_of(call(compiled, inputs)), logits_of(call(small, inputs))
    assert torch.allclose(given, expected, atol=1e-5)
    logits_of(call(compiled, inputs)).sum().backward()
    torch._dynamo.reset()
