"""Label maps: the SemanticKITTI table, the shift, what is unknown."""

import json
import pickle

import numpy as np
import pytest
import torch

from pcsparse.data.label_map import IGNORE, LabelMap
from pcsparse.errors import FormatError, RangeError, UnsupportedError

NAMES = """car, bicycle, motorcycle, truck, other-vehicle, person, bicyclist, motorcyclist, road, parking,
sidewalk, other-ground, building, fence, vegetation, trunk, terrain, pole, traffic-sign"""

# train id -> raw ids, written down from the benchmark's configuration, not from labels.toml
LEARNING_MAP = {
    0: (0, 1, 52, 99),
    1: (10, 252),
    2: (11,),
    3: (15,),
    4: (18, 258),
    5: (13, 16, 20, 256, 257, 259),
    6: (30, 254),
    7: (31, 253),
    8: (32, 255),
    9: (40, 60),
    10: (44,),
    11: (48,),
    12: (49,),
    13: (50,),
    14: (51,),
    15: (70,),
    16: (71,),
    17: (72,),
    18: (80,),
    19: (81,),
}
INVERSE = [10, 11, 15, 18, 20, 30, 31, 32, 40, 44, 48, 49, 50, 51, 70, 71, 72, 80, 81]


@pytest.fixture(scope="module")
def labels() -> LabelMap:
    return LabelMap.load("semantickitti")


def test_semantickitti_table(labels):
    assert labels.label_set == "semantickitti"
    assert labels.n_classes == 19
    assert ", ".join(labels.names) == NAMES.replace("\n", " ")
    np.testing.assert_array_equal(labels.raw_ids, np.array(INVERSE, np.uint32))
    for train, raws in LEARNING_MAP.items():
        np.testing.assert_array_equal(labels.to_target(np.array(raws, np.uint32)), train - 1)


def test_colours_are_rgb(labels):
    # the benchmark's file says road [255, 0, 255], car [245, 150, 100], building [0, 200, 255] in BGR
    colour = dict(zip(labels.names, labels.colors.tolist(), strict=True))
    assert labels.colors.dtype == np.uint8
    assert colour["car"] == [100, 150, 245]
    assert colour["building"] == [255, 200, 0]
    assert colour["traffic-sign"] == [255, 0, 0]
    assert colour["vegetation"] == [0, 175, 0]


def test_instances_are_dropped(labels):
    raw = np.array([10 | 7 << 16, 252 | 65535 << 16, 0 | 3 << 16], np.uint32)
    np.testing.assert_array_equal(labels.to_target(raw), [0, 0, IGNORE])


def test_round_trip(labels):
    targets = np.arange(-1, 19)
    raw = labels.to_raw(targets)
    assert raw.dtype == np.uint32
    np.testing.assert_array_equal(raw, [0, *INVERSE])
    np.testing.assert_array_equal(labels.to_target(raw), targets)
    np.testing.assert_array_equal(labels.to_raw(torch.arange(-1, 19, dtype=torch.int32)), raw)


def test_empty(labels):
    assert labels.to_target(np.zeros(0, np.uint32)).dtype == np.int64
    assert labels.to_raw(torch.zeros(0, dtype=torch.int64)).shape == (0,)


@pytest.mark.parametrize("unknown", [2, 260, 65535])
def test_unknown_id_is_named_with_count_and_file(labels, unknown):
    raw = np.array([10, unknown, unknown | 5 << 16, 40], np.uint32)
    with pytest.raises(
        FormatError, match=rf"07/labels/3\.label.*'semantickitti' .* id {unknown} \(2 points\)"
    ):
        labels.to_target(raw, source="07/labels/3.label")


def test_many_unknown_ids_are_counted(labels):
    with pytest.raises(FormatError, match=r"id 100 \(1 points\).* and 15 more ids"):
        labels.to_target(np.arange(100, 120, dtype=np.uint32))


@pytest.mark.parametrize("target", [-2, 19])
def test_targets_out_of_range(labels, target):
    with pytest.raises(RangeError, match=rf"-1 \.\.\. 18, got .*{target}"):
        labels.to_raw(np.array([0, target]))


def test_synthetic_refers_to_semantickitti(labels):
    synthetic = LabelMap.load("synthetic")
    assert (synthetic.label_set, synthetic.names) == (labels.label_set, labels.names)


def test_unknown_set_lists_those_there_are():
    with pytest.raises(UnsupportedError, match=r"no label map for data set 'kitti'; known: .*semantickitti"):
        LabelMap.load("kitti")


def test_survives_a_worker_process(labels):
    copy = pickle.loads(pickle.dumps(labels))
    np.testing.assert_array_equal(copy.to_target(np.array([81], np.uint32)), [18])


