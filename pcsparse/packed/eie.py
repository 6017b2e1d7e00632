"""EIE's weight format: interleaved compressed sparse columns with relative indices and shared weights.

Row i belongs to processing element (PE) i mod n_pe and is row i // n_pe of its slice. A PE stores each of its
columns as entries (code, skip) from the top: `skip` zeros, then one weight, `codebook[code]`. A run of zeros
that is too long for `index_bits` is broken by pads, entries of code 0 after 2^index_bits - 1 zeros; code 0 is
the weight 0.0 and stands for nothing else. Zeros after the last weight of a column are not stored.

A column of a PE runs from one of its pointers to the next. Pointers have `pointer_bits`, so a layer of more
entries a PE is split into batches of columns whose pointers begin at 0 again.

Source: Han et al., EIE (ISCA 2016), sections III-B and III-C. That code 0 is kept for zeros, which leaves
2^code_bits - 1 weights free, is ours: the paper does not say what a pad's code is looked up as.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from pcsparse.checks import check_dtype, check_shape
from pcsparse.errors import FormatError, RangeError

PAD = 0
"""The code of the weight 0.0."""
MOST_BITS = 8
"""Of a code and of a skip: both are held as bytes."""
MOST_POINTER_BITS = 31


@dataclass(frozen=True)
class EIEFormat:
    """The widths of the format; the defaults are the chip's.

    Attributes:
        n_pe: processing elements.
        code_bits: of a weight's code, 1 to 8; the codebook has 2^code_bits entries.
        index_bits: of a skip, 1 to 8.
        pointer_bits: of a column pointer, 1 to 31; a PE has at most 2^pointer_bits - 1 entries in a batch.

    Raises:
        RangeError: a width outside its range, or no PE.
    """

    n_pe: int = 64
    code_bits: int = 4
    index_bits: int = 4
    pointer_bits: int = 16

    def __post_init__(self) -> None:
        """Refuse widths that cannot be held."""
        ranges = {
            "n_pe": (1, 1 << 20),
            "code_bits": (1, MOST_BITS),
            "index_bits": (1, MOST_BITS),
            "pointer_bits": (1, MOST_POINTER_BITS),
        }
        for name, (least, most) in ranges.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise RangeError(f"{name} must be {least} to {most}, got {value}")

    @property
    def longest_skip(self) -> int:
        """Zeros that one entry can skip."""
        return (1 << self.index_bits) - 1

    @property
    def most_entries(self) -> int:
        """Of a PE in one batch: the pointer past the last one must fit, too."""
        return (1 << self.pointer_bits) - 1

    def slice_rows(self, pe: int, n_out: int) -> int:
        """Rows of one PE."""
        return max(0, -(-(n_out - pe) // self.n_pe))


@dataclass(frozen=True, eq=False)
class EIEMatrix:
    """A weight matrix (n_out, n_in) in EIE's format.

    Attributes:
        format: widths.
        n_out: rows.
        n_in: columns.
        codebook: (2^code_bits,) float32; the first is 0.
        codes: (n_entries,) uint8, by batch, then PE, then column, then row.
        skips: (n_entries,) uint8, zeros before each.
        batch_starts: (n_batches + 1,) int64, first column of each batch; the last is n_in.
        pointers: (n_pe, n_in + n_batches) int32; of each batch its columns' and one past the end, from 0.
    """

    format: EIEFormat
    n_out: int
    n_in: int
    codebook: Tensor
    codes: Tensor
    skips: Tensor
    batch_starts: Tensor
    pointers: Tensor

    @property
    def n_batches(self) -> int:
        """Batches of columns."""
        return len(self.batch_starts) - 1

    @property
    def n_entries(self) -> int:
        """Weights and pads."""
        return len(self.codes)

    @property
    def n_pads(self) -> int:
        """Entries that only break a run of zeros."""
        return int((self.codes == PAD).sum())

    @cached_property
    def column_counts(self) -> Tensor:
        """(n_pe, n_in) int64: entries of each PE in each column."""
        parts = []
        for batch in range(self.n_batches):
            first, last = int(self.batch_starts[batch]), int(self.batch_starts[batch + 1])
            parts.append(self.pointers[:, first + batch : last + batch + 1].long().diff(dim=1))
        return torch.cat(parts, dim=1) if parts else self.pointers.new_zeros(self.format.n_pe, 0).long()

    @cached_property
    def bases(self) -> Tensor:
        """(n_batches, n_pe) int64: where the entries of a PE begin in each batch."""
        ends = self.batch_starts[1:] + torch.arange(self.n_batches, device="cpu")
        counts = self.pointers[:, ends].long().T.reshape(-1)
        return (counts.cumsum(0) - counts).view(self.n_batches, self.format.n_pe)

    def segments(self) -> tuple[Tensor, Tensor]:
        """PE and column of each entry, both (n_entries,) int64."""
        pes, columns = [], []
        counts = self.column_counts
        for batch in range(self.n_batches):
            first, last = int(self.batch_starts[batch]), int(self.batch_starts[batch + 1])
            here = counts[:, first:last]
            pes.append(torch.arange(self.format.n_pe, device="cpu").repeat_interleave(here.sum(dim=1)))
            column = torch.arange(first, last, device="cpu").expand(self.format.n_pe, -1).reshape(-1)
            columns.append(column.repeat_interleave(here.reshape(-1)))
        empty = torch.zeros(0, dtype=torch.int64, device="cpu")
        return torch.cat([empty, *pes]), torch.cat([empty, *columns])

    def entry_rows(self) -> tuple[Tensor, Tensor]:
        """Row of the matrix and column of each entry, pads included; both (n_entries,) int64."""
        pe, column = self.segments()
        local = _within(self.skips.long() + 1, pe * max(self.n_in, 1) + column) - 1
        return local * self.format.n_pe + pe, column

    def unpack(self) -> Tensor:
        """Codes of all weights, (n_out, n_in) uint8; 0 where there is none."""
        row, column = self.entry_rows()
        codes = torch.zeros(self.n_out, self.n_in, dtype=torch.uint8, device="cpu")
        codes[row, column] = self.codes
        return codes

    def to_dense(self) -> Tensor:
        """The weights, (n_out, n_in) float32."""
        return self.codebook[self.unpack().long()]

    def stored_bits(self) -> dict[str, int]:
        """Bits of each part in the format itself: entries, pointers, codebook (float32)."""
        widths = self.format
        return {
            "entries": self.n_entries * (widths.code_bits + widths.index_bits),
            "pointers": self.pointers.numel() * widths.pointer_bits,
            "codebook": 32 * len(self.codebook),
        }

    def checked(self) -> "EIEMatrix":
        """This matrix, if its tensors are such a matrix: for those that come from outside.

        Raises:
            FormatError: what does not hold, with the values.
        """
        if self._first_problem is not None:
            raise FormatError(f"no EIE matrix: {self._first_problem}")
        return self

    @cached_property
    def _first_problem(self) -> str | None:
        # once a matrix: products ask each time
        return next(_problems(self.to("cpu")), None)

    def to(self, device: torch.device | str) -> "EIEMatrix":
        """The same tensors on a device. A product there takes them; all else about a matrix is for a CPU."""
        parts = (self.codebook, self.codes, self.skips, self.batch_starts, self.pointers)
        moved = tuple(part.to(device) for part in parts)
        if all(new is old for new, old in zip(moved, parts, strict=True)):
            return self
        made = EIEMatrix(self.format, self.n_out, self.n_in, *moved)
        if "_first_problem" in self.__dict__:
            made.__dict__["_first_problem"] = self._first_problem
        return made

    def trusted(self) -> "EIEMatrix":
        """This matrix, unread: for tensors of a matrix that was checked or packed here."""
        self.__dict__["_first_problem"] = None
        return self


def pack_eie(codes: Tensor, codebook: Tensor, widths: EIEFormat | None = None) -> EIEMatrix:
    """Store a matrix of codes in EIE's format.

    Args:
        codes: (n_out, n_in) uint8, each below 2^code_bits; 0 where the weight was pruned.
        codebook: (2^code_bits,) float32, finite; the first must be 0.
        widths: of the format; the chip's if None.

    Raises:
        ShapeError: `codes` is no matrix, or the codebook has another length.
        DtypeError: another dtype.
        RangeError: a code outside the codebook, a codebook that does not begin with 0 or is not finite, or
            a column with more entries on one PE than a pointer counts: it cannot be split.
    """
    widths = widths or EIEFormat()
    check_shape("codes", codes, (None, None))
    check_dtype("codes", codes, torch.uint8)
    _check_codebook(codebook, widths)
    codes = codes.detach().cpu()
    n_out, n_in = codes.shape
    if codes.numel() and int(codes.max()) >= len(codebook):
        raise RangeError(f"code {int(codes.max())} is outside the codebook of {len(codebook)}")
    column, row = codes.T.nonzero(as_tuple=True)
    pe, local = row % widths.n_pe, row // widths.n_pe
    # by PE, column and local row: what is left to do is to group by batch
    order = torch.argsort(pe, stable=True)
    column, row, pe, local = column[order], row[order], pe[order], local[order]
    segment = pe * n_in + column
    before = torch.full_like(local, -1)
    same = segment[1:] == segment[:-1]
    before[1:][same] = local[:-1][same]
    gap = local - before - 1
    pads = gap // (widths.longest_skip + 1)
    size = pads + 1
    counts = torch.zeros(widths.n_pe * n_in, dtype=torch.int64, device="cpu").index_add_(0, segment, size)
    counts = counts.view(widths.n_pe, n_in)
    starts = _batch_starts(counts, widths)
    ends = size.cumsum(0)
    entries = torch.zeros(int(size.sum()), dtype=torch.uint8, device="cpu")
    skips = torch.full_like(entries, widths.longest_skip)
    entries[ends - 1] = codes[row, column]
    skips[ends - 1] = (gap - pads * (widths.longest_skip + 1)).to(torch.uint8)
    pointers = []
    by_batch = []
    totals = counts.sum(dim=1)
    pe_starts = totals.cumsum(0) - totals
    for first, last in pairwise(starts):
        here = counts[:, first:last].cumsum(dim=1)
        pointers.append(torch.nn.functional.pad(here, (1, 0)))
        skipped = pe_starts + counts[:, :first].sum(dim=1)
        length = counts[:, first:last].sum(dim=1)
        by_batch.append(_ranges(skipped, length))
    if len(starts) > 2:
        moved = torch.cat(by_batch)
        entries, skips = entries[moved], skips[moved]
    joined = torch.cat(pointers, dim=1) if pointers else torch.zeros(widths.n_pe, 0, device="cpu")
    return EIEMatrix(
        widths,
        n_out,
        n_in,
        codebook.detach().cpu().clone(),
        entries,
        skips,
        torch.tensor(starts, device="cpu"),
        joined.int(),
    ).trusted()


def _check_codebook(codebook: Tensor, widths: EIEFormat) -> None:
    check_shape("codebook", codebook, (1 << widths.code_bits,))
    check_dtype("codebook", codebook, torch.float32)
    if not bool(codebook.isfinite().all()):
        raise RangeError(f"the codebook must be finite, got {codebook.tolist()}")
    if float(codebook[PAD]) != 0.0:
        raise RangeError(
            f"codebook[0] is the weight of pruned positions and must be 0, got {float(codebook[PAD])}"
        )


def _batch_starts(counts: Tensor, widths: EIEFormat) -> list[int]:
    """First column of each batch, and n_in: as many columns a batch as the fullest PE's pointer can count."""
    n_in = counts.shape[1]
    worst = int(counts.max()) if counts.numel() else 0
    if worst > widths.most_entries:
        where = int(counts.max(dim=0).values.argmax())
        raise RangeError(
            f"column {where} has {worst} entries on one PE, more than a pointer of {widths.pointer_bits} "
            f"bits counts ({widths.most_entries}); take more PEs, wider pointers or a lower density"
        )
    totals = torch.nn.functional.pad(counts.cumsum(dim=1), (1, 0))
    starts = [0]
    while starts[-1] < n_in:
        used = totals - totals[:, starts[-1]][:, None]
        fits = (used <= widths.most_entries).all(dim=0)
        # totals ascend, so the columns that fit are those before the first that does not
        starts.append(int(fits.sum()) - 1)
    return starts


