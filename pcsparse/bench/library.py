"""A library of sparse convolutions as a benchmark sees it: own tensors, maps, modules and order of rows."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pcsparse.bench.cases import Layer, Way
from pcsparse.coords.kernel_map import Pairs
from pcsparse.coords.relation import Relation
from pcsparse.errors import UnsupportedError


class LibraryConv(nn.Module):
    """One layer of a library, with weights that can be written and gradients that can be read in our layout.

    Args:
        inner: the library's module.
        weight: its parameter.
        view: of a tensor laid out like `weight`, as (k, c_in, c_out) on the same memory.
        finish: gives `inner` a bias (c_out,) and, if the bool says so, a ReLU; None where it can have none.
    """

    def __init__(
        self,
        inner: nn.Module,
        weight: nn.Parameter,
        view: Callable[[Tensor], Tensor],
        finish: Callable[[nn.Module, Tensor, bool], None] | None = None,
    ) -> None:
        super().__init__()
        self.inner = inner
        self._view, self._finish = view, finish
        # by name: a move to another device may make it another object
        self._name = next(name for name, parameter in inner.named_parameters() if parameter is weight)
        self._order = torch.arange(view(weight).shape[0])

    def forward(self, x: Any) -> Any:
        """Whatever the library does."""
        return self.inner(x)

    @property
    def _weight(self) -> nn.Parameter:
        return self.inner.get_parameter(self._name)

    def reorder(self, order: Tensor) -> None:
        """Tell which of our offsets each offset of the library is, (k,) int64."""
        self._order = order

    def load(self, weight: Tensor) -> None:
        """Write weights (k, c_in, c_out), offsets in our order."""
        self._view(self._weight.data).copy_(weight[self._order.to(weight.device)])

    def fold(self, scale: Tensor, shift: Tensor, *, relu: bool) -> None:
        """Take in what follows: times `scale` plus `shift`, both (c_out,), then a ReLU if asked for.

        Raises:
            UnsupportedError: the library's module can have no bias.
        """
        if self._finish is None:
            raise UnsupportedError(f"{self.inner} takes no bias and no ReLU in")
        weight = self._view(self._weight.data)
        weight.mul_(scale.to(weight))
        self._finish(self.inner, shift.to(weight), relu)

    def grad(self) -> Tensor:
        """The gradient (k, c_in, c_out), offsets in our order.

        Raises:
            UnsupportedError: none was computed.
        """
        gradient = self._weight.grad
        if gradient is None:
            raise UnsupportedError(f"{self.inner} has no gradient; call backward() first")
        theirs = self._view(gradient)
        ours = torch.zeros_like(theirs, memory_format=torch.contiguous_format)
        ours[self._order.to(theirs.device)] = theirs
        return ours


class Library(ABC):
    """What a benchmark asks of a library.

    Attributes:
        name: with its version, and what was done to it.
        threads: that it is run with; None for those of the process.
        remark: what a reader of the times must know.
        keeps_strided_maps: whether a strided layer runs on a map that was made before.
    """

    name: str
    threads: int | None = None
    remark: str = ""
    keeps_strided_maps: bool = True

    def __init__(self) -> None:
        self._orders: dict[tuple[Layer, int], Tensor] = {}

    def refuses(self, *, backward: bool, dtype: torch.dtype) -> str | None:
        """Why it cannot do this, or None."""
        return None if dtype == torch.float32 else f"no {str(dtype).removeprefix('torch.')} on a CPU"

    @abstractmethod
    def geometry(self, coords: Tensor) -> Any:
        """Coordinates (n, 4) int32 as the library wants them, in the same order of rows; not timed."""

    @abstractmethod
    def tensor(self, geometry: Any, feats: Tensor) -> Any:
        """A new sparse tensor, without any map."""

    @abstractmethod
    def feats(self, x: Any) -> Tensor:
        """(n, c)."""

    @abstractmethod
    def replace(self, x: Any, feats: Tensor) -> Any:
        """Other features at the same voxels; the maps stay known."""

    @abstractmethod
    def coords(self, x: Any, stride: int) -> Tensor:
        """(n, 4) int32 level indices of a tensor of that stride, in the library's order of rows."""

    @abstractmethod
    def layer(self, layer: Layer, kernel: int, stride: int, c_in: int, c_out: int, level: int) -> LibraryConv:
        """A module without bias, its offsets in the library's order.

        Args:
            layer: submanifold, strided, or the inverse of the strided one.
            kernel: edge of the kernel.
            stride: of the way from fine to coarse.
            c_in: input channels.
            c_out: output channels.
            level: of the finer side, 0 for the finest.
        """

    @abstractmethod
    def make_map(self, geometry: Any, relation: Relation, way: Way = "down") -> object:
        """A kernel map from coordinates alone, in the library's own form; this is what is timed.

        Args:
            geometry: of the coordinates that the way starts from.
            relation: of the way from fine to coarse.
            way: see `MapCase`.

        Raises:
            UnsupportedError: the library has no way to make this one.
        """

    @abstractmethod
    def read_map(self, made: Any) -> tuple[Tensor, Pairs]:
        """Level indices (m, 4) of the level that the way leads to or, if inverse, comes back from; the pairs.

        Offsets are in our order, rows of that level in the library's.
        """

    def keep_maps(self, x: Any, y: Any) -> None:  # noqa: B027
        """Let `x` know the maps that were made on the way to `y`, where the library forgets them."""

    def conv(self, layer: Layer, kernel: int, stride: int, c_in: int, c_out: int, level: int) -> LibraryConv:
        """A module whose weights are loaded and read in our layout."""
        made = self.layer(layer, kernel, stride, c_in, c_out, level)
        made.reorder(self.offset_order(layer, kernel, stride))
        return made

    def offset_order(self, layer: Layer, kernel: int, stride: int) -> Tensor:
        """Which of our offsets each offset of the library is, (k,) int64; probed at the first call."""
        if (layer, kernel) not in self._orders:
            self._orders[layer, kernel] = _probe(self, layer, kernel, stride)
        return self._orders[layer, kernel]

    def at_its_threads(self, run: Callable[[], Any]) -> Callable[[], Any]:
        """The same call with the library's number of threads."""
        if self.threads is None:
            return run
        threads = self.threads

        def limited() -> Any:
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                return run()
            finally:
                torch.set_num_threads(before)

        return limited


