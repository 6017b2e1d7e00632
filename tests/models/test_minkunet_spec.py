"""The Spec: JSON round trip, published widths, and what it refuses."""

import json
from dataclasses import FrozenInstanceError, replace

import pytest

from pcsparse.errors import FormatError, RangeError
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.models.minkunet import BlockSpec, ConvSpec, StageSpec

SMALL = MinkUNetSpec.minkunet14(width=1 / 16)


@pytest.mark.parametrize(
    "spec",
    [
        MinkUNetSpec.minkunet14(),
        MinkUNetSpec.minkunet18(in_channels=5, n_classes=2, width=0.3),
        MinkUNetSpec.minkunet34(),
        replace(SMALL, stem=(replace(SMALL.stem[0], offsets=(1, 5, 13)), SMALL.stem[1])),
        SMALL.with_voxels({"stem.2": 0.5, "decoder.3.0.conv2": 0.25}),
    ],
    ids=["14", "18-odd", "34", "dropped-offsets", "voxels"],
)
def test_json_round_trip(spec):
    again = MinkUNetSpec.from_json(spec.to_json())

    assert again == spec
    assert hash(again) == hash(spec)
    assert json.loads(spec.to_json()) == json.loads(again.to_json())


def test_the_layer_table_of_minkunet18():
    spec = MinkUNetSpec.minkunet18()

    def table(stages):
        return [
            (
                stage.resample.c_in,
                stage.resample.c_out,
                *(b.conv1.c_in for b in stage.blocks),
                stage.blocks[-1].conv2.c_out,
            )
            for stage in stages
        ]

    assert spec.stem == (ConvSpec(4, 32), ConvSpec(32, 32))
    assert table(spec.encoder) == [
        (32, 32, 32, 32, 32),
        (32, 32, 32, 64, 64),
        (64, 64, 64, 128, 128),
        (128, 128, 128, 256, 256),
    ]
    assert table(spec.decoder) == [
        (256, 256, 384, 256, 256),
        (256, 128, 192, 128, 128),
        (128, 96, 128, 96, 96),
        (96, 96, 128, 96, 96),
    ]
    assert spec.n_classes == 19
    assert spec.with_classes(3) == replace(spec, n_classes=3)


def test_it_is_frozen():
    with pytest.raises(FrozenInstanceError):
        SMALL.n_classes = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", "3", "null",
        SMALL.to_json().replace("n_classes", "classes"),
        SMALL.to_json().replace("c_in", "c_inn", 1),
        json.dumps(json.loads(SMALL.to_json()) | {"stem": []}),
        json.dumps(json.loads(SMALL.to_json()) | {"encoder": [3]}),
        json.dumps(json.loads(SMALL.to_json()) | {"n_classes": None}),
    ],
)  # fmt: skip
def test_text_that_is_no_spec(text):
    with pytest.raises(FormatError, match="not a MinkUNetSpec"):
        MinkUNetSpec.from_json(text)


def test_widths_that_vanish():
    with pytest.raises(RangeError, match=r"width=0\.01 leaves a layer of 0 channels; use a larger width"):
        MinkUNetSpec.minkunet18(width=0.01)
    with pytest.raises(RangeError, match="MinkUNet has 4 stages a side"):
        MinkUNetSpec.of(4, 19, encoder_blocks=(1, 1, 1))


@pytest.mark.parametrize(("encoder", "decoder"), [(3, 4), (5, 4), (4, 3), (4, 5), (3, 3)])
def test_another_number_of_stages_is_refused(encoder, decoder):
    def stages(present, n):
        # widths that fit each other, so that only the number is wrong
        last = present[-1].blocks[-1].conv2.c_out
        block = BlockSpec(ConvSpec(last, last), ConvSpec(last, last))
        return (*present, StageSpec(ConvSpec(last, last), (block,)))[:n]

    spec = replace(SMALL, encoder=stages(SMALL.encoder, encoder), decoder=stages(SMALL.decoder, decoder))
    with pytest.raises(RangeError, match=f"4 stages a side, the Spec has {encoder} and {decoder}"):
        MinkUNet(spec)


