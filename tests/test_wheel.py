"""The wheel works in a fresh environment with the core packages and without the checkout."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from email import message_from_bytes
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPO = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
pytestmark = pytest.mark.slow


def run(*words, **options):
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{words}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked():
    if not (REPO / ".git").exists():
        pytest.skip("no checkout: what belongs to the package is not known")
    return run("git", "ls-files", "-co", "--exclude-standard", cwd=REPO).splitlines()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("build")
    for name in tracked():  # a copy, for a build leaves files behind
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPO / name, folder / name)
    options = ["--no-deps", "--no-build-isolation", "--disable-pip-version-check", "-q"]
    run(sys.executable, "-m", "pip", "wheel", ".", *options, "-w", "dist", cwd=folder)
    return next((folder / "dist").glob("layerticket-*.whl"))


def core_packages():
    """Distributions that the core needs, and those that they need."""
    found, waiting = {}, [*PROJECT["dependencies"]]
    while waiting:
        need = Requirement(waiting.pop())
        if need.name in found or (need.marker and not need.marker.evaluate({"extra": ""})):
            continue
        try:
            found[need.name] = distribution(need.name)
        except PackageNotFoundError:  # for another platform
            continue
        assert need.specifier.contains(found[need.name].version, prereleases=True), need
        waiting += found[need.name].requires or []
    return found.values()


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory):
    """A new environment with the wheel; the core packages are links to those installed here."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    place = next((folder / "env").glob("lib/python*/site-packages"))
    for package in core_packages():
        home = Path(package.locate_file(""))
        for top in {file.parts[0] for file in package.files or ()}:
            if top not in ("..", "__pycache__") and not (place / top).exists():
                (place / top).symlink_to(home / top)
    plain = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "env"), "install", "-q"]
    options = ["--no-deps", "--no-index", "--disable-pip-version-check"]
    run(*pip, *options, str(wheel), env=plain)

    def call(*words):
        return run(folder / "env" / "bin" / words[0], *words[1:], cwd=folder, env=plain)

    where = call("python", "-c", "import layerticket; print(layerticket.__file__)")
    assert Path(where.strip()).is_relative_to(folder)
    return folder, call


def test_it_holds_every_file_of_the_package(wheel):
    files = {name.removeprefix("src/") for name in tracked() if name.startswith("src/layerticket/")}
    assert files <= set(zipfile.ZipFile(wheel).namelist())


def test_its_metadata_say_what_it_is_and_link_to_nothing_that_is_not_there(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = message_from_bytes(archive.read(name))
    assert metadata["Version"] == PROJECT["version"]
    assert set(PROJECT["classifiers"]) == set(metadata.get_all("Classifier"))
    text = metadata.get_payload()
    assert "make demo" in text
    assert "| verdict (margin" in text
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert targets
    assert all(target.startswith("https://") for target in targets), targets


def test_the_version_is_written_in_one_place():
    places = [n for n in tracked() if n.startswith(("src/", "docs/conf", "CITATION", "setup.py"))]
    found = [n for n in places if PROJECT["version"] in (REPO / n).read_text(encoding="utf-8")]
    assert not [name for name in found if not name.endswith(".js")]


@pytest.mark.timeout(600)
def test_help_demo_and_report_work_without_the_checkout(fresh):
    folder, call = fresh
    assert "layerticket VERB --help" in call("layerticket", "--help")
    absent = "import importlib.util as u; print(u.find_spec('pytest'), u.find_spec('timm'))"
    assert call("python", "-c", absent).split() == ["None", "None"]
    call("layerticket", "study", "new", "mine.toml")
    assert "[recipe]" in (folder / "mine.toml").read_text(encoding="utf-8")
    small = "--model resnet20 --remove 2 --seeds 2 --epochs 1 --device cpu --out demo"
    call("layerticket", "demo", *small.split())
    (folder / "demo" / "report.html").unlink()
    call("layerticket", "report", "demo", "--no-figures")
    page = (folder / "demo" / "report.html").read_text(encoding="utf-8")
    assert "resnet20" in page


def test_links_and_pictures_are_written_as_text():
    portable = runpy.run_path(str(REPO / "setup.py"))["portable"]
    given = "![a](b.png)\n[x.md](x.md), [this](y/), [that](https://arxiv.org), [there](#here)"
    assert portable(given) == "`x.md`, this (y/), [that](https://arxiv.org), [there](#here)"
