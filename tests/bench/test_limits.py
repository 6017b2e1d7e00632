"""Floors."""

import pytest
import torch

from pcsparse.bench import limits
from pcsparse.bench.limits import Limits, Work, conv_work, floor_of, map_work, measure_limits, peak_share

MACHINE = Limits(bandwidth=10.0, fma=100.0, dot=200.0)


def test_the_floor_is_the_larger_of_arithmetic_and_movement():
    assert Work(operations=200.0, bytes=10.0).floor(MACHINE) == 2.0
    assert Work(operations=200.0, bytes=50.0).floor(MACHINE) == 5.0
    # one after the other: what one leaves idle the other cannot use
    assert floor_of((Work(200.0, 10.0), Work(200.0, 50.0)), MACHINE) == 7.0


def test_bfloat16_work_is_measured_by_the_dot_product_where_there_is_one():
    work = Work(operations=200.0, bytes=1.0, narrow=True)
    assert work.floor(MACHINE) == 1.0
    assert work.floor(Limits(bandwidth=10.0, fma=100.0)) == 2.0


def test_share_of_the_peak_counts_each_piece_by_its_own_peak():
    # 2 s of multiply-adds and 1 s of dot products
    works = (Work(200.0, 0.0), Work(200.0, 0.0, narrow=True))
    assert peak_share(works, 6.0, MACHINE) == pytest.approx(0.5)


def test_the_better_of_two_measurements_of_each_peak_stays():
    assert Limits(10.0, 90.0).or_better(Limits(8.0, 100.0)) == Limits(10.0, 100.0)
    assert Limits(1.0, 1.0, 7.0).or_better(Limits(1.0, 1.0, 9.0)).dot == 9.0
    assert Limits(1.0, 1.0, 7.0).or_better(Limits(1.0, 1.0)).dot == 7.0


def test_work_of_a_convolution_counted_by_hand():
    # 3 inputs of 2 channels, 2 outputs of 5, 4 pairs over 3 offsets
    work = conv_work(3, 2, 4, 3, 2, 5, backward=False)
    assert work == Work(2 * 4 * 2 * 5, 4 * (6 + 10 + 30) + 8 * 4)
    both = conv_work(3, 2, 4, 3, 2, 5, backward=True)
    assert both == Work(3 * work.operations, 3 * work.bytes)
    narrow = conv_work(3, 2, 4, 3, 2, 5, backward=False, dtype=torch.bfloat16)
    assert narrow == Work(work.operations, 2 * (6 + 10 + 30) + 8 * 4, narrow=True)


def test_work_of_a_map_counted_by_hand():
    assert map_work(n_in=5, n_made=2, n_pairs=9) == Work(0.0, 16 * 7 + 8 * 9)


@pytest.mark.parametrize("has_dot", [True, False])
def test_peaks_are_operations_and_bytes_over_the_best_time(monkeypatch, has_dot):
    now, costs = [0.0], iter([4.0, 2.0, 3.0, 9.0, 8.0, 16.0, 6.0, 7.0, 5.0])
    monkeypatch.setattr(limits.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(limits, "_TRIES", 3)
    monkeypatch.setattr(limits, "_COPY_BYTES", 4000)
    monkeypatch.setattr(limits.probe, "HAS_DOT", has_dot)

    def rounds(operations):
        calls = [0]

        def run(steps: int) -> int:
            calls[0] += 1
            # the first two calls compile and count
            if calls[0] > 2:
                now[0] += next(costs)
            return operations

        return run

    copy = torch.Tensor.copy_

    def slow_copy(self, source):
        now[0] += next(costs)
        return copy(self, source)

    monkeypatch.setattr(limits, "fma_rounds", rounds(80))
    monkeypatch.setattr(limits, "dot_rounds", rounds(90))
    monkeypatch.setattr(torch.Tensor, "copy_", slow_copy)
    found = measure_limits()
    assert found.bandwidth == pytest.approx(8000 / 2)
    assert found.fma == pytest.approx(80 / 8)
    assert found.dot == (pytest.approx(90 / 5) if has_dot else None)
