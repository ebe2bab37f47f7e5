"""What does metering energy cost training? One ratio, measured in one run.

Printed is 1 + the CPU seconds that a running meter takes in a second, its background threads and a
reading every second included (training reads it once an epoch, and at most once a second): the
process does nothing else meanwhile, so nothing else is in the figure. 1.005 means that training on
one core that has nothing to spare takes 0.5 % longer. As a check the same training steps are
taken with and without a meter, in turns; their ratio, which a busy neighbour blurs by several
percent, goes to stderr.

    python benchmarks/energy_overhead.py --seconds 30 --turns 5 --steps 30
"""

import sys
import time

from layerticket.data.dataset import noise
from layerticket.evaluation.energy import metered
from layerticket.evaluation.timing import ratio_of
from layerticket.models.load import build_model
from layerticket.training.device import Metering, Where
from layerticket.training.recipe import Recipe
from layerticket.training.steps import timed_steps

STATED = Metering(cpu_tdp=100.0, carbon_intensity=0.381)


def flag(name, default):
    return int(sys.argv[sys.argv.index(name) + 1]) if name in sys.argv else default


def own_share(seconds):
    """CPU seconds of the meter itself in a second, with a reading every second."""
    with metered(Where(metering=STATED)) as (meter, _):
        meter.lap()
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(seconds):
            time.sleep(1)
            meter.lap()
        return (time.process_time() - cpu) / (time.perf_counter() - start)


def turn_seconds(rehearsal, steps, meter):
    start = time.perf_counter()
    for _ in range(steps):
        rehearsal.fetch()
        rehearsal.step()
    if meter is not None:
        meter.lap()
    return time.perf_counter() - start


def side_by_side(turns, steps):
    """Times of training steps, metered and plain, in turns."""
    data = noise((3, 32, 32), classes=10, images=256)
    model = build_model("resnet20", classes=10, channels=3, seed=0)
    taken = {"plain": [], "metered": []}
    with timed_steps({"": model}, data, Recipe(batch_size=32, compile="off")) as lent:
        turn_seconds(lent[""], steps, None)  # warm up
        for turn in range(turns):
            for side in list(taken) if turn % 2 == 0 else list(taken)[::-1]:
                metering = STATED if side == "metered" else Metering()
                with metered(Where(metering=metering)) as (meter, _):
                    taken[side].append(turn_seconds(lent[""], steps, meter))
    return ratio_of(taken["metered"], taken["plain"])


def main():
    found = side_by_side(flag("--turns", 5), flag("--steps", 30))
    print(
        f"{found.n} turns side by side: ratio {found.value:.3f}, "
        f"95 % interval {found.low:.3f} to {found.high:.3f}",
        file=sys.stderr,
    )
    print(f"{1 + own_share(flag('--seconds', 30)):.4f}")


if __name__ == "__main__":
    main()
