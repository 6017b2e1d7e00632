"""AMC in the lecture's setting: the images, and a study in miniature."""

import dataclasses

import numpy as np
import pytest
import torch

from pcsparse.data.synthetic.objects import Objects
from pcsparse.errors import RangeError
from pcsparse.programs import bench_compress_lecture as lecture
from pcsparse.programs.bench_compress_images import ImageSizes, object_images


def test_an_image_shows_the_nearest_point_of_each_pixel():
    # metres from the middle of the crop: x away from the sensor, y left, z up
    points = np.array([[[3, -1, -1], [1, -1, -1], [0, 1, 0], [2, 1, 0]]], np.float32)
    intensity = np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)
    objects = Objects(points, intensity, *(np.zeros(1) for _ in range(3)))
    image = object_images(objects)[0]
    assert image.shape == (3, 32, 32)
    # two metres fill the 32 columns, and one metre the middle half of the rows, up being up
    assert image[2].nonzero().tolist() == [[8, 31], [23, 0]]
    assert image[:, 8, 31].tolist() == pytest.approx([0.0, 0.0, 0.3])
    assert image[:, 23, 0].tolist() == pytest.approx([-0.1, -0.1, 0.2])


@pytest.mark.parametrize(
    ("options", "named"),
    [({"methods": ("random", "amc")}, "add uniform"), ({"evaluations": 0}, "evaluations=0")],
)
def test_a_study_that_ends_in_no_table_is_refused_before_any_search(tmp_path, options, named):
    with pytest.raises(RangeError, match=named):
        lecture.LectureStudy(tmp_path, **options)


@pytest.mark.slow
def test_a_study_in_miniature_keeps_what_it_did(tmp_path, capsys, monkeypatch):
    study = lecture.LectureStudy(
        tmp_path, ImageSizes(5, 1, 2, n_points=64), epochs=1, tuning=1, evaluations=3, seeds=2,
        methods=("uniform", "random"),
    )  # fmt: skip
    assert lecture.run(study) == 0
    first = capsys.readouterr().out
    table = first[first.index("right after pruning") :]
    rows = [line for line in table.splitlines() if line.startswith("| 50%")]
    # uniform answers once before fine-tuning, and is fine-tuned as often as the others
    assert [row.split(" | ")[1:3] for row in rows] == [
        ["uniform", "1"], ["random", "2"], ["uniform", "2"], ["random", "2"],
    ]  # fmt: skip
    assert all(float(row.split(" | ")[5]) <= 40.7 / 2 for row in rows)
    assert (tmp_path / "search.png").is_file()

    def no_more(*args):
        raise AssertionError(args)

    monkeypatch.setattr(lecture, "train", no_more)
    monkeypatch.setattr(lecture.PrunedAccuracy, "__call__", no_more)
    assert lecture.run(study) == 0
    again = capsys.readouterr().out
    assert again[again.index("right after pruning") :] == table
    # another length of fine-tuning is not taken from the files
    with pytest.raises(AssertionError):
        lecture.run(dataclasses.replace(study, tuning=2))


def test_the_accuracy_is_that_of_the_sliced_network(tmp_path, rng):
    torch.manual_seed(0)
    sizes = ImageSizes(5, 1, 1, n_points=64)
    sets = lecture.image_sets(tmp_path, sizes, str)
    task = lecture.ImageTask(lecture.PlainCNNSpec.plain20(3, 15), sets["train"], sets["search"])
    counts = lecture._counts(task.network(), task)
    assert counts.right.shape == (15, 1)
    assert counts.miou()[0] == pytest.approx(counts.right.mean())
