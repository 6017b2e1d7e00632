"""SemanticKITTI's mIoU: the golden numbers, and each rule alone."""

import numpy as np
import pytest
import torch

from pcsparse.errors import RangeError, ShapeError
from pcsparse.train.metrics import ConfusionMatrix, SemanticKittiMetrics


def _metrics(truth, prediction, n_classes=19):
    """Arguments in train ids, as the benchmark writes them: 0 is unlabelled."""
    confusion = ConfusionMatrix(n_classes)
    confusion.update(np.array(prediction, np.int64) - 1, torch.tensor(truth, dtype=torch.int64) - 1)
    return SemanticKittiMetrics.of(confusion)


def _official(truth, prediction, n_classes):
    """The benchmark's rule on plain Python sets of rows: (mean IoU, IoU by train id, accuracy)."""
    pairs = [(t, p) for t, p in zip(truth, prediction, strict=True) if t != 0]
    iou, hits, claimed = [], 0, 0
    for c in range(1, n_classes + 1):
        tp = sum(t == c and p == c for t, p in pairs)
        fp = sum(t != c and p == c for t, p in pairs)
        fn = sum(t == c and p != c for t, p in pairs)
        iou.append(tp / (tp + fp + fn + 1e-15))
        hits, claimed = hits + tp, claimed + tp + fp
    return sum(iou) / n_classes, iou, hits / (claimed + 1e-15)


def test_golden():
    metrics = _metrics([1, 1, 1, 9, 9, 0], [1, 0, 1, 9, 9, 5])
    assert metrics.iou[0] == pytest.approx(2 / 3)
    assert metrics.iou[8] == pytest.approx(1.0)
    assert metrics.mean_iou == pytest.approx(0.087719, abs=5e-7)
    assert metrics.mean_iou_present == pytest.approx(5 / 6)
    # the wrongly unlabelled point was not claimed for any class
    assert metrics.accuracy == pytest.approx(1.0)
    assert metrics.n_truth.tolist() == [3, 0, 0, 0, 0, 0, 0, 0, 2] + [0] * 10


@pytest.mark.parametrize("seed", range(4))
def test_against_the_rule_written_out(seed):
    rng = np.random.default_rng(seed)
    # classes 6 and 7 never occur, 7 is never predicted
    truth, prediction = rng.integers(0, 6, 500).tolist(), rng.integers(0, 7, 500).tolist()
    metrics = _metrics(truth, prediction, n_classes=7)
    mean, iou, accuracy = _official(truth, prediction, 7)
    np.testing.assert_allclose(metrics.iou, iou, rtol=1e-12)
    assert metrics.mean_iou == pytest.approx(mean)
    assert metrics.accuracy == pytest.approx(accuracy)
    assert metrics.mean_iou_present == pytest.approx(np.mean(iou[:5]))


def test_unlabelled_truth_never_counts():
    assert _metrics([0, 0, 2], [1, 2, 2]).iou.tolist()[:2] == [0.0, pytest.approx(1.0)]


def test_unlabelled_prediction_is_a_false_negative():
    assert _metrics([2, 2], [2, 0]).iou[1] == pytest.approx(0.5)


def test_absent_classes_count_as_zero_in_the_official_mean_only():
    metrics = _metrics([1], [1])
    assert metrics.mean_iou == pytest.approx(1 / 19)
    assert metrics.mean_iou_present == pytest.approx(1.0)


def test_no_points():
    metrics = _metrics([], [])
    assert (metrics.mean_iou, metrics.mean_iou_present, metrics.accuracy) == (0.0, 0.0, 0.0)


def test_rows_are_predictions_and_columns_truth():
    confusion = ConfusionMatrix(3)
    confusion.update(np.array([0, 0, -1]), np.array([2, 2, 1]))
    assert confusion.counts[1, 3] == 2
    assert confusion.counts[0, 2] == 1
    assert confusion.counts.sum() == 3
    assert confusion.counts.dtype == torch.int64


def test_sum_of_parts_is_the_whole(rng):
    prediction = torch.randint(-1, 5, (1000,), generator=rng)
    target = torch.randint(-1, 5, (1000,), generator=rng)
    whole, left, right = (ConfusionMatrix(5) for _ in range(3))
    whole.update(prediction, target)
    left.update(prediction[:300], target[:300])
    right.update(prediction[300:].to(torch.int32), target[300:].numpy())
    total = left + right
    assert torch.equal(total.counts, whole.counts)
    # neither part was changed
    assert int(left.counts.sum()) == 300
    with pytest.raises(ShapeError, match="5 and 6 classes"):
        left + ConfusionMatrix(6)


def test_ranks_are_summed(tmp_path):
    import torch.multiprocessing as mp

    mp.spawn(_rank, args=(2, f"file://{tmp_path}/rendezvous", str(tmp_path)), nprocs=2)
    for rank in range(2):
        counts = torch.from_numpy(np.load(tmp_path / f"{rank}.npy"))
        assert counts.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 2]]


def _rank(rank, world, url, folder):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=url, rank=rank, world_size=world)
    confusion = ConfusionMatrix(2)
    confusion.update(torch.full((rank + 1,), rank), torch.full((rank + 1,), rank))
    confusion.sum_over_ranks()
    np.save(f"{folder}/{rank}.npy", confusion.counts.numpy())
    dist.destroy_process_group()


def test_outside_torchrun_nothing_is_summed():
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([1]), np.array([1]))
    confusion.sum_over_ranks()
    assert int(confusion.counts.sum()) == 1


@pytest.mark.parametrize(
    ("prediction", "target", "error", "said"),
    [
        ([0, 1], [0], ShapeError, r"both be \(n,\), got \(2,\) and \(1,\)"),
        ([[0]], [[0]], ShapeError, r"\(1, 1\)"),
        ([40], [0], RangeError, r"prediction must lie in -1 \.\.\. 18, got 40 \.\.\. 40.*not raw ids"),
        ([0], [-2], RangeError, "target must lie in"),
        ([0.5], [0], RangeError, "take the argmax first"),
    ],
)
def test_refusals(prediction, target, error, said):
    with pytest.raises(error, match=said):
        ConfusionMatrix(19).update(torch.tensor(prediction), torch.tensor(target))


def test_table_lists_all_classes_and_both_means():
    names = [f"class {i}" for i in range(19)]
    table = _metrics([1, 1, 1, 9, 9, 0], [1, 0, 1, 9, 9, 5]).table(names)
    lines = table.splitlines()
    assert len(lines) == 1 + 19 + 3
    assert lines[1].split() == ["class", "0", "66.67", "3", "60.00"]
    assert lines[2].split() == ["class", "1", "-", "0", "0.00"]
    assert lines[20].endswith("8.77")
    assert "83.33   (2 classes)" in lines[21]
    with pytest.raises(ShapeError, match="19 classes need as many names, got 2"):
        _metrics([1], [1]).table(names[:2])
