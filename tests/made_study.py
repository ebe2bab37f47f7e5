"""Study files made by hand: the shape of study.json with plausible figures, none of them measured.

The accuracies are drawn around values one would expect of CIFAR ResNets; they prove nothing.
"""

import random
from typing import Any

import numpy as np

from layerticket.verdict.pairs import Row, as_record, compare_rows

BLOCKS = {"resnet20": 3, "resnet32-projection": 5, "resnet56-projection": 9}
MACS = {
    "resnet20": 40_813_184,
    "resnet32-projection": 69_484_672,
    "resnet56-projection": 126_083_200,
}
PARAMS = {"resnet20": 272_474, "resnet32-projection": 466_906, "resnet56-projection": 855_770}
ACCURACY = {"resnet20": 0.918, "resnet32-projection": 0.927, "resnet56-projection": 0.934}
BLOCK_MACS = 4_718_592
STAGE_PARAMS = (4_672, 18_560, 73_984)

# label, kind, mean difference to dense in pp for each block removed, draws
METHODS = (
    ("grasp", "ticket", -0.06, 0),
    ("snip", "ticket", -0.13, 0),
    ("random blocks", "control", -0.09, 4),
    ("last blocks", "control", -0.30, 0),
    ("shallower", "shallower", -0.10, 0),
    ("filters grasp (filters)", "filters", -0.28, 0),
    ("weights snip", "weights", -0.05, 0),
)


def network(model: str) -> dict[str, Any]:
    per = BLOCKS[model]
    return {
        "macs": MACS[model],
        "params": PARAMS[model],
        "blocks": [
            {
                "name": f"layer{stage + 1}.{index}",
                "position": stage * per + index,
                "stage": stage,
                "macs": BLOCK_MACS,
                "params": STAGE_PARAMS[stage],
            }
            for stage in range(3)
            for index in range(per)
            if stage == 0 or index
        ],
    }


def curve(rng: random.Random, epochs: int, last: float) -> list[dict[str, Any]]:
    rows = []
    for epoch in range(1, epochs + 1):
        share = epoch / epochs
        accuracy = (
            last - 0.02 - (last - 0.35) * (1 - share) ** 2 + rng.gauss(0, 0.006) * (1 - share)
        )
        rows.append(
            {
                "epoch": epoch,
                "train_loss": 0.02 + 1.7 * (1 - share) ** 1.5 + abs(rng.gauss(0, 0.01)),
                "validation_accuracy": min(max(accuracy, 0.0), 1.0),
                "learning_rate": 0.1 * (1 - share),
            }
        )
    return rows


def evaluations(rng: random.Random, accuracy: float) -> dict[str, Any]:
    shifts = {
        "cifar10-c": (0.20, "CIFAR-10-C"),
        "cifar10.2": (0.09, "CIFAR-10.2"),
        "pgd at 1/255": (0.38, "PGD, 1/255"),
    }
    return {
        name: {"accuracy": accuracy - drop + rng.gauss(0, 0.006), "title": title}
        for name, (drop, title) in shifts.items()
    }


def part(label: str, kind: str) -> tuple[str, str | None]:
    """Role and reference of a method, as a study file would name them."""
    if kind in ("ticket", "lottery"):
        new = label.endswith(", new weights")
        reference = label.removesuffix(", new weights") if new else None
        return "control" if new or label.startswith("random") else "criterion", reference
    controls = ("control", "shallower", "equal_compute")
    return "dense" if kind == "dense" else "control" if kind in controls else "baseline", None


def answers(rng: random.Random, accuracy: float, images: int) -> str:
    """Answers on single images: the first ones are easy for every network."""
    noisy = sorted(range(images), key=lambda image: image + rng.gauss(0, 0.05 * images))
    right = set(noisy[: round(accuracy * images)])
    return np.packbits([image in right for image in range(images)]).tobytes().hex()


