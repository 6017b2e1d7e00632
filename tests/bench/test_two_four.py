"""The benchmark of 2:4 products: what it checks, what it times, what it prints."""

import json
from itertools import pairwise

import pytest
import torch

from pcsparse.bench import two_four
from pcsparse.bench.limits import Limits
from pcsparse.bench.two_four import TwoFourResult, run_two_four, two_four_table
from pcsparse.errors import RangeError
from pcsparse.programs import bench_two_four
from pcsparse.programs.bench_two_four import main
from pcsparse.timing import Timing

LIMITS = Limits(bandwidth=1e9, fma=1e12)


def test_each_shape_and_batch_is_checked_and_timed():
    seen = []
    results = run_two_four([(64, 32), (100, 7)], [1, 3], runs=3, cache_bytes=1 << 14, report=seen.append)
    assert tuple(seen) == results
    assert [(r.n_in, r.n_out, r.n_items) for r in results] == [
        (64, 32, 1), (64, 32, 3), (100, 7, 1), (100, 7, 3),
    ]  # fmt: skip
    for result in results:
        assert result.passed
        assert 0 <= result.error < 1e-5
        assert result.dense_bytes == 4 * result.n_in * result.n_out
        assert result.sparse_bytes == result.n_out * (2 * result.n_in + -(-result.n_in // 8))
        for timings in (result.cold, result.warm):
            assert set(timings) == {"dense", "sparse"}
            assert all(t.runs == 3 and t.median > 0 for t in timings.values())


def test_cold_runs_take_the_next_copy(monkeypatch):
    given = []
    real = two_four.two_four_linear
    monkeypatch.setattr(
        two_four, "two_four_linear", lambda x, m: (given.append(m.values.data_ptr()), real(x, m))[1]
    )
    (result,) = run_two_four([(64, 32)], [1], runs=8, cache_bytes=4 * (32 * 136) // 4)
    # one to check; two to warm up and eight times of four copies; two and twice eight of one
    cold, warm = given[1:11], given[11:]
    assert len(set(cold)) == 4
    assert all(a != b for a, b in pairwise(cold))
    assert len(set(warm)) == 1
    assert len(warm) == 18
    assert result.passed


def test_what_disagrees_with_the_twin_has_no_times(tmp_path, monkeypatch):
    real = two_four.two_four_linear
    monkeypatch.setattr(two_four, "two_four_linear", lambda x, m: real(x, m) + 1e-3)
    (result,) = run_two_four([(64, 32)], [1], runs=1)
    assert not result.passed
    assert result.cold == result.warm == {}
    assert "WRONG by 0.001: no times" in two_four_table([result], LIMITS)
    monkeypatch.setattr(bench_two_four, "measure_limits", lambda: LIMITS)
    out = tmp_path / "two_four.json"
    assert main(["--shapes", "64x32", "--items", "1", "--runs", "1", "--out", str(out)]) == 1
    (written,) = json.loads(out.read_text())["results"]
    assert not written["passed"]


@pytest.mark.parametrize(("sparse", "verdict"), [(2e-3, "goal 1.5x reached"), (2.5e-3, "goal 1.5x MISSED")])
def test_the_table_has_ratios_floors_and_the_goal(sparse, verdict):
    def timings(factor):
        return {"dense": Timing(3e-3 * factor, 1e-3, 4e-3, 9), "sparse": Timing(sparse, 1e-3, 4e-3, 9)}

    result = TwoFourResult(4096, 4096, 1, 0.0, 67_000_000, 35_000_000, timings(1), timings(2))
    cold, warm = two_four_table([result], LIMITS).splitlines()[1:]
    assert result.ratio() == pytest.approx(3e-3 / sparse)
    assert cold.startswith("4096 x 4096       1  cold       3.000 ( 1.000  4.000)")
    assert f"{3e-3 / sparse:.2f}  67.000, 35.000  {verdict}" in cold
    assert f"{6e-3 / sparse:.2f}  67.000, 35.000" in warm
    assert "goal" not in warm


def test_the_program_prints_where_it_ran_and_writes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_two_four, "measure_limits", lambda: LIMITS)
    before = torch.get_num_threads()
    out = tmp_path / "new" / "two_four.json"
    where = ["--threads", "1", "--cache", "4096", "--out", str(out)]
    assert main(["--shapes", "64x32", "--items", "1", "2", "--runs", "2", *where]) == 0
    text = capsys.readouterr().out
    assert f"limits: {LIMITS}" in text
    assert text.count("64 x 32") == 4
    assert torch.get_num_threads() == before
    content = json.loads(out.read_text())
    assert content["limits"] == {"bandwidth": 1e9, "fma": 1e12, "dot": None}
    assert (content["cache_bytes"], content["quick"]) == (4096, False)
    assert [(r["n_in"], r["n_out"], r["n_items"], r["passed"]) for r in content["results"]] == [
        (64, 32, 1, True), (64, 32, 2, True),
    ]  # fmt: skip
    assert all(r["cold"]["sparse"]["median"] > 0 for r in content["results"])


@pytest.mark.parametrize("shape", ["4096", "30x7", "0x8", "8x", "8xx8", "-4x8"])
def test_what_is_no_shape_is_refused(capsys, shape):
    with pytest.raises(SystemExit):
        main([f"--shapes={shape}"])
    assert "give columns, a multiple of 4, and rows" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--items", "--runs", "--cache", "--threads"])
def test_what_is_none_is_refused_before_any_work(tmp_path, monkeypatch, option):
    monkeypatch.setattr(bench_two_four, "measure_limits", lambda: pytest.fail("work"))
    with pytest.raises(RangeError, match=rf"{option.removeprefix('--')}=\[?0"):
        main(["--quick", "--shapes", "64x32", option, "0", "--out", str(tmp_path / "two_four.json")])


def test_a_quick_run_takes_a_sixteenth(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_two_four, "measure_limits", lambda: LIMITS)
    out = tmp_path / "quick.json"
    assert main(["--quick", "--items", "1", "--out", str(out)]) == 0
    content = json.loads(out.read_text())
    assert [(r["n_in"], r["n_out"]) for r in content["results"]] == [
        (256, 256), (256, 62), (576, 256), (64, 64), (16, 16), (144, 16),
    ]  # fmt: skip
    assert content["quick"]
    assert all(t["runs"] == 3 for r in content["results"] for t in r["cold"].values())
    assert "goal" not in capsys.readouterr().out