def _probe(library: Library, layer: Layer, kernel: int, stride: int) -> Tensor:
    """Which of our offsets each of the library's weights belongs to, by one weight of one at a time.

    Raises:
        UnsupportedError: a weight reaches no offset, or two the same.
    """
    relation = Relation.of(kernel, stride)
    steps = torch.tensor([[0, *step] for step in relation.steps()], dtype=torch.int32)
    # a multiple of every stride, so that the steps of a strided kernel fill one coarse cell
    coords = steps + torch.tensor([0, 16, 16, 16], dtype=torch.int32)
    marks = torch.arange(1.0, len(coords) + 1)[:, None]
    found = []
    with torch.no_grad():
        for position in range(relation.volume):
            made = library.layer(layer, kernel, stride, 1, 1, 0)
            made.load(torch.eye(relation.volume)[position][:, None, None])
            x = library.tensor(library.geometry(coords), marks)
            if layer == "inverse":
                x = library.layer("strided", kernel, stride, 1, 1, 0)(x)
                x = library.replace(x, torch.ones(1, 1))
            out = library.feats(library.at_its_threads(partial(made, x))())[:, 0]
            if layer == "inverse":
                found.append(int(out.argmax()))
            else:
                # the voxel in the middle, or the only coarse one, sees every step
                found.append(round(float(out[relation.volume // 2 if layer == "submanifold" else 0])) - 1)
    if sorted(found) != list(range(relation.volume)):
        raise UnsupportedError(f"{library.name}: the weights of {layer} {kernel}^3 reach offsets {found}")
    return torch.tensor(found)