def _wrong(part: str) -> MinkUNetSpec:
    data = json.loads(SMALL.to_json())
    where = {
        "stem.1": data["stem"][1],
        "down.2": data["encoder"][2]["resample"],
        "encoder.1.0.conv1": data["encoder"][1]["blocks"][0]["conv1"],
        "encoder.1.0.conv2": data["encoder"][1]["blocks"][0]["conv2"],
        "up.0": data["decoder"][0]["resample"],
        "decoder.3.0.conv1": data["decoder"][3]["blocks"][0]["conv1"],
    }[part]
    where["c_in"] += 1
    return MinkUNetSpec.from_json(json.dumps(data))


@pytest.mark.parametrize(
    "part", ["stem.1", "down.2", "encoder.1.0.conv1", "encoder.1.0.conv2", "up.0", "decoder.3.0.conv1"]
)
def test_widths_that_do_not_meet_are_named(part):
    spec = _wrong(part)
    with pytest.raises(RangeError, match=rf"{part} of the Spec reads \d+ channels, but \d+ arrive"):
        MinkUNet(spec)


def test_with_channels_names_layers_as_the_network_does():
    spec = MinkUNetSpec.minkunet14(width=0.25)
    other = spec.with_channels(
        {"stem.2": (8, 5), "encoder.1.0.conv1": (8, 9), "decoder.3.0.shortcut.0": (1, 1)}
    )
    assert other.stem[1] == ConvSpec(8, 5)
    assert other.encoder[1].blocks[0].conv1 == ConvSpec(8, 9)
    # a block with a 1x1 shortcut keeps it
    assert other.encoder[1].blocks[0].projected is True
    assert other.encoder[0].blocks[0].projected is None
    assert MinkUNetSpec.from_json(other.to_json()) == other
    with pytest.raises(RangeError, match=r"no layer stem\.3"):
        spec.with_channels({"stem.3": (8, 8)})
    # a block without a shortcut has none to name
    with pytest.raises(RangeError, match=r"no layer encoder\.0\.0\.shortcut\.0"):
        spec.with_channels({"encoder.0.0.shortcut.0": (8, 8)})


def test_a_spec_from_before_shortcuts_were_named_is_read():
    spec = MinkUNetSpec.minkunet14(width=0.25)
    old = json.loads(spec.to_json())
    for stage in old["encoder"] + old["decoder"]:
        for block in stage["blocks"]:
            del block["projected"]
    assert MinkUNetSpec.from_json(json.dumps(old)) == spec
    old["encoder"][0]["blocks"][0]["projected"] = "yes"
    with pytest.raises(FormatError, match="projected='yes'"):
        MinkUNetSpec.from_json(json.dumps(old))


def test_shares_of_rows_reach_the_layers_they_name():
    wanted = {"stem.2": 0.5, "encoder.0.0.conv1": 0.75, "encoder.1.0.conv2": 0.25, "decoder.0.0.conv2": 1.0}
    spec = SMALL.with_voxels(wanted)
    shares = {
        name: part.voxels
        for name, part in MinkUNet(spec).named_modules()
        if getattr(part, "voxels", None) is not None
    }
    assert shares == wanted
    assert spec.with_voxels(dict.fromkeys(shares)) == SMALL
    # files from before there were shares
    old = json.loads(SMALL.to_json())
    del old["stem"][0]["voxels"], old["encoder"][2]["blocks"][0]["conv1"]["voxels"]
    assert MinkUNetSpec.from_json(json.dumps(old)) == SMALL


def test_shares_that_no_layer_can_take_are_refused():
    with pytest.raises(RangeError, match=r"no 3\^3 convolution down\.0\.0, nothing"):
        SMALL.with_voxels({"nothing": 0.5, "down.0.0": 0.5})
    with pytest.raises(RangeError, match=r"stem\.0 of the Spec has voxels=0\.5.* not 4 in and 2 out"):
        MinkUNet(SMALL.with_voxels({"stem.0": 0.5}))
    with pytest.raises(RangeError, match=r"must be in \(0, 1\]"):
        MinkUNet(SMALL.with_voxels({"stem.2": 1.5}))
    stage = SMALL.encoder[0]
    shared = replace(stage, resample=replace(stage.resample, voxels=0.5))
    with pytest.raises(RangeError, match=r"down\.0 of the Spec has voxels=0\.5.*nothing to leave out"):
        MinkUNet(replace(SMALL, encoder=(shared, *SMALL.encoder[1:])))
    text = SMALL.to_json().replace('"voxels": null', '"voxels": "half"', 1)
    with pytest.raises(FormatError, match="not a MinkUNetSpec"):
        MinkUNetSpec.from_json(text)