def run(
    rng, model, label, kind, seed, budget, draw, removed, accuracy, *, energy, full, images=None
) -> dict[str, Any]:
    blocks = network(model)["blocks"]
    names = [block["name"] for block in blocks]
    count = len(removed) if removed is not None else 0
    masked = kind == "weights"
    whole = removed is not None and kind in ("ticket", "lottery", "control")
    macs = MACS[model] - (0 if masked else count * BLOCK_MACS)
    share = macs / MACS[model]
    seconds = 1450 * MACS[model] / 69e6 * (0.12 + 0.88 * share) * (1 + rng.gauss(0, 0.015))
    kwh = 0.09 * seconds / 1450
    name = (
        f"{model}-cifar10-{kind}-{label.replace(' ', '-')}-{budget or 'dense'}-seed{seed}".replace(
            " ", "-"
        )
    )
    scored = kind == "ticket"
    searched = 0.9 if scored else 0.1 if removed else 0.0
    role, reference = part(label, kind)
    training = f"{rng.getrandbits(48):012x}"
    return {
        "id": training,
        "training": training,
        "role": role,
        "reference": reference,
        "correct": answers(rng, accuracy, images) if images else None,
        "workers": 1,
        "jobs_beside": 0,
        "cost": {
            "train_seconds": seconds,
            "search_seconds": searched,
            "energy_kwh": kwh if energy else None,
            "co2_kg": kwh * 0.38 if energy else None,
        },
        "folder": f"runs/{name}",
        "model": model,
        "budget": budget,
        "method": label,
        "kind": kind,
        "draw": draw,
        "seed": seed,
        "status": "done",
        "error": None,
        "log": f"logs/{name}.log",
        "test_accuracy": round(accuracy, 4),
        "validation_accuracy": round(accuracy - 0.004 + rng.gauss(0, 0.002), 4),
        "epochs": 30,
        "train_seconds": seconds,
        "images_per_second": 45_000 * 30 / seconds,
        "energy_kwh": kwh if energy else None,
        "co2_kg": kwh * 0.38 if energy else None,
        "energy_method": "counter of the GPU, processor by time" if energy else None,
        "peak_memory_bytes": int(1.9e9 * (0.3 + 0.7 * share)),
        "params": PARAMS[model] - sum(b["params"] for b in blocks if b["name"] in (removed or [])),
        "macs": macs,
        "sparse_macs": int(MACS[model] * 0.7) if masked else None,
        "search_seconds": searched,
        "search_energy_kwh": 2e-5 if scored and energy else None,
        "device": "cuda",
        "precision": "bf16",
        "removed": [] if not whole else removed,
        "kept": [] if not whole else [n for n in names if n not in removed],
        "scores": {n: -rng.random() - 2.0 * (n in (removed or [])) for n in names}
        if scored
        else None,
        "match": {"by": "macs", "macs": {"reference": share, "baseline": share * 1.004}}
        if kind in ("filters", "shallower")
        else None,
        "curve": curve(rng, 30, accuracy),
        "evaluations": evaluations(rng, accuracy) if full else {},
        "similarity": {
            "layers": {
                n: 0.98 - 0.02 * i + rng.gauss(0, 0.01)
                for i, n in enumerate(names)
                if n not in (removed or [])
            },
            "mean": 0.86 + rng.gauss(0, 0.01),
        }
        if full and kind != "dense"
        else None,
        "config": {
            "model": model,
            "data": "cifar10",
            "seed": seed,
            "recipe": {"epochs": 30, "batch_size": 128, "learning_rate": 0.1, "schedule": "cosine"},
        },
        "repeat": f"layerticket train {model} --epochs 30 --seed {seed} --data cifar10",
    }


def chosen(rng: random.Random, model: str, label: str, count: int) -> list[str]:
    names = [block["name"] for block in network(model)["blocks"]]
    if label.startswith("last"):
        return names[-count:]
    if label.startswith("grasp"):
        early = sorted(names, key=lambda n: (names.index(n) > 4) + rng.random() * 1.2)
        return sorted(early[:count], key=names.index)
    return sorted(rng.sample(names, count), key=names.index)


