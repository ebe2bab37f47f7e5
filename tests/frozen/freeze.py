"""Says what the outside looks like: the keys the verbs answer with, the files of a study, what was
removed, first weights, scores, public names. Run as a script it writes `record.json` anew.

Uses only the command line, the files it leaves, and what the documentation imports, so that it
runs on any later tree as it stands.
"""

import contextlib
import csv
import hashlib
import importlib
import importlib.metadata
import io
import json
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent
RECORD, STUDY = HERE / "record.json", HERE / "quick.toml"
# Dictionaries whose keys are names of blocks, methods, evaluations and the like, not words of ours.
NAMED = {"scores", "later_scores", "networks", "failures", "evaluations", "results", "corruptions"}
MODULES = ("layerticket",)


def command(*words):
    """Give a command; return the object it printed."""
    (door,) = importlib.metadata.entry_points(group="console_scripts", name="layerticket")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = door.load()([*map(str, words), "--json"])
    assert code == 0, f"layerticket {' '.join(map(str, words))}: {code}\n{err.getvalue()}"
    (line,) = out.getvalue().splitlines()
    return json.loads(line)


def shape(value, name=""):
    """Keys and types of a JSON value; elements of a list are one, names of things are `*`."""
    if isinstance(value, dict):
        if name in NAMED:
            return {"*": merged(shape(part) for part in value.values())} if value else {}
        return {key: shape(part, key) for key, part in sorted(value.items())}
    if isinstance(value, list):
        return [merged(shape(part, name) for part in value)] if value else []
    if value is None or isinstance(value, bool):
        return "null" if value is None else "bool"
    return "text" if isinstance(value, str) else "number"


def merged(shapes):
    """One shape for several; a key that only some have ends in `?`."""
    kinds = []
    for one in shapes:
        if one not in kinds:
            kinds.append(one)
    kinds = [kind for kind in kinds if kind != "null"] or kinds
    if all(isinstance(kind, dict) for kind in kinds):
        keys = sorted({key.removesuffix("?") for kind in kinds for key in kind})
        found = {}
        for key in keys:
            have = [k[n] for k in kinds for n in (key, f"{key}?") if n in k]
            everywhere = all(key in kind for kind in kinds)
            found[key if everywhere else f"{key}?"] = merged(have)
        return found
    if all(isinstance(kind, list) for kind in kinds):
        inner = [part for kind in kinds for part in kind]
        return [merged(inner)] if inner else []
    return kinds[0] if len(kinds) == 1 else " or ".join(sorted(json.dumps(k) for k in kinds))


