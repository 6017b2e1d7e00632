"""Evaluations in this process and in others."""

import os
from collections.abc import Iterator

import pytest
import torch

from pcsparse.compress.search import executor as executor_module
from pcsparse.compress.search.evolution import Evolution
from pcsparse.compress.search.executor import InProcess, SpawnedProcesses
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.space import Assignment
from pcsparse.errors import PcsparseError, RangeError, UnsupportedError
from tests.compress.search import spaces as elsewhere
from tests.compress.search.spaces import additive, chain

SPACE = chain(4)
SCORE = additive(SPACE, [0.1, 0.3, 0.02, 0.2])
HALF = SPACE.cost(SPACE.largest) / 2


FAILS, DIES = (16, 8, 8, 8), (32, 32, 32, 32)


def odd(widths: Assignment) -> float:
    """The process and its threads, as a number below 1; two assignments end badly."""
    if widths == FAILS:
        raise ZeroDivisionError(str(widths))
    if widths == DIES:
        os._exit(3)
    return os.getpid() / 1e8 + torch.get_num_threads() / 1e9


def lost(widths: Assignment) -> float:
    """Is put into another module by its test."""
    return 0.5


@pytest.fixture(scope="module")
def two() -> Iterator[SpawnedProcesses]:
    with SpawnedProcesses(2, threads=1) as executor:
        yield executor


@pytest.mark.parametrize("kind", ["here", "spawned"])
def test_all_are_evaluated_and_say_which_they_are(kind, two):
    executor = InProcess() if kind == "here" else two
    asked = [(8, 8, 8, 8), (16, 8, 8, 8), (8, 8, 8, 32)]
    finished = list(executor.run(SCORE, asked))
    assert sorted(f.position for f in finished) == [0, 1, 2]
    assert all(f.score == SCORE(asked[f.position]) and f.seconds >= 0 for f in finished)
    assert list(executor.run(SCORE, [])) == []


def test_the_result_does_not_depend_on_the_executor(two, tmp_path):
    method = Evolution(population=6, batch=3)

    def facts(result):
        return [(t.index, t.widths, t.score, t.cached) for t in result.trials]

    here = search(SPACE, SCORE, HALF, 25, 2, method=method)
    log = tmp_path / "log.jsonl"
    there = search(SPACE, SCORE, HALF, 25, 2, method=method, executor=two, log=log)
    assert facts(there) == facts(here)
    # a log written by workers, in whatever order, is good for a search without them
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:12]))
    assert facts(search(SPACE, SCORE, HALF, 25, 2, method=method, log=log)) == facts(here)


def test_what_cannot_be_sent_is_refused(two):
    with pytest.raises(UnsupportedError, match="cannot be sent to another process"):
        list(two.run(lambda _: 0.5, [(8, 8, 8, 8)]))


def test_work_is_done_elsewhere_and_what_goes_wrong_there_comes_back():
    with SpawnedProcesses(1, threads=1) as executor:
        (found,) = executor.run(odd, [(8, 8, 8, 8)])
        with pytest.raises(ZeroDivisionError, match="16, 8, 8, 8"):
            list(executor.run(odd, [FAILS]))
        (again,) = executor.run(odd, [(8, 8, 8, 8)])
        # one thread; the process is not this one, and is kept
        assert round(found.score * 1e9 % 10) == 1
        assert int(found.score * 1e8) != os.getpid()
        assert found.score == again.score
        with pytest.raises(PcsparseError, match="a worker process died"):
            list(executor.run(odd, [DIES]))


def test_nothing_to_evaluate_starts_no_process(monkeypatch):
    monkeypatch.setattr(executor_module, "ProcessPoolExecutor", None)
    assert list(SpawnedProcesses(1).run(SCORE, [])) == []


def test_what_a_process_does_not_find_is_named_with_what_to_do(monkeypatch):
    # as of a script's __main__: it can be packed here, and is not there
    monkeypatch.setattr(elsewhere, "lost", lost, raising=False)
    monkeypatch.setattr(lost, "__module__", elsewhere.__name__)
    with (
        SpawnedProcesses(1, threads=1) as executor,
        pytest.raises(UnsupportedError, match=r"AttributeError: .*lost.* define it, .* in a module"),
    ):
        list(executor.run(lost, [(8, 8, 8, 8)]))


@pytest.mark.parametrize(("workers", "threads"), [(0, None), (1, 0)])
def test_at_least_one_of_each(workers, threads):
    with pytest.raises(RangeError, match="at least 1"):
        SpawnedProcesses(workers, threads=threads)