def break_run(one: dict[str, Any], error: str) -> None:
    for key in (
        "test_accuracy",
        "validation_accuracy",
        "train_seconds",
        "images_per_second",
        "energy_kwh",
        "co2_kg",
        "peak_memory_bytes",
        "energy_method",
    ):
        one[key] = None
    one |= {
        "correct": None,
        "cost": None,
        "status": "failed",
        "error": error,
        "curve": one["curve"][:4],
        "evaluations": {},
        "similarity": None,
    }


def make_study(
    *,
    seeds: int = 5,
    models: tuple[str, ...] = ("resnet32-projection",),
    removals: tuple[int, ...] = (5,),
    methods=METHODS,
    energy: bool = True,
    full: bool = True,
    failed: int = 0,
    title: str = "Layers against filters at initialization",
    images: int | None = None,
) -> dict[str, Any]:
    """Make a study as the runner writes it, analysis included."""
    rng = random.Random(7)
    runs = []
    for model in models:
        for seed in range(seeds):
            luck = ACCURACY[model] + rng.gauss(0, 0.0025)
            runs.append(
                run(
                    rng,
                    model,
                    "dense",
                    "dense",
                    seed,
                    None,
                    None,
                    None,
                    luck,
                    energy=energy,
                    full=full,
                    images=images,
                )
            )
            for count in removals:
                for label, kind, slope, draws in methods:
                    for draw in range(draws) if draws else [None]:
                        accuracy = luck + slope * count / 100 + rng.gauss(0, 0.0022)
                        runs.append(
                            run(
                                rng,
                                model,
                                label,
                                kind,
                                seed,
                                f"remove {count}",
                                draw,
                                chosen(rng, model, label, count),
                                accuracy,
                                energy=energy,
                                full=full,
                                images=images,
                            )
                        )
    tickets = [one for one in runs if one["kind"] != "dense"]
    for one in tickets[:failed]:
        break_run(
            one, "TrainingError: the loss is not finite at epoch 4 <nan>. Lower learning_rate."
        )
    study = {
        "schema": 1,
        "title": title,
        "study": {
            "title": title,
            "models": list(models),
            "data": "cifar10",
            "seeds": seeds,
            "budgets": [{"remove": count} for count in removals],
            "margin": 0.01,
        },
        "command": "layerticket study run table3.toml --out table3",
        "data": "CIFAR-10",
        "classes": 10,
        "test_images": images or 10_000,
        "margin": 0.01,
        "confidence": 0.95,
        "environment": {
            "layerticket": "0.1.0",
            "python": "3.11.7",
            "torch": "2.15.0",
            "cpu": "AMD EPYC",
            "threads": 2,
            "gpu": None,
            "platform": "Linux-6.18",
            "machine": "x86_64",
            "accelerate": "1.15.0",
        },
        "environments": [],
        "networks": {model: network(model) for model in models},
        "runs": runs,
    }
    return study | analysed(study)


def with_every_block_alone(study: dict[str, Any]) -> dict[str, Any]:
    """Add the control that takes out each block alone; later blocks are worth more."""
    rng, added = random.Random(11), []
    for dense in [one for one in study["runs"] if one["kind"] == "dense"]:
        names = [block["name"] for block in network(dense["model"])["blocks"]]
        for number, name in enumerate(names):
            accuracy = dense["test_accuracy"] - 0.002 * number + rng.gauss(0, 0.001)
            one = run(
                rng, dense["model"], "each blocks", "control", dense["seed"], "remove 1", number,
                [name], accuracy, energy=True, full=False,
            )  # fmt: skip
            added.append(one | {"role": "baseline"})
    study = study | {"runs": [*study["runs"], *added]}
    return study | analysed(study)


def analysed(study: dict[str, Any]) -> dict[str, Any]:
    """Compare the runs of a study as the runner does."""
    found = compare_rows(
        [Row.from_record(one) for one in study["runs"]],
        margin=study["margin"],
        confidence=study["confidence"],
        networks=study["networks"],
        test_images=study["test_images"],
    )
    comparisons = as_record(found.comparisons)
    return {"comparisons": comparisons, "verdict": found.verdict}
