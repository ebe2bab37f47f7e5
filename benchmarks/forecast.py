"""How good is the forecast of a training? One ratio per network, measured in one run.

A few steps of the dense network and of a ticket on the digits are timed and metered; then both
are trained for real. Printed is forecast / finished run, in seconds and in energy; 1 is perfect.

    python benchmarks/forecast.py --epochs 8
"""

import json
import sys
import tempfile
from pathlib import Path

from layerticket.data.sources import load_data
from layerticket.evaluation.energy import Metering
from layerticket.selection import Budget
from layerticket.study.measure import Bench
from layerticket.study.record import train_run
from layerticket.study.search import find_in
from layerticket.training.recipe import Recipe


def flag(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def main():
    data = load_data("digits", validation_fraction=0.1)
    recipe = Recipe(epochs=flag("--epochs", 8), batch_size=64)
    stated = Metering(cpu_tdp=100.0, carbon_intensity=0.381)
    bench = Bench(dataset=data, recipe=recipe, rounds=9, metering=stated)
    ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        found = find_in(
            "resnet32",
            data,
            budget=Budget(remove=5),
            seed=0,
            out=out / "ticket",
            bench=bench,
            foresee=True,
        )
        for name, ticket in (("dense", None), ("ticket", out / "ticket")):
            run = train_run(
                "resnet32",
                data,
                recipe,
                seed=0,
                out=out / "runs",
                ticket=ticket,
                progress=False,
                metering=stated,
            )
            foreseen = found["forecast"][name]
            ratios[name] = {
                "seconds": round(foreseen["train_seconds"] / run["train_seconds"], 3),
                "energy": round(foreseen["energy_kwh"] / run["energy"]["train_kwh"], 3),
            }
            print(f"{name}: {run['train_seconds']:.1f} s of training", file=sys.stderr)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
