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
from layerticket.selection import Budget
from layerticket.study.methods import TicketMethod
from layerticket.study.search import Search, find
from layerticket.study.train import Networks, train_network
from layerticket.training.device import Metering, Where
from layerticket.training.recipe import Recipe


def flag(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def main():
    data = load_data("digits", validation_fraction=0.1)
    recipe = Recipe(epochs=flag("--epochs", 8), batch_size=64)
    stated = Metering(cpu_tdp=100.0, carbon_intensity=0.381)
    ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        at = Search(
            networks=Networks.of(data),
            model="resnet32",
            dataset=data,
            budget=Budget(remove=5),
            seed=0,
            out=out / "ticket",
            recipe=recipe,
            where=Where(metering=stated),
            timing_rounds=9,
            forecast=True,
        )
        found = find(TicketMethod(criterion="grasp"), at)
        for name, ticket in (("dense", None), ("ticket", out / "ticket")):
            run = train_network(
                "resnet32",
                data,
                recipe,
                seed=0,
                out=out / "runs",
                ticket=ticket,
                where=Where(progress=False, metering=stated),
            )
            forecast = found["forecast"][name]
            ratios[name] = {
                "seconds": round(forecast["train_seconds"] / run["train_seconds"], 3),
                "energy": round(forecast["energy_kwh"] / run["energy"]["train_kwh"], 3),
            }
            print(f"{name}: {run['train_seconds']:.1f} s of training", file=sys.stderr)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
