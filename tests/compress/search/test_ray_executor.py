"""Evaluations on a local Ray cluster of two workers."""

import importlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pcsparse.compress.search.evolution import Evolution
from pcsparse.compress.search.interface import search
from pcsparse.compress.search.ray_executor import RayCluster
from pcsparse.compress.search.space import Assignment
from pcsparse.errors import PcsparseError, RangeError, UnsupportedError
from tests.compress.search.spaces import additive, chain

ROOT = Path(__file__).resolve().parents[3]
SPACE = chain(4)
SCORE = additive(SPACE, [0.1, 0.3, 0.02, 0.2])
HALF = SPACE.cost(SPACE.largest) / 2
FAILS, DIES = (16, 8, 8, 8), (32, 32, 32, 32)


def odd(widths: Assignment) -> float:
    if widths == FAILS:
        raise ZeroDivisionError(str(widths))
    if widths == DIES:
        os._exit(3)
    return os.getpid() / 1e8


def test_without_ray_the_error_names_the_extra(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UnsupportedError, match=r"pip install 'pcsparse\[ray\]'"):
        list(RayCluster().run(SCORE, [(8, 8, 8, 8)]))


def test_nothing_to_evaluate_reaches_for_no_cluster(monkeypatch):
    def started(cluster):
        raise PcsparseError("a cluster was reached for")

    monkeypatch.setattr(RayCluster, "_connect", started)
    assert list(RayCluster().run(SCORE, [])) == []


class StandIn:
    """As much of Ray as `RayCluster` calls: one that runs a task when it is waited for, here."""

    def __init__(self, raised=None):
        self.raised, self.reached = raised, []
        names = ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "RayTaskError", "ObjectLostError")
        base = type("RayError", (Exception,), {})
        kinds = {name: type(name, (base,), {"cause": ValueError("budget 3 is below 4")}) for name in names}
        self.exceptions = SimpleNamespace(RayError=base, **kinds)

    def is_initialized(self):
        return bool(self.reached)

    def init(self, **how):
        self.reached.append(how.get("address"))

    def remote(self, **how):
        return lambda task: SimpleNamespace(remote=lambda *args: lambda: task(*args))

    def put(self, value):
        return value

    def wait(self, waiting, num_returns):
        return waiting[:num_returns], waiting[num_returns:]

    def get(self, task):
        if self.raised:
            raise getattr(self.exceptions, self.raised)("\x1b[36mframes and frames\x1b[39m")
        return task()

    def cancel(self, task):
        pass


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("RayTaskError", ValueError, "^budget 3 is below 4$"),
        ("WorkerCrashedError", PcsparseError, "a worker of the cluster died"),
        ("OutOfMemoryError", PcsparseError, "a worker of the cluster died, for lack of memory"),
        ("ObjectLostError", PcsparseError, r"the cluster failed \(ObjectLostError: .*in the log: run again"),
    ],
)
def test_what_goes_wrong_in_a_cluster_is_said_in_words_of_ours(monkeypatch, name, kind, said):
    ray = StandIn(name)
    monkeypatch.setattr(importlib, "import_module", lambda _: ray)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(kind, match=said) as raised:
        list(RayCluster().run(SCORE, [(8, 8, 8, 8)]))
    # and where it came from is not lost
    assert "frames and frames" in str(raised.value.__cause__)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_is_not_there_is_said_at_once(monkeypatch, scheme):
    ray = StandIn()
    monkeypatch.setattr(importlib, "import_module", lambda _: ray)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
        assert len(list(RayCluster(address=address).run(SCORE, [(8, 8, 8, 8)]))) == 1
        assert ray.reached == [address]
    ray.reached.clear()
    with pytest.raises(PcsparseError, match=f"no Ray cluster at {address}.*RAY_ADDRESS"):
        list(RayCluster(address=address).run(SCORE, [(8, 8, 8, 8)]))
    # it would have tried for many minutes
    assert ray.reached == []


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (1, 0)])
def test_at_least_one_of_each(workers, threads):
    with pytest.raises(RangeError, match="at least 1"):
        RayCluster(workers, threads=threads)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    ray = pytest.importorskip("ray", reason="ray (extra `ray`) is not installed")
    with pytest.MonkeyPatch.context() as patch:
        # the workers must find this file
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        patch.delenv("RAY_ADDRESS", raising=False)
        with RayCluster(2) as executor:
            yield executor
    assert not ray.is_initialized()


@pytest.mark.slow
def test_two_workers_give_the_result_of_none(cluster, tmp_path):
    method = Evolution(population=6, batch=4)

    def facts(result):
        return [(t.index, t.widths, t.score, t.cached) for t in result.trials]

    here = search(SPACE, SCORE, HALF, 25, 2, method=method)
    log = tmp_path / "log.jsonl"
    assert facts(search(SPACE, SCORE, HALF, 25, 2, method=method, executor=cluster, log=log)) == facts(here)
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:12]))
    assert facts(search(SPACE, SCORE, HALF, 25, 2, method=method, executor=cluster, log=log)) == facts(here)


@pytest.mark.slow
def test_work_is_done_elsewhere_and_what_goes_wrong_there_comes_back(cluster):
    asked = [(8, 8, 8, 8), (8, 8, 8, 16), (8, 8, 8, 24)]
    finished = list(cluster.run(odd, asked))
    assert sorted(f.position for f in finished) == [0, 1, 2]
    assert os.getpid() not in {round(f.score * 1e8) for f in finished}
    with pytest.raises(ZeroDivisionError, match="16, 8, 8, 8"):
        list(cluster.run(odd, [FAILS]))
    with pytest.raises(PcsparseError, match="a worker of the cluster died"):
        list(cluster.run(odd, [DIES]))
    # others go on
    assert len(list(cluster.run(odd, asked))) == 3


@pytest.mark.slow
def test_a_cluster_that_was_there_is_left_alone(cluster):
    import ray

    list(cluster.run(SCORE, [(8, 8, 8, 8)]))
    with RayCluster() as guest:
        assert len(list(guest.run(SCORE, [(8, 8, 8, 8)]))) == 1
    assert ray.is_initialized()
    assert len(list(cluster.run(SCORE, [(8, 8, 8, 8)]))) == 1


@pytest.mark.slow
def test_the_cluster_at_ray_address_is_used(cluster):
    import ray

    list(cluster.run(SCORE, [(8, 8, 8, 8)]))
    program = (
        "import ray; from pcsparse.compress.search.ray_executor import RayCluster\n"
        "from tests.compress.search.test_ray_executor import SCORE\n"
        "with RayCluster() as executor:\n"
        "    (found,) = executor.run(SCORE, [(8, 8, 8, 8)])\n"
        "    print(found.score, ray.get_runtime_context().gcs_address)\n"
    )
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": address},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == [str(SCORE((8, 8, 8, 8))), address], done.stderr


@pytest.mark.slow
def test_what_cannot_be_sent_is_refused(cluster, tmp_path):
    lock = threading.Lock()
    with (tmp_path / "open").open("w") as file:
        for evaluate in (lambda _: file.tell(), lambda _: lock.locked()):
            with pytest.raises(UnsupportedError, match="cannot be sent to a cluster"):
                list(cluster.run(evaluate, [(8, 8, 8, 8)]))
