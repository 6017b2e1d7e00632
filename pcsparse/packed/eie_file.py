"""EIE matrices on disk: one safetensors file for the layers of a head, with or without Huffman codes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pcsparse.errors import FormatError, RangeError
from pcsparse.packed import huffman
from pcsparse.packed.bits import pack_bits, unpack_bits
from pcsparse.packed.eie import EIEFormat, EIEMatrix
from pcsparse.packed.layer_file import check_names, read_layers, write_layers

FILE_FORMAT = 1
_KIND = "pcsparse-eie"

_Arrays = dict[str, npt.NDArray]


@dataclass(frozen=True)
class LayerBytes:
    """What one layer takes in a file.

    Attributes:
        codes: bytes of the weights' codes, with Huffman's tables where it is used.
        skips: bytes of the relative indices, the same.
        pointers: bytes.
        codebook: bytes.
        dense: bytes of the weights as float32, for comparison.
    """

    codes: int
    skips: int
    pointers: int
    codebook: int
    dense: int

    @property
    def total(self) -> int:
        """All of the layer but its name and sizes in the header."""
        return self.codes + self.skips + self.pointers + self.codebook

    def __str__(self) -> str:
        """One line with units."""
        share = 100 * self.total / self.dense if self.dense else float("nan")
        return (
            f"{self.total:,} bytes ({share:.2f} % of {self.dense:,} dense): codes {self.codes:,}, "
            f"skips {self.skips:,}, pointers {self.pointers:,}, codebook {self.codebook:,}"
        )


def save_eie(
    matrices: Mapping[str, EIEMatrix], path: str | Path, *, with_huffman: bool = False
) -> dict[str, LayerBytes]:
    """Write layers whole or not at all.

    Args:
        matrices: by name; names are free, but none may contain a slash.
        path: the file; its folder must exist.
        with_huffman: code the streams of codes and skips by how often each value occurs, layer by layer.

    Returns:
        Bytes by layer.

    Raises:
        RangeError: no layer, a name with a slash.
        FormatError: a matrix that is none.

    Source: the Huffman stage of Deep Compression (ICLR 2016), section 4.
    """
    check_names(matrices)
    tensors: dict[str, Tensor] = {}
    layers: dict[str, Any] = {}
    sizes = {}
    for name, matrix in matrices.items():
        mine, layers[name] = eie_arrays(matrix.checked(), with_huffman=with_huffman)
        tensors.update({f"{name}/{part}": torch.from_numpy(array) for part, array in mine.items()})
        sizes[name] = layer_bytes(mine, matrix)
    write_layers(Path(path), _KIND, FILE_FORMAT, layers, tensors)
    return sizes


def load_eie(path: str | Path) -> dict[str, EIEMatrix]:
    """Read layers that `save_eie` wrote.

    Raises:
        FormatError: the file is missing, truncated, altered, of another kind or version, or its content is
            no EIE matrix.
    """
    path = Path(path)
    layers, tensors = read_layers(path, _KIND, FILE_FORMAT, "EIE layers")
    found = {}
    for name, sizes in layers.items():
        try:
            mine = {
                key.partition("/")[2]: tensor.numpy()
                for key, tensor in tensors.items()
                if key.partition("/")[0] == name
            }
            found[name] = eie_matrix(mine, sizes).checked()
        except (FormatError, RangeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}, layer {name!r}: {error}") from error
    return found


def eie_arrays(matrix: EIEMatrix, *, with_huffman: bool) -> tuple[_Arrays, dict[str, Any]]:
    """What a file holds of a matrix: arrays by part, and sizes that JSON can hold."""
    widths = matrix.format
    narrow = np.uint16 if widths.pointer_bits <= 16 else np.uint32
    arrays: _Arrays = {
        "codebook": matrix.codebook.numpy(),
        "batch_starts": matrix.batch_starts.numpy(),
        "pointers": matrix.pointers.numpy().astype(narrow),
    }
    sizes = {
        "n_out": matrix.n_out,
        "n_in": matrix.n_in,
        "n_entries": matrix.n_entries,
        "huffman": with_huffman,
        **asdict(widths),
    }
    streams = (("codes", matrix.codes, widths.code_bits), ("skips", matrix.skips, widths.index_bits))
    for part, values, bits in streams:
        if with_huffman:
            stream = huffman.encode(values.numpy(), 1 << bits)
            arrays[f"{part}.lengths"] = stream.lengths
            arrays[f"{part}.positions"] = stream.positions
            arrays[f"{part}.data"] = stream.data
            sizes[f"{part}_bits"] = stream.n_bits
        else:
            arrays[part] = pack_bits(values.numpy(), bits)
    return arrays, sizes


def eie_matrix(arrays: _Arrays, sizes: dict[str, Any]) -> EIEMatrix:
    """The inverse of `eie_arrays`; the matrix is not checked.

    Raises:
        FormatError, RangeError, KeyError, TypeError, ValueError: what is given is none.
    """
    widths = EIEFormat(**{name: int(sizes[name]) for name in asdict(EIEFormat())})
    n = int(sizes["n_entries"])
    found = {}
    for part, bits in (("codes", widths.code_bits), ("skips", widths.index_bits)):
        if sizes["huffman"]:
            lengths = arrays[f"{part}.lengths"]
            if len(lengths) != 1 << bits:
                raise FormatError(f"{len(lengths)} code lengths for {1 << bits} symbols")
            stream = huffman.HuffmanStream(
                lengths,
                arrays[f"{part}.positions"],
                arrays[f"{part}.data"],
                n,
                int(sizes[f"{part}_bits"]),
            )
            found[part] = huffman.decode(stream)
        else:
            found[part] = unpack_bits(arrays[part], bits, n)
    # copies: safetensors hands out arrays that may not be written, and torch warns of those
    return EIEMatrix(
        widths,
        int(sizes["n_out"]),
        int(sizes["n_in"]),
        torch.from_numpy(arrays["codebook"].copy()),
        torch.from_numpy(found["codes"]),
        torch.from_numpy(found["skips"]),
        torch.from_numpy(arrays["batch_starts"].copy()),
        torch.from_numpy(arrays["pointers"].astype(np.int32)),
    )


def layer_bytes(arrays: _Arrays, matrix: EIEMatrix) -> LayerBytes:
    """Bytes of the arrays of a matrix."""

    def of(part: str) -> int:
        return sum(array.nbytes for name, array in arrays.items() if name.split(".")[0] == part)

    pointers = of("pointers") + of("batch_starts")
    return LayerBytes(of("codes"), of("skips"), pointers, of("codebook"), 4 * matrix.n_out * matrix.n_in)
