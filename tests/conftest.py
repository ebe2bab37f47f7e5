"""What holds for every test: same seed, no network, nothing left behind."""

import ipaddress
import os
import random
import socket
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from layerticket.training.checkpoint import Journal

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so set before any test
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no fault
hypothesis.settings.load_profile("untimed")

REPO = Path(__file__).resolve().parents[1]
SEED = 20230125
# Set by importing or running these libraries, once per process; nothing a test could tidy up.
LIBRARY_ENV = {
    "KMP_DUPLICATE_LIB_OK",  # scikit-learn
    "KMP_INIT_AT_FORK",  # scikit-learn
    "PYTORCH_NVML_BASED_CUDA_CHECK",  # pytorch-lightning
    "PYTEST_CURRENT_TEST",  # pytest itself, different in each phase of a test
    "TORCHINDUCTOR_CACHE_DIR",  # torch, on import of its compiler
    "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR",  # torch.compile
}


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


# What continuous integration may skip: what its machine lacks, and what does not apply.
MAY_BE_SKIPPED = (
    "needs a CUDA device",
    "CIFAR-10 is not at",
    "bits are those of",
    "the table is about",
    "this system does not let",
    "has no mode",
    "the class has no",
)


def pytest_sessionfinish(session):
    """In continuous integration, fail if a test was skipped for any other reason."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if not os.environ.get("CI") or reporter is None:  # the workers of xdist report to one process
        return
    reasons = [(report.nodeid, report.longrepr[2]) for report in reporter.stats.get("skipped", ())]
    lost = [one for one in reasons if not any(reason in one[1] for reason in MAY_BE_SKIPPED)]
    for name, reason in lost:
        reporter.write_line(f"\nmust not be skipped here: {name}: {reason}", red=True)
    if lost:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session", autouse=True)
def every_epoch_saved():
    """A checkpoint after every epoch, as of a training whose epochs last 5 s or more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "every_seconds", 0.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def caches_of_this_session(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def stays_on_this_machine(address) -> bool:
    """Whether a socket address is a Unix path or a loopback address."""
    if not isinstance(address, tuple):
        return True
    host = str(address[0])
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


@pytest.fixture(scope="session", autouse=True)
def no_network():
    def guarded(original):
        def connect(self, address, *rest):
            if not stays_on_this_machine(address):
                self.close()  # or the complaint would be about an unclosed socket
                raise RuntimeError(f"a test tried to reach {address!r}; tests run without network")
            return original(self, address, *rest)

        return connect

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
        yield


# What a test may change for itself and has to put back: how to read it, how to put it back.
SETTINGS = {
    "working directory": (os.getcwd, os.chdir),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "thread count": (torch.get_num_threads, torch.set_num_threads),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "float32 matmul precision": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "deterministic algorithms": (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda was: torch.use_deterministic_algorithms(was[0], warn_only=was[1]),
    ),
    "cudnn.deterministic": (
        lambda: torch.backends.cudnn.deterministic,
        lambda was: setattr(torch.backends.cudnn, "deterministic", was),
    ),
    "cudnn.benchmark": (
        lambda: torch.backends.cudnn.benchmark,
        lambda was: setattr(torch.backends.cudnn, "benchmark", was),
    ),
}


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in LIBRARY_ENV}


def put_back(env_before: dict[str, str], settings_before: dict) -> list[str]:
    """Restore environment and settings; return one sentence for each that had changed."""
    leaks = []
    env_now = environment()
    for name in sorted(env_before.keys() | env_now.keys()):
        was, now = env_before.get(name), env_now.get(name)
        if was == now:
            continue
        leaks.append(f"environment variable {name}: was {was!r}, left at {now!r}")
        if was is None:
            del os.environ[name]
        else:
            os.environ[name] = was
    for name, (read, write) in SETTINGS.items():
        try:
            now = read()
        except FileNotFoundError:
            now = "a folder that is gone"
        if now != settings_before[name]:
            leaks.append(f"{name}: was {settings_before[name]!r}, left at {now!r}")
            write(settings_before[name])
    return leaks


@pytest.fixture(autouse=True)
def nothing_left_behind():
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(SEED)
    env_before = environment()
    settings_before = {name: read() for name, (read, _) in SETTINGS.items()}
    yield
    leaks = put_back(env_before, settings_before)
    if leaks:
        pytest.fail("the test left something changed: " + "; ".join(leaks), pytrace=False)


@pytest.fixture(scope="session")
def cifar10_dir() -> Path:
    folder = REPO.parent / "shared" / "data" / "cifar10"
    if not (folder / "train.parquet").is_file():
        pytest.skip("CIFAR-10 is not at ../shared/data/cifar10 beside this checkout")
    return folder
