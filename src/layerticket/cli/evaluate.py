"""`layerticket evaluate`: figures of a trained network."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from layerticket.cli.options import DeviceChoice, Json
from layerticket.cli.output import news, say
from layerticket.data.sources import load_data
from layerticket.evaluation.robustness import EVALUATIONS, Attack, Conditions
from layerticket.files import read_json
from layerticket.study.evaluate import evaluate_run
from layerticket.study.record import RUN, run_folder

DEFAULTS = Attack()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class AttackChoice:
    """How networks are attacked."""

    epsilons: tuple[float, ...] = DEFAULTS.epsilons
    """Budgets in the maximum norm, in units of 1/255."""
    steps: int = DEFAULTS.steps
    """Steps of PGD."""
    restarts: int = DEFAULTS.restarts
    """Random starts of PGD."""
    attack_images: int = DEFAULTS.attack_images
    """First test images that are attacked."""
    autoattack: Literal["standard", "cheap"] = DEFAULTS.autoattack
    """The whole ensemble, or only its two variants of PGD."""

    def attack(self) -> Attack:
        """Check the choices."""
        return Attack(
            epsilons=self.epsilons,
            steps=self.steps,
            restarts=self.restarts,
            attack_images=self.attack_images,
            autoattack=self.autoattack,
        )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationFiles:
    """Where images lie, and how many are taken."""

    data_dir: Path | None = None
    """Folder with the CIFAR files, for a run on them."""
    shift_dir: Path | None = None
    """Folder with the files of CIFAR-10.1, CIFAR-10.2, CIFAR-10-C; --data-dir is searched too."""
    frost_dir: Path | None = None
    """Folder with the five photographs of frost of the CIFAR-10-C recipe."""
    resize: Annotated[bool, Parameter(negative=())] = False
    """Resize images of imagefolder: and hf: that have another size."""
    images: int | None = None
    """Only the first so many images of every set."""
    seed: int = 0
    """Draws corruptions, noise and the starts of attacks."""

    def conditions(self, attack: Attack) -> Conditions:
        """Put folders and choices together."""
        folders = (self.shift_dir, self.data_dir)
        return Conditions(
            folders=tuple(folder.expanduser() for folder in folders if folder is not None),
            frost_dir=self.frost_dir,
            resize=self.resize,
            images=self.images,
            seed=self.seed,
            attack=attack,
        )


def evaluate(
    run: Path,
    /,
    *,
    on: Annotated[str, Parameter(help=f"Separated by commas: {', '.join(EVALUATIONS)}.")] = "test",
    files: EvaluationFiles = EvaluationFiles(),
    how: AttackChoice = AttackChoice(),
    where: DeviceChoice = DeviceChoice(),  # noqa: B008
    json: Json = False,
) -> None:
    """Evaluate the trained network of a run; what was measured before is not measured again.

    Parameters
    ----------
    run
        Folder `layerticket train` printed, or a folder with a single run in it.
    """
    conditions = files.conditions(how.attack())
    folder = run_folder(run)
    config = read_json(folder / RUN)["config"]
    dataset = load_data(
        config["data"],
        data_dir=files.data_dir,
        validation_fraction=config["validation_fraction"],
    )
    names = [name.strip() for name in on.split(",") if name.strip()]
    record = evaluate_run(
        folder, dataset, names, conditions=conditions, device=where.device, tell=news
    )
    lines = [_line(name, result) for name, result in record["results"].items()]
    say(record, "\n".join(lines), as_json=json)


def _line(name: str, result: Mapping[str, Any]) -> str:
    """Tell one evaluation's figures."""
    text = (
        f"{name}: accuracy {100 * result['accuracy']:.2f} % on {result['images']:,} images "
        f"({result['precision']}; {result['settings']['title']}"
    )
    text += f", at {result['epsilon_255']:g}/255)" if "budgets" in result else ")"
    if result.get("relative_accuracy") is not None:
        text += f", {result['relative_accuracy']:.1%} of the clean {result['clean_accuracy']:.2%}"
    for budget in result.get("budgets", ()):
        text += f"\n  {budget['epsilon_255']:g}/255: {100 * budget['accuracy']:.2f} %"
        if "noise_accuracy" in budget:
            text += f" (noise of that size: {100 * budget['noise_accuracy']:.2f} %)"
    for corruption, found in result.get("corruptions", {}).items():
        steps = " ".join(f"{100 * value:6.2f}" for value in found["severities"])
        text += f"\n  {corruption:18} {100 * found['accuracy']:6.2f} %   severities {steps}"
    for corruption, why in result["settings"].get("not_applicable", {}).items():
        text += f"\n  {corruption}: left out, {why}"
    return text
