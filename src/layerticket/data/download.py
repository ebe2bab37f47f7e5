"""Fetches the original CIFAR archives, on request only, and unpacks them safely."""

import hashlib
import logging
import tarfile
import tempfile
import urllib.request
from pathlib import Path

from layerticket.data import cache
from layerticket.errors import LayerticketError

__all__ = ["default_folder", "fetch"]

# source: the authors' page, www.cs.toronto.edu/~kriz/cifar.html (2009), with these MD5 sums
SITE = "https://www.cs.toronto.edu/~kriz/"
ARCHIVES = {
    "cifar10": ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
    "cifar100": ("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
}
TIMEOUT_SECONDS = 60
CHUNK_BYTES = 1 << 20
log = logging.getLogger(__name__)


def default_folder() -> Path:
    """Return where archives are unpacked when no folder is given; it may not exist yet."""
    return cache.folder() / "data"


def fetch(name: str, unpacked: str, folder: Path) -> None:
    """Fetch one archive and put what it holds into a folder.

    Args:
        name: ``cifar10`` or ``cifar100``.
        unpacked: The folder inside the archive; its files appear in `folder`, each whole.
        folder: Made if it is not there.

    Raises:
        LayerticketError: If the archive cannot be fetched, is not the published one, or cannot
            be written.
    """
    archive, md5 = ARCHIVES[name]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            packed = Path(scratch) / archive
            _download(SITE + archive, packed, md5)
            with tarfile.open(packed) as tar:
                tar.extractall(scratch, filter="data")
            (folder / unpacked).mkdir(exist_ok=True)
            for file in sorted((Path(scratch) / unpacked).iterdir()):
                file.replace(folder / unpacked / file.name)
    except (OSError, tarfile.TarError) as err:
        raise LayerticketError(
            f"{archive} could not be fetched into {str(folder)!r} ({err}). Fetch it from "
            f"{SITE}cifar.html by hand, unpack it, and give the folder (--data-dir)."
        ) from err


def _download(url: str, target: Path, md5: str) -> None:
    """Write what lies at `url` to a file and hold it against its MD5 sum."""
    log.info("fetching %s", url)
    found = hashlib.md5(usedforsecurity=False)
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as source, target.open("wb") as out:
        while chunk := source.read(CHUNK_BYTES):
            found.update(chunk)
            out.write(chunk)
    if found.hexdigest() != md5:
        raise LayerticketError(
            f"{target.name} arrived with MD5 {found.hexdigest()}, published is {md5}; it was "
            "thrown away. Try again."
        )