GOOD = """
label_set = "two"
ignore = 0
raw = [
  { id = 0, train = 0, name = "none", color = [0, 0, 0] },
  { id = 5, train = 1, name = "all", color = [1, 2, 3] },
]
classes = [{ train = 0, raw = 0 }, { train = 1, raw = 5 }]
"""


def test_own_label_map(tmp_path):
    (tmp_path / "labels.toml").write_text(GOOD)
    own = LabelMap.from_toml(tmp_path / "labels.toml")
    assert (own.names, own.colors.tolist()) == (("all",), [[1, 2, 3]])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("label_set", "set", "label_set must be a name"),
        ("ignore = 0", "ignore = 255", "ignore must be train id 0, got 255"),
        ("ignore = 0", "", "KeyError: 'ignore'"),
        ("id = 5", "id = 0", "raw ids must differ"),
        ("id = 5", "id = 70000", r"lie in 0 \.\.\. 65535"),
        ("train = 1, name", "train = 2, name", r"raw id 5: train id 2 is not in 0 \.\.\. 1"),
        ("{ train = 1, raw = 5 }", "{ train = 2, raw = 5 }", "train ids 0, 1, 2"),
        ("{ train = 1, raw = 5 }", "{ train = 1, raw = 0 }", "leaves as raw id 0 of another class"),
        ("[1, 2, 3]", "[1, 2, 300]", r"colours must lie in 0 \.\.\. 255"),
        ("[1, 2, 3]", "[1, 2]", "reshape"),
        ("ignore = 0", "ignore = ", "is not a label map"),
    ],
)
def test_broken_label_maps(tmp_path, old, new, said):
    assert old in GOOD
    (tmp_path / "labels.toml").write_text(GOOD.replace(old, new, 1))
    with pytest.raises(FormatError, match=said):
        LabelMap.from_toml(tmp_path / "labels.toml")


def test_missing_label_map(tmp_path):
    with pytest.raises(FormatError, match=r"labels\.toml is not a label map"):
        LabelMap.from_toml(tmp_path / "labels.toml")


def test_codes_of_the_las_standard():
    labels = LabelMap.load("semantickitti")
    codes = dict(zip(labels.names, labels.las_codes.tolist(), strict=True))
    assert [codes[name] for name in ("road", "sidewalk", "building", "vegetation", "car")] == [11, 2, 6, 5, 1]
    road = labels.names.index("road")
    assert labels.to_las(np.array([road, IGNORE, 0])).tolist() == [11, 0, 1]
    assert labels.to_las(np.zeros(0, np.int64)).dtype == np.uint8


OWN = """
label_set = "yard"
ignore = 0
raw = [
  { id = 0, train = 0 },
  { id = 7, train = 1, name = "ramp", color = [1, 2, 3] },
  { id = 8, train = 1 },
  { id = 300, train = 2, name = "crane", color = [250, 0, 9] },
]
classes = [{ train = 0, raw = 0 }, { train = 1, raw = 7, las = 2 }, { train = 2, raw = 300 }]
"""


@pytest.fixture
def own(tmp_path) -> LabelMap:
    (tmp_path / "labels.toml").write_text(OWN)
    return LabelMap.from_toml(tmp_path / "labels.toml")


def test_the_rows_of_a_map_make_the_same_map(labels, own):
    for one in (labels, own):
        # as a card holds them
        again = LabelMap.from_rows(one.label_set, **json.loads(json.dumps(one.rows())))
        assert again == one
        np.testing.assert_array_equal(again.raw_ids, one.raw_ids)
        np.testing.assert_array_equal(again.colors, one.colors)
    assert own.rows()["raw"] == [
        {"id": 0, "train": 0},
        {"id": 7, "train": 1, "name": "ramp", "color": [1, 2, 3]},
        {"id": 8, "train": 1},
        {"id": 300, "train": 2, "name": "crane", "color": [250, 0, 9]},
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"ramp"', '"slope"'),
        ("[250, 0, 9]", "[250, 0, 8]"),
        ("las = 2", "las = 6"),
        ("{ id = 8, train = 1 }", "{ id = 8, train = 2 }"),
        ("{ id = 8, train = 1 },", ""),
        ("raw = 7", "raw = 8"),
    ],
    ids=["name", "colour", "las", "class", "raw-id", "way-out"],
)
def test_maps_that_differ_are_not_the_same(own, tmp_path, old, new):
    (tmp_path / "other.toml").write_text(
        OWN.replace(old, new).replace("{ id = 8,", '{ id = 8, name = "ramp", color = [1, 2, 3],')
    )
    assert LabelMap.from_toml(tmp_path / "other.toml") != own


def test_a_map_is_brought_if_its_name_says_all_of_it(labels, own):
    assert labels.is_brought()
    assert LabelMap.load("synthetic").is_brought()
    assert not own.is_brought()
    assert not LabelMap.from_rows("semantickitti", **own.rows()).is_brought()