def digest(tensors):
    """SHA-256 of tensors: names in order, types, shapes, bytes."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def verbs(folder):
    """Keys and types that each verb answers with."""
    quiet = ("--device", "cpu")
    found = {
        "blocks": command("blocks", "resnet20", "--data", "digits"),
        "blocks --spread": command(
            "blocks", "resnet20", "--data", "digits", "--spread", "snip", "--repeats", 2
        ),
    }
    find = ("find", "resnet20", "--remove", 2, "--criterion", "snip", *quiet, "--out")
    found["find"] = command(*find, folder / "a")
    forecast = ("--forecast-epochs", 2, "--timing-rounds", 2, "--batch-size", 32)
    found["find --forecast-epochs"] = command(*find, folder / "b", *forecast)
    baseline = ("--baseline", "random", "--reference", folder / "a", *quiet, "--out", folder / "c")
    found["find --baseline"] = command("find", "resnet20", *baseline)
    train = ("train", "resnet20", "--epochs", 1, "--precision", "fp32", *quiet)
    train += ("--out", folder / "runs")
    found["train"] = command(*train, "--keep", "0")
    found["train --ticket"] = command(*train, "--ticket", folder / "a")
    run = found["train"]["run"]
    found["evaluate"] = command(
        "evaluate", run, "--on", "test,fgsm", "--images", 32, "--attack-images", 32, *quiet
    )
    after = ("--run", run, "--criterion", "snip", "--remove", 2, *quiet, "--out", folder / "d")
    found["find --run"] = command("find", *after)
    small = ("seeds=1", "recipe.epochs=1", "methods.1.draws=1")
    found["study run"] = study(folder / "study", small)
    found["study status"] = command("study", "status", folder / "study")
    found["report"] = command("report", folder / "study", "--no-figures")
    demo = ("--model", "resnet20", "--remove", 2, "--seeds", 2, "--epochs", 1, *quiet)
    found["demo"] = command("demo", *demo, "--out", folder / "demo")
    return {name: shape(answer) for name, answer in found.items()}


def study(folder, changes=()):
    """Run the frozen study with one thread a worker; return what it came to."""
    words = ["study", "run", STUDY, "--out", folder, "--workers", 1, "--threads", 1]
    words += ["--device", "cpu"]
    return command(*words, *(["--set", *changes] if changes else []))


def whole_study(folder):
    """The frozen study: keys, headers, what each row removed, first weights of all tickets."""
    answer = study(folder)
    stored = json.loads((folder / "study.json").read_text())
    assert stored == answer
    command("report", folder, "--no-figures")
    return {
        "study.json": shape(stored),
        "headers": headers(folder),
        "removed": {named(row): row["removed"] for row in stored["runs"]},
        "first weights": first_weights(folder),
    }


def named(row):
    """Name a row by its method, the number of its draw and its seed."""
    draw = "" if row["draw"] is None else f" {row['draw']}"
    return f"{row['method']}{draw}, seed {row['seed']}"


def headers(folder):
    """First line of every table of a study and its report."""
    found = {}
    for path in sorted(folder.rglob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            found[path.relative_to(folder).as_posix()] = next(csv.reader(file))
    return found


def first_weights(folder):
    """Digest of the first weights of every ticket of a study, by seed and what was removed."""
    found = {}
    for path in sorted(folder.rglob("ticket.json")):
        ticket = json.loads(path.read_text())
        name = f"seed {ticket['seed']} without {' '.join(ticket['removed'])}"
        sha = digest(load_file(path.with_name("init.safetensors")))
        assert found.setdefault(name, sha) == sha, f"{path} has other first weights"
    return found


def network(name, channels=3, seed=0):
    """Build a network from a seed."""
    from layerticket.models.load import build_model

    return build_model(name, classes=10, channels=channels, seed=seed)


def theta_0():
    """Digests of first weights by network and seed."""
    plans = [(name, s) for name in ("resnet20", "resnet32", "resnet20-projection") for s in (0, 1)]
    return {f"{n}, seed {s}": digest(network(n, 1, s).state_dict()) for n, s in plans}


def batch(size):
    """Ten classes, two images each: noise that depends on nothing but its seed."""
    generator = torch.Generator().manual_seed(20230125)
    return torch.randn(20, 3, size, size, generator=generator), torch.arange(20) % 10


def vit():
    """A small vision transformer of timm."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model(
            "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=4, num_classes=10
        )


def scores():
    """Score of every block by every criterion; the name of the error where one refuses."""
    import layerticket

    found = {}
    for name, model in (("resnet20", network("resnet20")), ("vit", vit())):
        images, labels = batch(32)
        blocks = layerticket.find_blocks(model, images[:1])
        found[name] = {}
        for criterion in layerticket.criterion_names():
            try:
                answer = layerticket.score(model, blocks, (images, labels), criterion).values
            except layerticket.LayerticketError as err:
                answer = f"refused: {type(err).__name__}"
            found[name][criterion] = answer if isinstance(answer, str) else dict(answer)
    return found


def tickets():
    """What `find_ticket` removes, in the order of removal, and its first weights."""
    import layerticket

    found = {}
    model, data = network("resnet20", seed=1), batch(32)
    for criterion in ("grasp", "snip", "synflow", "magnitude", "random"):
        for budget in (layerticket.Budget(remove=3), layerticket.Budget(save_macs=0.3)):
            ticket = layerticket.find_ticket(model, data, criterion=criterion, budget=budget)
            asked = "3 blocks" if budget.remove else "30 % of MACs"
            found[f"{criterion}, {asked}"] = {
                "removed": list(ticket.removed),
                "order": [list(names) for names in ticket.order],
                "macs": dict(ticket.macs),
                "params": dict(ticket.params),
                "first weights": digest(ticket.init),
            }
    return found


def names():
    """Public names by module."""
    return {name: sorted(importlib.import_module(name).__all__) for name in MODULES}


PARTS = {
    "names": lambda _: names(),
    "theta_0": lambda _: theta_0(),
    "tickets": lambda _: tickets(),
    "scores": lambda _: scores(),
    "verbs": verbs,
    "study": whole_study,
}


def main():
    torch.set_num_threads(1)
    record = {}
    for name, part in PARTS.items():
        with tempfile.TemporaryDirectory() as folder:
            record[name] = part(Path(folder))
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
