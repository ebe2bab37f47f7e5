"""The studies that come with the package, by bare name."""

from pathlib import Path

from layerticket.errors import LayerticketError

__all__ = ["SHIPPED", "shipped_studies", "study_path"]

SHIPPED = Path(__file__).resolve().parents[1] / "shipped"


def shipped_studies() -> tuple[str, ...]:
    """Names of the studies that come with us; other lists lie beside them."""
    files = SHIPPED.glob("*.toml")
    return tuple(sorted(p.stem for p in files if "[[methods]]" in p.read_text(encoding="utf-8")))


def study_path(file: str | Path) -> Path:
    """Find a study file by path, or by bare name among those that come with us.

    Raises:
        LayerticketError: If there is neither.

    Example:
        >>> study_path("quick").name
        'quick.toml'
    """
    path = Path(file).expanduser()
    if path.is_file():
        return path
    if str(file) in shipped_studies():
        return SHIPPED / f"{file}.toml"
    raise LayerticketError(
        f"there is no study file {str(file)!r}. Give the path of a TOML file, or one of those that "
        f"come with the package: {', '.join(shipped_studies())}."
    )
