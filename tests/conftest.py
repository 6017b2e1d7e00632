"""What every test may ask for: a device, seeded numbers, poisoned fresh memory, the real samples."""

import gc
import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from zlib import crc32

import pytest
import torch

from pcsparse.errors import UnsupportedError
from pcsparse.kernels.gpu_libraries import check_libraries

# most of a GPU's tests wait for its compiler, which works on as many cores as there are processes
_FEW = 8
# a device that is none, see tests/mock_cuda
_MOCKS = ("mock", "mock-emulated")
_NAMES = re.compile(r"\bdevice\b|\bgpu_or_emulated\b|mark\.gpu\b")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=("cpu", "cuda", *_MOCKS),
        default="cpu",
        help="where the `device` fixture puts tensors; a mock is no GPU, but refuses what one refuses, by "
        "the kernels' twins or by emulated kernels",
    )
    parser.addoption(
        "--cases",
        type=int,
        metavar="N",
        help=f"at most N cases of each test, 0 for all; {_FEW} by default for --device cuda in one process",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--device") == "cpu":
        # triton reads it when a kernel is decorated, so before any test module is imported
        os.environ.setdefault("TRITON_INTERPRET", "1")
    elif config.getoption("--device") in _MOCKS:
        os.environ.setdefault("TRITON_INTERPRET", "1")
        from tests.mock_cuda import mock_cuda

        stack = ExitStack()
        stack.enter_context(mock_cuda(twins=config.getoption("--device") == "mock"))
        config.add_cleanup(stack.close)
    elif not torch.cuda.is_available():
        raise pytest.UsageError(f"--device cuda: torch {torch.__version__} sees no CUDA device here")
    else:
        try:
            check_libraries()
        except UnsupportedError as error:
            raise pytest.UsageError(f"--device cuda: {error}") from error


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if config.getoption("--device") == "cpu" or not collection_path.match("test_*.py"):
        return None
    # whose text names no device touches none, and need not be imported
    return None if _NAMES.search(collection_path.read_text()) else True


def _touches_device(item: pytest.Item) -> bool:
    asked = getattr(item, "fixturenames", ())
    return "device" in asked or "gpu_or_emulated" in asked or item.get_closest_marker("gpu") is not None


def _meets_mock(item: pytest.Item, place: str) -> bool:
    # no mock has a compiler, a driver and memory of its own
    if item.get_closest_marker("gpu") is not None or item.get_closest_marker("not_mocked") is not None:
        return False
    # of the kernels themselves, which the twins are not
    return place != "mock" or "gpu_or_emulated" not in getattr(item, "fixturenames", ())


def _most_cases(config: pytest.Config) -> int:
    given = config.getoption("--cases")
    if given is not None:
        return given
    shared = config.getoption("numprocesses", None) or hasattr(config, "workerinput")
    return 0 if shared or config.getoption("--device") == "cpu" else _FEW


def _spread(items: list[pytest.Item], most: int) -> set[str]:
    """At most so many cases of each test, the same ones every time, in an order that no grid of cases has."""
    taken: Counter[str] = Counter()
    kept = set()
    for name in sorted((item.nodeid for item in items), key=lambda name: crc32(name.encode())):
        test = name.partition("[")[0]
        if taken[test] < most:
            taken[test] += 1
            kept.add(name)
    return kept


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    place = config.getoption("--device")
    # with a GPU the others would say again what they say without one
    chosen = items if place == "cpu" else list(filter(_touches_device, items))
    if place in _MOCKS:
        chosen = [item for item in chosen if _meets_mock(item, place)]
    if most := _most_cases(config):
        spread = _spread(chosen, most)
        chosen = [item for item in chosen if item.nodeid in spread]
    if len(chosen) < len(items):
        kept = {item.nodeid for item in chosen}
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in kept])
        items[:] = chosen


def pytest_collection_finish() -> None:
    # millions of objects that stay to the end, which each look for garbage would go through
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str | None:
    if config.getoption("--device") == "cpu":
        return None
    most = _most_cases(config)
    cases = f", at most {most} cases of each test (--cases 0: all)" if most else ""
    return f"device: {torch.cuda.get_device_name()}; only tests that touch it (`make test`: all){cases}"


def pytest_report_collectionfinish(config: pytest.Config, items: list[pytest.Item]) -> str | None:
    return f"{len(items)} tests touch the device" if config.getoption("--device") == "cuda" else None


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """The device under test: `--device cpu` (the default) or `--device cuda`."""
    name = pytestconfig.getoption("--device")
    return torch.device("cuda" if name in _MOCKS else name)


@pytest.fixture
def gpu_or_emulated(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A GPU with `--device cuda`; else the CPU, whose tensors meet the GPU's kernels in this test."""
    from tests.emulation import emulate

    name = pytestconfig.getoption("--device")
    place = torch.device("cuda" if name in _MOCKS else name)
    if place.type == "cpu":
        emulate(monkeypatch)
    return place


@pytest.fixture
def rng() -> torch.Generator:
    """A CPU generator with the same seed in every test; move what it draws with `.to(device)`."""
    return torch.Generator().manual_seed(20231)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real samples, named by PCSPARSE_REAL_DATA; skips where there is none."""
    folder = os.environ.get("PCSPARSE_REAL_DATA", "")
    if not folder:
        pytest.skip("PCSPARSE_REAL_DATA is not set: no real samples here")
    path = Path(folder).resolve()
    if not path.is_dir():
        pytest.fail(f"PCSPARSE_REAL_DATA={folder!r} is not a folder; unset it or mend it")
    return path


_EMPTY, _EMPTY_LIKE = torch.empty, torch.empty_like
# torch remembers its factories at their first use under a device context: let it see the real ones
with torch.device("cpu"):
    _EMPTY(0)


def _poison(fresh: torch.Tensor) -> torch.Tensor:
    if fresh.is_floating_point() or fresh.is_complex():
        value: float = float("nan")
    elif fresh.dtype == torch.bool:
        return fresh
    else:
        # not the maximum: that is neutral in a running minimum, and would hide there
        value = torch.iinfo(fresh.dtype).max // 4 * 3
    with torch.no_grad():
        return fresh.fill_(value)


# module level: torch.compile remembers functions by identity, so every test must meet the same ones
def _poisoned_empty(*args, **kwargs) -> torch.Tensor:
    return _poison(_EMPTY(*args, **kwargs))


def _poisoned_empty_like(*args, **kwargs) -> torch.Tensor:
    return _poison(_EMPTY_LIKE(*args, **kwargs))


def _poisoned_new_empty(self: torch.Tensor, *size, requires_grad: bool = False, **options) -> torch.Tensor:
    # by the operator, not by the method this replaces: torch.compile traces only the former
    shape = size[0] if len(size) == 1 and isinstance(size[0], Sequence) else size
    fresh = _poison(torch.ops.aten.new_empty(self, shape, **options))
    return fresh.requires_grad_() if requires_grad else fresh


@pytest.fixture(autouse=True)
def _poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory is NaN, or a large integer: who forgets to write it is found out."""
    monkeypatch.setattr(torch, "empty", _poisoned_empty)
    monkeypatch.setattr(torch, "empty_like", _poisoned_empty_like)
    monkeypatch.setattr(torch.Tensor, "new_empty", _poisoned_new_empty)
