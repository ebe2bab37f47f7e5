"""What a method saved against the dense network. Enters: paired runs. Leaves: shares and ratios."""

from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

from layerticket.study.statistics.estimates import ratio_interval
from layerticket.study.statistics.pairing import Group, paired

__all__ = ["savings"]

# Time, memory and energy mean something only beside those of the same machine at its work.
SAME = ("device", "precision")
UNSEARCHED = ("dense", "shallower", "equal_compute")  # kinds with nothing to search
WHOLE = "whole_seconds"


def savings(group: Group, network: Mapping[str, Any] | None, confidence: float) -> dict[str, Any]:
    """Sum up what was saved; a share is 1 - method / dense, so 0.34 is a third less.

    Args:
        group: The runs.
        network: "macs" and "params" of the dense network, used where its runs do not state them.
        confidence: Of the interval of the speed-up.

    Returns:
        "macs_saving", "params_saving", "memory_saving", "energy_saving", "co2_saving" as shares,
        and "speedup", search included, with the t-interval of the ratios; None for what was not
        measured in both.
    """
    return {
        "macs_saving": _counted(group, "macs", network),
        "params_saving": _counted(group, "params", network),
        "speedup": _speedup(group, confidence),
        "memory_saving": _share(group, "peak_memory_bytes"),
        "energy_saving": _share(group, "energy_kwh", "energy_method"),
        "co2_saving": _share(group, "co2_kg", "energy_method"),
    }


def _counted(group: Group, figure: str, network: Mapping[str, Any] | None) -> float | None:
    """Share saved of what is counted, not measured: the dense count is one for all seeds."""
    counts = [run[figure] for seed in group.seeds for run in group.runs[seed]]
    if not counts or None in counts:
        return None
    known = [run[figure] for run in group.dense.values() if run[figure] is not None]
    dense = fmean(known) if known else (network or {}).get(figure)
    return None if not dense else 1 - fmean(counts) / dense


def _share(group: Group, figure: str, *same: str) -> float | None:
    """Share saved of what is measured, of the seeds where both networks have it."""
    pairs = paired(group, figure, same=(*SAME, *same))
    dense = sum(before for before, _ in pairs)
    return 1 - sum(after for _, after in pairs) / dense if dense > 0 else None


def _speedup(group: Group, confidence: float) -> dict[str, float | None]:
    """Ratio of the seconds from nothing to the trained network: the search is part of it.

    The search of a lottery ticket has trained the dense network; without it, the rest of the
    training would pass for the whole.
    """
    whole = replace(
        group,
        runs={seed: [_whole(run) for run in runs] for seed, runs in group.runs.items()},
        dense={seed: _whole(run) for seed, run in group.dense.items()},
    )
    pairs = [pair for pair in paired(whole, WHOLE, same=SAME) if min(pair) > 0]
    if not pairs:
        return {"mean": None, "low": None, "high": None}
    dense, method = zip(*pairs, strict=True)
    mean, low, high = ratio_interval(dense, method, confidence=confidence)
    return {"mean": mean, "low": low, "high": high}


def _whole(run: Mapping[str, Any]) -> dict[str, Any]:
    """Add up search and training; None if one of them was not measured."""
    search = run["search_seconds"]
    if search is None and run["kind"] in UNSEARCHED:
        search = 0.0
    parts = (run["train_seconds"], search)
    return {**run, WHOLE: None if None in parts else sum(parts)}
