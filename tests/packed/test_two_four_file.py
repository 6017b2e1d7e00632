"""2:4 layers on disk: round trips, and every way a file can be wrong."""

import json

import pytest
import torch
from safetensors.torch import save_file

from pcsparse.errors import FormatError, RangeError
from pcsparse.packed import two_four_file
from pcsparse.packed.two_four import TwoFourMatrix, pack_two_four
from pcsparse.packed.two_four_file import load_two_four, save_two_four
from tests.packed.test_two_four import random_two_four


def layers(rng) -> dict[str, TwoFourMatrix]:
    return {
        "head.fc1": pack_two_four(random_two_four(rng, 9, 36)),
        "half": pack_two_four(random_two_four(rng, 4, 16, torch.float16)),
        "brain": pack_two_four(random_two_four(rng, 4, 16, torch.bfloat16)),
        "no columns": pack_two_four(torch.zeros(2, 0)),
    }


def same(one: TwoFourMatrix, other: TwoFourMatrix) -> bool:
    return (
        (one.n_out, one.n_in, one.values.dtype) == (other.n_out, other.n_in, other.values.dtype)
        and torch.equal(one.values, other.values)
        and torch.equal(one.positions, other.positions)
    )


def test_every_bit_comes_back(rng, tmp_path):
    given = layers(rng)
    path = tmp_path / "head.safetensors"
    sizes = save_two_four(given, path)
    found = load_two_four(path)
    assert set(found) == set(given)
    for name, matrix in given.items():
        assert same(found[name], matrix), name
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert sum(sizes.values()) == path.stat().st_size - 8 - header
    # 9 rows of 18 values and of 5 bytes of positions
    assert sizes["head.fc1"] == 9 * (18 * 4 + 5)


def test_any_flipped_or_missing_byte_is_seen(rng, tmp_path):
    path = tmp_path / "head.safetensors"
    save_two_four({"fc": layers(rng)["half"]}, path)
    content = path.read_bytes()
    assert load_two_four(path)
    for at in range(0, len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        with pytest.raises(FormatError, match=r"head\.safetensors"):
            load_two_four(path)
        path.write_bytes(content[:at])
        with pytest.raises(FormatError, match=r"head\.safetensors"):
            load_two_four(path)


def test_other_files_are_named(tmp_path, rng, monkeypatch):
    with pytest.raises(FormatError, match="cannot be read"):
        load_two_four(tmp_path / "none")
    save_file({"a": torch.zeros(3)}, tmp_path / "other")
    with pytest.raises(FormatError, match="no whole safetensors file of 2:4 layers"):
        load_two_four(tmp_path / "other")
    save_file({"a": torch.zeros(3)}, tmp_path / "other", {"pcsparse-two-four": json.dumps({"kind": "x"})})
    with pytest.raises(
        FormatError, match="is 'x' format None; this version reads 'pcsparse-two-four' format"
    ):
        load_two_four(tmp_path / "other")
    monkeypatch.setattr(two_four_file, "FILE_FORMAT", 2)
    save_two_four({"fc": layers(rng)["half"]}, tmp_path / "newer")
    monkeypatch.undo()
    with pytest.raises(FormatError, match="format 2; this version reads 'pcsparse-two-four' format 1"):
        load_two_four(tmp_path / "newer")


def test_content_is_checked_behind_the_checksum(rng, tmp_path, monkeypatch):
    matrix = layers(rng)["half"]
    matrix.positions[0, 0] = 0
    with pytest.raises(FormatError, match="row 0, group 0 do not ascend"):
        save_two_four({"fc": matrix}, tmp_path / "wrong")
    monkeypatch.setattr(TwoFourMatrix, "checked", lambda self: self)
    save_two_four({"fc": matrix}, tmp_path / "wrong")
    monkeypatch.undo()
    with pytest.raises(FormatError, match=r"wrong, layer 'fc': no 2:4 matrix: .* do not ascend"):
        load_two_four(tmp_path / "wrong")


def test_nothing_to_save_and_bad_names_are_refused(tmp_path, rng):
    with pytest.raises(RangeError, match="no layers"):
        save_two_four({}, tmp_path / "x")
    with pytest.raises(RangeError, match="contains a slash"):
        save_two_four({"a/b": layers(rng)["half"]}, tmp_path / "x")
    assert not (tmp_path / "x").exists()
