"""Floors."""

import pytest
import torch

from pcsparse.bench import limits
from pcsparse.bench.limits import Limits, Work, conv_work, floor_of, map_work, measure_limits


def test_the_floor_is_the_larger_of_arithmetic_and_movement():
    machine = Limits(bandwidth=10.0, fma=100.0)
    assert Work(operations=200.0, bytes=10.0).floor(machine) == 2.0
    assert Work(operations=200.0, bytes=50.0).floor(machine) == 5.0
    # one after the other: what one leaves idle the other cannot use
    assert floor_of((Work(200.0, 10.0), Work(200.0, 50.0)), machine) == 7.0


def test_the_better_of_two_measurements_of_each_peak_stays():
    assert Limits(10.0, 90.0).or_better(Limits(8.0, 100.0)) == Limits(10.0, 100.0)


def test_work_of_a_convolution_counted_by_hand():
    # 3 inputs of 2 channels, 2 outputs of 5, 4 pairs over 3 offsets
    work = conv_work(3, 2, 4, 3, 2, 5, backward=False)
    assert work == Work(2 * 4 * 2 * 5, 4 * (6 + 10 + 30) + 8 * 4)
    both = conv_work(3, 2, 4, 3, 2, 5, backward=True)
    assert both == Work(3 * work.operations, 3 * work.bytes)


def test_work_of_a_map_counted_by_hand():
    assert map_work(n_in=5, n_made=2, n_pairs=9) == Work(0.0, 16 * 7 + 8 * 9)


def test_peaks_are_operations_and_bytes_over_the_best_time(monkeypatch):
    now, costs = [0.0], iter([4.0, 2.0, 3.0, 9.0, 8.0, 16.0])
    monkeypatch.setattr(limits.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(limits, "_TRIES", 3)
    monkeypatch.setattr(limits, "_COPY_BYTES", 4000)
    tick = [False]

    def advance() -> None:
        now[0] += next(costs)

    def rounds(steps: int) -> int:
        if tick[0]:
            advance()
        # the first two calls compile and count
        tick[0] = tick[0] or steps > 1
        return 80

    copy = torch.Tensor.copy_

    def slow_copy(self, source):
        advance()
        return copy(self, source)

    monkeypatch.setattr(limits, "fma_rounds", rounds)
    monkeypatch.setattr(torch.Tensor, "copy_", slow_copy)
    assert measure_limits() == Limits(bandwidth=pytest.approx(8000 / 2), fma=pytest.approx(80 / 8))
