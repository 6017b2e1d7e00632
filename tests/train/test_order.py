"""The order of samples: each sweep once an epoch, and a run that starts anywhere."""

import pytest

from pcsparse.errors import RangeError
from pcsparse.train.order import BatchesFrom, SampleOrder

ORDERS = {
    "one": SampleOrder(1, 1, 1, 3, seed=0),
    "even": SampleOrder(8, 2, 2, 3, seed=0),
    "ragged": SampleOrder(7, 2, 3, 4, seed=5),
    "large-batch": SampleOrder(3, 8, 2, 2, seed=1),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_every_epoch_holds_every_sweep_once(order):
    for epoch in range(order.epochs):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        samples = [sample for step in steps for batch in order.step_batches(step) for sample in batch]
        assert {sample.epoch for sample in samples} == {epoch}
        assert sorted(sample.sweep for sample in samples) == list(range(order.n_samples))
        assert all(1 <= len(batch) <= order.batch_size for s in steps for batch in order.step_batches(s))
        assert all(1 <= len(order.step_batches(step)) <= order.accumulate for step in steps)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_a_run_from_any_step_is_the_tail_of_the_whole(order):
    whole = list(BatchesFrom(order, 0))
    assert len(whole) == len(BatchesFrom(order, 0)) == order.epochs * order.batches_per_epoch
    for start in range(order.n_steps + 1):
        tail = list(BatchesFrom(order, start))
        assert tail == whole[len(whole) - len(tail) :]
        assert len(BatchesFrom(order, start)) == len(tail)


def test_epochs_and_seeds_shuffle_differently():
    first, other = SampleOrder(50, 1, 1, 2, seed=0), SampleOrder(50, 1, 1, 2, seed=1)
    orders = [
        [order.step_batches(epoch * 50 + step)[0][0].sweep for step in range(50)]
        for order in (first, other)
        for epoch in range(2)
    ]
    assert len({tuple(row) for row in orders}) == 4


def test_an_empty_set_is_refused():
    with pytest.raises(RangeError, match="training set is empty"):
        SampleOrder(0, 1, 1, 1, seed=0)