def _ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """The numbers from each start on, as many as its length says, one range after the other."""
    within = torch.arange(int(lengths.sum()), device="cpu") - (lengths.cumsum(0) - lengths).repeat_interleave(
        lengths
    )
    return starts.repeat_interleave(lengths) + within


def _within(steps: Tensor, segment: Tensor) -> Tensor:
    """Running sums of `steps` that begin anew wherever `segment` changes."""
    sums = steps.cumsum(0)
    begins = torch.ones(len(segment), dtype=torch.bool, device="cpu")
    begins[1:] = segment[1:] != segment[:-1]
    first = begins.nonzero()[:, 0]
    base = (sums - steps)[first]
    lengths = torch.diff(first, append=torch.tensor([len(segment)], device="cpu"))
    return sums - base.repeat_interleave(lengths)


def _problems(matrix: EIEMatrix) -> Iterator[str]:
    """What is wrong with a matrix, one by one; each check relies on those before it."""
    widths, n_in = matrix.format, matrix.n_in
    starts, pointers = matrix.batch_starts, matrix.pointers
    yield from _misshapen(matrix)
    if int(starts[0]) != 0 or int(starts[-1]) != n_in or bool((starts.diff() <= 0).any()):
        yield f"batches begin at columns {starts.tolist()}, which do not ascend from 0 to {n_in}"
    firsts = starts[:-1] + torch.arange(matrix.n_batches, device="cpu")
    if bool((pointers[:, firsts] != 0).any()):
        yield "the pointers of a batch do not begin at 0"
    if pointers.numel() and int(pointers.max()) > widths.most_entries:
        yield f"a pointer is {int(pointers.max())}, and {widths.pointer_bits} bits hold {widths.most_entries}"
    if bool((matrix.column_counts < 0).any()):
        yield "pointers fall within a batch"
    if int(matrix.column_counts.sum()) != matrix.n_entries:
        yield f"pointers count {int(matrix.column_counts.sum())} entries, there are {matrix.n_entries}"
    if matrix.n_entries:
        for name, values, bits in (
            ("code", matrix.codes, widths.code_bits),
            ("skip", matrix.skips, widths.index_bits),
        ):
            if int(values.max()) >> bits:
                yield f"a {name} is {int(values.max())}, and {bits} bits hold {(1 << bits) - 1}"
        if bool((matrix.skips[matrix.codes == PAD] != widths.longest_skip).any()):
            yield f"a pad skips other than {widths.longest_skip} zeros"
        rows = matrix.entry_rows()[0]
        if int(rows.max()) >= matrix.n_out:
            yield f"an entry lies in row {int(rows.max())} of {matrix.n_out}"
    try:
        _check_codebook(matrix.codebook, widths)
        again = pack_eie(matrix.unpack(), matrix.codebook, widths)
    except RangeError as error:
        yield str(error)
        return
    for name in ("codes", "skips", "pointers", "batch_starts"):
        if not torch.equal(getattr(again, name), getattr(matrix, name)):
            yield f"its weights are packed to other {name}; it is not in its one form"


def _misshapen(matrix: EIEMatrix) -> Iterator[str]:
    for name, dims in (("codes", 1), ("skips", 1), ("batch_starts", 1), ("pointers", 2), ("codebook", 1)):
        if getattr(matrix, name).dim() != dims:
            yield f"{name} should have {dims} dimensions, has {getattr(matrix, name).dim()}"
    n_batches = len(matrix.batch_starts) - 1
    if matrix.n_out < 0 or matrix.n_in < 0 or n_batches < 0:
        yield f"{matrix.n_out} rows, {matrix.n_in} columns, {n_batches} batches"
    wanted = {
        "codebook": (torch.float32, (1 << matrix.format.code_bits,)),
        "codes": (torch.uint8, (len(matrix.codes),)),
        "skips": (torch.uint8, (len(matrix.codes),)),
        "batch_starts": (torch.int64, (n_batches + 1,)),
        "pointers": (torch.int32, (matrix.format.n_pe, matrix.n_in + n_batches)),
    }
    for name, (dtype, shape) in wanted.items():
        tensor = getattr(matrix, name)
        if tensor.dtype != dtype or tuple(tensor.shape) != shape:
            yield f"{name} should be {dtype} {shape}, is {tensor.dtype} {tuple(tensor.shape)}"
