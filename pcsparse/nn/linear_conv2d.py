"""A dense 2-D convolution as a packed linear layer over patches, for heads that see a bird's-eye view."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, relu

from pcsparse.checks import check_dtype, check_shape
from pcsparse.errors import DeviceError, RangeError, ShapeError, UnsupportedError
from pcsparse.nn.eie_linear import EIELinear
from pcsparse.nn.product_choice import Choice, Choices, Way, bucket_of, measure
from pcsparse.nn.semi_structured_linear import SemiStructuredLinear
from pcsparse.ops.packed_linear import refuse_gradients

Mode = Literal["auto", "sparse", "dense"]
Pair = tuple[int, int]

# a product that one run shows to be this many times slower is not run eleven times: a map may take seconds
_CLEAR = 4.0
# to see which layout is faster
_MOST_PATCHES = 64


def reduction_order(weight: Tensor) -> Tensor:
    """A weight (c_out, c_in, kh, kw) as the matrix (c_out, kh * kw * c_in) that multiplies a patch.

    Column (i * kw + j) * c_in + c is input channel c at row i and column j of the kernel. Input channels are
    neighbours, so each group of four of a 2:4 matrix lies within one position of the kernel, along the input
    channels, as NVIDIA's format has it for convolutions.
    """
    check_shape("weight", weight, (None, None, None, None))
    return weight.permute(0, 2, 3, 1).flatten(1)


def kernel_order(matrix: Tensor, c_in: int, kernel_size: Pair) -> Tensor:
    """The inverse of `reduction_order`, a contiguous (c_out, c_in, kh, kw)."""
    kh, kw = kernel_size
    check_shape("matrix", matrix, (None, kh * kw * c_in))
    permuted = matrix.reshape(-1, kh, kw, c_in).permute(0, 3, 1, 2)
    # of a 1 x 1 kernel `contiguous` would leave strides that make torch compute with channels last
    return permuted.clone(memory_format=torch.contiguous_format)


def conv_refusal(conv: "nn.Conv2d | LinearConv2d") -> str | None:
    """Why a convolution cannot be a linear layer over patches; None if it can."""
    if conv.groups != 1:
        return f"groups={conv.groups}; a patch of all channels is multiplied by one matrix"
    if conv.padding_mode != "zeros":
        return f"padding_mode={conv.padding_mode!r}; only zeros are padded"
    return None


class LinearConv2d(nn.Module):
    """A 2-D convolution whose weight is a packed linear layer, in place of an `nn.Conv2d` for inference.

    The sparse product multiplies patches: each output position is one item of the linear layer, and its
    kh * kw * c_in inputs are gathered (see `reduction_order`); a 1 x 1 kernel gathers nothing. All patches
    are held while it runs, kh * kw times the map. The dense product is `conv2d` with the decoded weight.
    In mode "auto" the first map of each size (output positions, in powers of two) on each device times both,
    and the faster one is taken from then on; `choices` says which and why, and travels in the state dict. A
    map has many positions and packed products win with few items, so expect dense on all but small maps: then
    the packed weight saves bytes in files and state dicts, not time, and not memory: a layer that takes the
    dense product holds the dense weight as well.

    Args:
        linear: (c_out, kh * kw * c_in), in the order of `reduction_order`; held, its own mode becomes
            "sparse". Its ReLU, if any, is the convolution's.
        kernel_size: kh, kw.
        stride: of rows, of columns.
        padding: zeros at both ends of rows, of columns; or "same" or "valid", as of `nn.Conv2d`.
        dilation: of rows, of columns.
        mode: "auto", "sparse" or "dense".

    Raises:
        ShapeError: the inputs of `linear` are no whole number of channels for each position of the kernel.
        RangeError: another mode; a size, stride or dilation below 1, a padding below 0 or of another name, or
            "same" with a stride.
    """

    groups = 1
    padding_mode = "zeros"

    def __init__(
        self,
        linear: EIELinear | SemiStructuredLinear,
        kernel_size: Pair,
        *,
        stride: Pair = (1, 1),
        padding: Pair | str = (0, 0),
        dilation: Pair = (1, 1),
        mode: Mode = "auto",
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise RangeError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        for name, pair in (("kernel_size", kernel_size), ("stride", stride), ("dilation", dilation)):
            if len(pair) != 2 or min(pair) < 1:
                raise RangeError(f"{name} must be two numbers of at least 1, got {pair}")
        if linear.in_features % (kernel_size[0] * kernel_size[1]):
            raise ShapeError(
                f"linear has {linear.in_features} inputs, no multiple of the {kernel_size[0]} x "
                f"{kernel_size[1]} positions of the kernel"
            )
        self.linear = linear
        linear.mode = "sparse"
        self.kernel_size, self.stride, self.dilation = _pair(kernel_size), _pair(stride), _pair(dilation)
        self.padding = padding if isinstance(padding, str) else _pair(padding)
        self.in_channels = linear.in_features // (kernel_size[0] * kernel_size[1])
        self.out_channels = linear.out_features
        self.mode: Mode = mode
        self._pads = _pads(self.padding, self.kernel_size, self.stride, self.dilation)
        self._choices = Choices()
        # the weight that it was made of, and itself
        self._dense: tuple[object, Tensor] | None = None

    @classmethod
    def from_conv(
        cls,
        given: "nn.Conv2d | LinearConv2d",
        linear: EIELinear | SemiStructuredLinear,
        *,
        mode: Mode = "auto",
    ) -> "LinearConv2d":
        """A layer with the geometry of `given` and the weight and bias of `linear`.

        Raises:
            UnsupportedError: `given` has groups, or pads other than zeros.
            ShapeError: `linear` has other channels.
        """
        reason = conv_refusal(given)
        if reason is not None:
            raise UnsupportedError(f"this convolution has {reason}; keep it dense")
        kh, kw = given.kernel_size
        wanted = given.out_channels, kh * kw * given.in_channels
        found = linear.out_features, linear.in_features
        if found != wanted:
            raise ShapeError(
                f"linear must be {wanted[0]} x {wanted[1]} for {given}, is {found[0]} x {found[1]}"
            )
        padding = given.padding if isinstance(given.padding, str) else _pair(given.padding)
        stride, dilation = _pair(given.stride), _pair(given.dilation)
        return cls(linear, (kh, kw), stride=stride, padding=padding, dilation=dilation, mode=mode)

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What was measured or refused, by device and output positions."""
        return self._choices.listed()

    def forget_choices(self) -> None:
        """Measure anew: on another machine, with another number of threads, for other activations."""
        self._choices.clear()

    def choose_layout(self, maps: Tensor) -> None:
        """Let a weight in EIE's format take the layout that is faster on some patches of such maps.

        Args:
            maps: (n, c_in, h, w), float32.

        Raises:
            ShapeError: a map smaller than the kernel, or without channels.
            UnsupportedError, DeviceError: see `EIELinear.choose_layout`.
        """
        if isinstance(self.linear, EIELinear):
            patches = self._patches(maps, *self._size(maps))
            self.linear.choose_layout(patches[:_MOST_PATCHES])

    def forward(self, x: Tensor) -> Tensor:
        """(n, c_in, h, w) or (c_in, h, w) -> the same with c_out and the rows and columns of the output.

        Raises:
            ShapeError: another number of channels or dimensions, or a map smaller than the kernel.
            DtypeError: `x` has not the dtype of the weight.
            UnsupportedError: in EIE's format, `x` wants a gradient; mode "sparse", and there is no product.
        """
        if x.dim() not in (3, 4) or x.shape[-3] != self.in_channels:
            raise ShapeError(f"x must be (n, {self.in_channels}, h, w), got shape {tuple(x.shape)}")
        if isinstance(self.linear, EIELinear):
            refuse_gradients(x=x)
        check_dtype("x", x, self._dtype())
        maps = x if x.dim() == 4 else x[None]
        if x.is_meta:
            # for who asks for shapes alone, as `nn.prepare`
            return x.new_empty((*x.shape[:-3], self.out_channels, *self._size(maps)))
        out = self._sparse_product(maps) if self._way(maps) == "sparse" else self._dense_product(maps)
        return out if x.dim() == 4 else out[0]

    def dense_weight(self) -> Tensor:
        """(c_out, c_in, kh, kw), where the layer is; made once and held."""
        weight = self.linear.weight_token
        if self._dense is None or self._dense[0] is not weight:
            matrix = self.linear.dense_weight()
            self._dense = weight, kernel_order(matrix, self.in_channels, self.kernel_size)
            # one dense form is enough
            self.linear.release_dense()
        return self._dense[1]

    def release_dense(self) -> None:
        """Let the dense weight go until it is asked for again."""
        self._dense = None
        self.linear.release_dense()

    def __getstate__(self) -> dict[str, Any]:
        """Without the dense weight, as the linear layer."""
        return {**self.__dict__, "_dense": None}

    def _dtype(self) -> torch.dtype:
        return torch.float32 if isinstance(self.linear, EIELinear) else self.linear.values.dtype

    def _size(self, maps: Tensor) -> Pair:
        """Rows and columns of the output."""
        left, right, top, bottom = self._pads
        sizes = (maps.shape[2] + top + bottom, maps.shape[3] + left + right)
        spans = [d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.dilation, strict=True)]
        if sizes[0] < spans[0] or sizes[1] < spans[1]:
            raise ShapeError(
                f"a padded map of {sizes[0]} x {sizes[1]} is smaller than the kernel, which spans "
                f"{spans[0]} x {spans[1]}"
            )
        return (sizes[0] - spans[0]) // self.stride[0] + 1, (sizes[1] - spans[1]) // self.stride[1] + 1

    def _way(self, maps: Tensor) -> Way:
        if self.mode not in get_args(Mode):
            raise RangeError(f"mode must be one of {', '.join(get_args(Mode))}, got {self.mode!r}")
        rows, columns = self._size(maps)
        if self.mode != "auto":
            return self.mode
        n_items = len(maps) * rows * columns
        if n_items == 0:
            # nothing to measure, and nothing to remember for maps that are something
            return "dense"
        choice = self._choices.find(maps.device, n_items)
        if choice is None:
            if torch.compiler.is_compiling():
                # nothing can be timed while a graph is traced
                return "sparse"
            choice = self._measured(maps, n_items)
            self._choices.keep(choice)
            if all(other.way == "sparse" for other in self.choices):
                self.release_dense()
            elif isinstance(self.linear, EIELinear) and all(other.way == "dense" for other in self.choices):
                self.linear.release_layout()
        return choice.way

    def _measured(self, maps: Tensor, n_items: int) -> Choice:
        products: dict[Way, Callable[[], object]] = {
            "dense": lambda: self._dense_product(maps),
            "sparse": lambda: self._sparse_product(maps),
        }
        try:
            glance = measure(products, maps.device, n_items, runs=1)
            dense, sparse = glance.dense or 0.0, glance.sparse or 0.0
            if max(dense, sparse) > _CLEAR * min(dense, sparse):
                return glance
            return measure(products, maps.device, n_items)
        except (UnsupportedError, DeviceError) as error:
            return Choice(str(maps.device), bucket_of(n_items), "dense", refused=str(error))

    def _sparse_product(self, maps: Tensor) -> Tensor:
        rows, columns = self._size(maps)
        out = self.linear(self._patches(maps, rows, columns))
        return out.view(len(maps), rows, columns, self.out_channels).permute(0, 3, 1, 2).contiguous()

    def _patches(self, maps: Tensor, rows: int, columns: int) -> Tensor:
        """(n * rows * columns, kh * kw * c_in), columns as `reduction_order` has them."""
        nhwc = pad(maps, self._pads).permute(0, 2, 3, 1)
        (kh, kw), (sh, sw), (dh, dw) = self.kernel_size, self.stride, self.dilation
        taps = [
            nhwc[:, i * dh : i * dh + (rows - 1) * sh + 1 : sh, j * dw : j * dw + (columns - 1) * sw + 1 : sw]
            for i in range(kh)
            for j in range(kw)
        ]
        patches = taps[0] if len(taps) == 1 else torch.stack(taps, dim=3)
        return patches.reshape(len(maps) * rows * columns, self.linear.in_features)

    def _dense_product(self, maps: Tensor) -> Tensor:
        padding = self.padding
        out = conv2d(maps, self.dense_weight(), self.linear.bias, self.stride, padding, self.dilation)
        return relu(out) if self.linear.with_relu else out

    def get_extra_state(self) -> Tensor:
        """The choices."""
        return self._choices.to_state()

    def set_extra_state(self, state: Any) -> None:
        """Take over stored choices.

        Raises:
            FormatError: they are of another version, or damaged.
        """
        self._choices.take_state(state)

    def extra_repr(self) -> str:
        """Geometry, mode and choices."""
        sizes = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        rest = f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, mode={self.mode}"
        return "\n".join([f"{sizes}, {rest}", *map(str, self.choices)])


def _pair(given: tuple[int, ...]) -> Pair:
    return given[0], given[1]


def _pads(padding: Pair | str, kernel_size: Pair, stride: Pair, dilation: Pair) -> tuple[int, int, int, int]:
    """Zeros at the left, right, top and bottom."""
    if padding == "valid":
        return 0, 0, 0, 0
    if padding == "same":
        if stride != (1, 1):
            raise RangeError(f"padding 'same' has no meaning with a stride, got {stride}")
        # of an odd total the larger half goes to the end, as in torch
        totals = [d * (k - 1) for k, d in zip(kernel_size, dilation, strict=True)]
        return totals[1] // 2, totals[1] - totals[1] // 2, totals[0] // 2, totals[0] - totals[0] // 2
    if isinstance(padding, str) or len(padding) != 2 or min(padding) < 0:
        raise RangeError(f"padding must be two numbers of at least 0, 'same' or 'valid', got {padding!r}")
    return padding[1], padding[1], padding[0], padding[0]
