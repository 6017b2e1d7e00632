"""EIE layers on disk: round trips, bytes, and every way a file can be wrong."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from pcsparse.errors import FormatError, RangeError
from pcsparse.packed import eie_file
from pcsparse.packed.eie import EIEFormat, EIEMatrix, pack_eie
from pcsparse.packed.eie_file import load_eie, save_eie
from tests.packed.test_eie import codebook, random_codes


def layers(rng) -> dict[str, EIEMatrix]:
    return {
        "head.fc1": pack_eie(random_codes(rng, 130, 50, 0.08), codebook()),
        "head.fc2": pack_eie(
            random_codes(rng, 33, 20, 0.3, 8), codebook(8), EIEFormat(3, code_bits=8, index_bits=5)
        ),
        "wide pointers": pack_eie(random_codes(rng, 9, 4, 0.5), codebook(), EIEFormat(2, pointer_bits=20)),
        "batches": pack_eie(random_codes(rng, 8, 7, 1.0), codebook(), EIEFormat(4, pointer_bits=3)),
        "empty": pack_eie(torch.zeros(4, 6, dtype=torch.uint8), codebook()),
    }


def same(one: EIEMatrix, other: EIEMatrix) -> bool:
    tensors = ("codebook", "codes", "skips", "batch_starts", "pointers")
    return (
        (one.format, one.n_out, one.n_in) == (other.format, other.n_out, other.n_in)
        and all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)
        and all(getattr(one, name).dtype == getattr(other, name).dtype for name in tensors)
    )


@pytest.mark.parametrize("with_huffman", [False, True])
def test_every_bit_comes_back(rng, tmp_path, with_huffman):
    given = layers(rng)
    save_eie(given, tmp_path / "head.safetensors", with_huffman=with_huffman)
    found = load_eie(tmp_path / "head.safetensors")
    assert list(found) == sorted(given)
    for name, matrix in given.items():
        assert same(found[name], matrix), name


@pytest.mark.parametrize("with_huffman", [False, True])
def test_bytes_are_those_of_the_file(rng, tmp_path, with_huffman):
    path = tmp_path / "head.safetensors"
    given = layers(rng)
    sizes = save_eie(given, path, with_huffman=with_huffman)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert sum(size.total for size in sizes.values()) == path.stat().st_size - 8 - header
    assert sizes["head.fc1"].dense == 4 * 130 * 50
    if not with_huffman:
        # half a byte a code and a skip
        assert sizes["head.fc1"].codes == -(-given["head.fc1"].n_entries // 2)
    assert "% of 26,000 dense" in str(sizes["head.fc1"])


def test_huffman_saves_where_values_are_uneven(rng, tmp_path):
    codes = random_codes(rng, 512, 400, 0.1)
    # most weights share one code, as centroids in the middle of a bell do
    codes[(codes > 0) & (torch.rand(codes.shape, generator=rng) < 0.7)] = 8
    matrix = {"fc": pack_eie(codes, codebook())}
    plain = save_eie(matrix, tmp_path / "a")["fc"]
    coded = save_eie(matrix, tmp_path / "b", with_huffman=True)["fc"]
    assert coded.codes < 0.7 * plain.codes
    assert coded.total < plain.total


@pytest.mark.parametrize("with_huffman", [False, True])
def test_any_flipped_or_missing_byte_is_seen(rng, tmp_path, with_huffman):
    path = tmp_path / "head.safetensors"
    save_eie({"fc": layers(rng)["batches"]}, path, with_huffman=with_huffman)
    content = path.read_bytes()
    assert load_eie(path)
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        with pytest.raises(FormatError, match=r"head\.safetensors"):
            load_eie(path)
        path.write_bytes(content[:at])
        with pytest.raises(FormatError, match=r"head\.safetensors"):
            load_eie(path)


def test_other_files_are_named(tmp_path, rng, monkeypatch):
    with pytest.raises(FormatError, match="cannot be read"):
        load_eie(tmp_path / "none")
    save_file({"a": torch.zeros(3)}, tmp_path / "other")
    with pytest.raises(FormatError, match="no whole safetensors file of EIE layers"):
        load_eie(tmp_path / "other")
    save_file({"a": torch.zeros(3)}, tmp_path / "other", {"pcsparse-eie": json.dumps({"kind": "x"})})
    with pytest.raises(FormatError, match="is 'x' format None; this version reads 'pcsparse-eie' format 1"):
        load_eie(tmp_path / "other")
    monkeypatch.setattr(eie_file, "FILE_FORMAT", 2)
    save_eie({"fc": layers(rng)["empty"]}, tmp_path / "newer")
    monkeypatch.undo()
    with pytest.raises(FormatError, match="format 2; this version reads 'pcsparse-eie' format 1"):
        load_eie(tmp_path / "newer")


@pytest.mark.parametrize(
    "header",
    ["[]", "3", "null", '{"__metadata__": null}', '{"__metadata__": []}',
     '{"__metadata__": {"pcsparse-eie": 3}}', '{"__metadata__": {"pcsparse-eie": "[]"}}', "[" * 100_000],
    ids=lambda header: header[:40],
)  # fmt: skip
def test_any_header_is_read_or_refused(header, tmp_path):
    path = tmp_path / "odd"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(FormatError, match="no whole safetensors file"):
        load_eie(path)


def test_a_matrix_that_is_none_is_not_written(rng, tmp_path):
    matrix = layers(rng)["head.fc1"]
    with pytest.raises(FormatError, match="no EIE matrix"):
        save_eie({"fc": replace(matrix, pointers=matrix.pointers + (1 << 16))}, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_content_is_checked_behind_the_checksum(rng, tmp_path, monkeypatch):
    matrix = layers(rng)["head.fc1"]
    matrix.skips[:] = 15
    save_eie({"fc": matrix}, tmp_path / "wrong")
    with pytest.raises(FormatError, match=r"wrong, layer 'fc': no EIE matrix: an entry lies in row"):
        load_eie(tmp_path / "wrong")


def test_nothing_to_save_and_bad_names_are_refused(tmp_path, rng):
    with pytest.raises(RangeError, match="no layers"):
        save_eie({}, tmp_path / "x")
    with pytest.raises(RangeError, match="contains a slash"):
        save_eie({"a/b": layers(rng)["empty"]}, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_file_is_there_whole_or_not_at_all(rng, tmp_path, monkeypatch):
    path = tmp_path / "head.safetensors"
    save_eie({"fc": layers(rng)["empty"]}, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        save_eie({"fc": layers(rng)["head.fc1"]}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
