"""A linear layer with a 2:4 weight, for inference, that takes the faster of its two products."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from pcsparse.checks import check_dtype, check_shape, is_traced
from pcsparse.errors import RangeError, ShapeError, UnsupportedError
from pcsparse.nn import semi_structured_cuda as cuda
from pcsparse.nn.product_choice import Choice, Choices, Way, bucket_of, measure
from pcsparse.nn.seen_buffers import SeenBuffers
from pcsparse.ops.own_precision import linear_as_stored
from pcsparse.ops.two_four_linear import two_four_linear
from pcsparse.packed.two_four import TwoFourMatrix, pack_two_four

Mode = Literal["auto", "sparse", "dense"]


class SemiStructuredLinear(nn.Module):
    """`act(x @ W.T + bias)` with a frozen 2:4 weight, in place of an `nn.Linear` for inference.

    Published 2:4 products are slower than dense ones on small shapes and large batches. So in mode "auto" the
    first batch of each size (in powers of two) on each device times both, and the faster one is taken from
    then on; `choices` says which and why, and travels in the state dict. The two add in different orders, so
    their last bits differ: set a mode, or load a state dict with choices, where results must be the same
    bits. A layer that takes the dense product anywhere holds the dense weight, too.

    Gradients reach `x`, not the weight and the bias, which are buffers. Buffers may be changed in place or
    replaced: the next call sees it, unless torch counts no changes (writing through `.data`, tensors of
    inference mode) or a compiled graph runs, which holds the weight that it was traced with.

    Args:
        in_features: n_in, a multiple of 4.
        out_features: n_out.
        bias: whether there is one.
        mode: "auto", "sparse" or "dense".
        with_relu: whether a ReLU follows.
        dtype: float32 for sparse products by our own kernels, on a CPU or a GPU; float16 or bfloat16 for the
            tensor cores of a GPU.

    Raises:
        ShapeError: in_features is no multiple of 4.
        RangeError: another mode.
        DtypeError: another dtype.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        mode: Mode = "auto",
        with_relu: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if mode not in get_args(Mode):
            raise RangeError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        self.in_features, self.out_features = in_features, out_features
        self.mode: Mode = mode
        self.with_relu = with_relu
        self.values: Tensor
        self.positions: Tensor
        self.bias: Tensor | None
        # packing asks for values, the layer is made where torch makes layers
        empty = pack_two_four(torch.zeros(out_features, in_features, dtype=dtype, device="cpu"))
        where = torch.get_default_device()
        self.register_buffer("values", empty.values.to(where))
        self.register_buffer("positions", empty.positions.to(where))
        self.register_buffer("bias", torch.zeros(out_features, dtype=dtype) if bias else None)
        self._choices = Choices()
        self._dense: Tensor | None = None
        self._compressed: Tensor | None = None
        self._seen: SeenBuffers | None = None
        self._token = object()

    @classmethod
    def from_linear(
        cls, given: nn.Linear, *, mask: Tensor | None = None, mode: Mode = "auto", with_relu: bool = False
    ) -> "SemiStructuredLinear":
        """A layer that computes what `given` does.

        Args:
            given: with a 2:4 weight, or any weight and a mask.
            mask: (n_out, n_in) bool, the weights to keep.
            mode: see the class.
            with_relu: whether a ReLU follows.

        Raises:
            ShapeError, DtypeError, RangeError: no 2:4 matrix, see `packed.two_four.pack_two_four`.
        """
        return cls.from_matrix(pack_two_four(given.weight, mask), given.bias, mode=mode, with_relu=with_relu)

    @classmethod
    def from_matrix(
        cls,
        matrix: TwoFourMatrix,
        bias: Tensor | None = None,
        *,
        mode: Mode = "auto",
        with_relu: bool = False,
    ) -> "SemiStructuredLinear":
        """A layer with a packed weight, such as `packed.two_four_file.load_two_four` gives.

        Raises:
            ShapeError, DtypeError: the bias is not (n_out,) of the dtype of the values.
        """
        dtype = matrix.values.dtype
        made = cls(matrix.n_in, matrix.n_out, bias is not None, mode=mode, with_relu=with_relu, dtype=dtype)
        made.values, made.positions = matrix.values.clone(), matrix.positions.clone()
        if bias is not None:
            check_shape("bias", bias, (matrix.n_out,))
            check_dtype("bias", bias, dtype)
            made.bias = bias.detach().clone()
        return made

    @property
    def matrix(self) -> TwoFourMatrix:
        """The weight; its tensors are the layer's own."""
        return TwoFourMatrix(self.values, self.positions, self.out_features, self.in_features)

    @property
    def weight_token(self) -> object:
        """Another one once the weight is another: for who made a form of it."""
        self._see_changes()
        return self._token

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What was measured or refused, by device and batch."""
        return self._choices.listed()

    def forget_choices(self) -> None:
        """Measure anew: on another machine, or with another number of threads."""
        self._choices.clear()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), dtype of the weight.

        Raises:
            ShapeError: another number of features.
            DtypeError: `x` has not the dtype of the weight.
            UnsupportedError: mode "sparse", and there is no sparse product; the text says why.
        """
        if x.dim() < 1 or x.shape[-1] != self.in_features:
            raise ShapeError(f"x must have {self.in_features} features, got shape {tuple(x.shape)}")
        check_dtype("x", x, self.values.dtype)
        items = x.reshape(x.shape[:-1].numel(), self.in_features)
        out = self._sparse_product(items) if self._way(items) == "sparse" else self._dense_product(items)
        return out.reshape(*x.shape[:-1], self.out_features)

    def dense_weight(self) -> Tensor:
        """(n_out, n_in), dtype of the weight, where the layer is; made once and held."""
        self._see_changes()
        dense = self._dense
        if dense is None:
            self._dense = dense = self.matrix.unpack()
        return dense

    def release_dense(self) -> None:
        """Let the dense weight go until it is asked for again."""
        self._dense = None

    def _way(self, items: Tensor) -> Way:
        if self.mode not in get_args(Mode):
            raise RangeError(f"mode must be one of {', '.join(get_args(Mode))}, got {self.mode!r}")
        if self.mode == "dense":
            return "dense"
        refused = self._refusal(items.device)
        if self.mode == "sparse":
            if refused is not None:
                raise UnsupportedError(f"no sparse product: {refused}; use mode='auto' or mode='dense'")
            return "sparse"
        if len(items) == 0:
            # nothing to measure, and nothing to remember for batches that are something
            return "dense"
        choice = self._choices.find(items.device, len(items))
        if choice is None:
            if refused is None and torch.compiler.is_compiling():
                # nothing can be timed while a graph is traced
                return "sparse"
            choice = self._measured(items, refused)
            self._choices.keep(choice)
            if all(other.way == "sparse" for other in self.choices):
                self.release_dense()
        return choice.way

    def _refusal(self, device: torch.device) -> str | None:
        if self.values.dtype == torch.float32:
            return None
        if cuda.serves(device):
            return cuda.refusal((self.out_features, self.in_features), self.values.dtype, device)
        return f"the CPU's kernel takes float32 only, the weight is {self.values.dtype}; use .float()"

    def _measured(self, items: Tensor, refused: str | None) -> Choice:
        if refused is not None:
            return Choice(str(items.device), bucket_of(len(items)), "dense", refused=refused)
        products: dict[Way, Callable[[], object]] = {
            "dense": lambda: self._dense_product(items),
            "sparse": lambda: self._sparse_product(items),
        }
        return measure(products, items.device, len(items))

    def _sparse_product(self, items: Tensor) -> Tensor:
        if self.values.dtype == torch.float32:
            return two_four_linear(items, self.matrix, self.bias, relu=self.with_relu)
        self._see_changes()
        if self._compressed is None:
            self._compressed = cuda.compress(self.matrix.unpack())
        out = cuda.multiply(items, self._compressed, self.bias)
        return relu(out) if self.with_relu else out

    def _dense_product(self, items: Tensor) -> Tensor:
        out = linear_as_stored(items, self.dense_weight(), self.bias)
        return relu(out) if self.with_relu else out

    def _forget_forms(self) -> None:
        self._dense = self._compressed = self._seen = None
        self._token = object()

    def _see_changes(self) -> None:
        """Forget what was made of buffers that are others now."""
        if is_traced():
            return
        # attributes are looked for in three places of a module
        buffers = [each for name in ("values", "positions") if (each := self._buffers[name]) is not None]
        if self._seen is not None and self._seen.are(buffers):
            return
        if self._seen is not None:
            self._forget_forms()
        self._seen = SeenBuffers.of(buffers)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also of modules that were pickled before changed buffers were seen."""
        super().__setstate__(state)
        self.__dict__.pop("weight_token", None)
        self._seen, self._token = None, object()

    def __getstate__(self) -> dict[str, Any]:
        """Without the forms that are made from the format."""
        return {**self.__dict__, "_dense": None, "_compressed": None, "_seen": None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SemiStructuredLinear":
        """Moves and conversions: other forms of the weight are made anew where they are needed."""
        before = self.values.dtype
        super()._apply(fn, recurse)
        self._forget_forms()
        if self.values.dtype != before and not self.values.is_meta:
            # a weight that a narrow dtype rounds to 0 stands elsewhere in the packed form
            matrix = pack_two_four(self.matrix.unpack())
            self.values, self.positions = matrix.values, matrix.positions
        return self

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        """A state is checked as a file is; one whose shapes do not fit is torch's to refuse."""
        refused = len(error_msgs)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        self._forget_forms()
        if len(error_msgs) == refused and not self.values.is_meta:
            self.matrix.checked()

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
        """Sizes, mode and choices."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        rest = f"bias={self.bias is not None}, with_relu={self.with_relu}, mode={self.mode}"
        return "\n".join([f"{sizes}, {rest}", *map(str, self.choices)])
