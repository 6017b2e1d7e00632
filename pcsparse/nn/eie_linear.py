"""A linear layer with a pruned weight of a few shared values, for inference at batch 1."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from pcsparse.checks import check_dtype, check_shape, is_traced
from pcsparse.errors import DeviceError, RangeError, ShapeError, UnsupportedError
from pcsparse.nn.product_choice import Choice, Choices, Way, bucket_of, measure
from pcsparse.nn.seen_buffers import SeenBuffers
from pcsparse.ops.own_precision import linear_as_stored
from pcsparse.ops.packed_linear import EIELayout, eie_layout, eie_linear, refuse_gradients
from pcsparse.packed.eie import EIEFormat, EIEMatrix, pack_eie
from pcsparse.packed.eie_codes import codes_of
from pcsparse.timing import time_in_turns

Mode = Literal["auto", "sparse", "dense"]
# a call asks, and typing takes a microsecond to answer
_MODES = get_args(Mode)
# of each layout
_RUNS = 11
_PARTS = ("codes", "skips", "pointers", "batch_starts", "codebook")


def _by_rows(device: torch.device, skips_zeros: bool) -> bool:
    """Whether the weights are laid out by rows."""
    # on a GPU a row's weights are read sooner than it is known which of them could be left out
    return device.type == "cuda" or not skips_zeros


class EIELinear(nn.Module):
    """`act(x @ W.T + bias)` with W in EIE's format, in place of an `nn.Linear` for inference.

    By default columns of activations that are 0 are not read. With `skips_zeros=False` weights are laid out
    by rows and all are read, which is the faster way on a CPU with AVX-512 unless four fifths of the
    activations are 0, on others where they seldom are; `choose_layout` measures. It wins at batch 1, where a
    dense product waits for its weights; each further item reads the packed weights again, and a dense product
    soon overtakes. In mode "auto" the first batch of each size (in powers of two) on each device times both,
    on the activations of that batch, and the faster one is taken from then on; `choices` says which and why,
    and travels in the state dict. The two add in different orders, so their last bits differ: set a mode, or
    load a state dict with choices, where results must be the same bits. A layer that takes the dense product
    anywhere holds the dense weight, too.

    There are no gradients; train with `compress.heads.train_centroids`, then convert. Buffers may be changed
    in place or replaced: the next call sees it and checks that they are still a matrix, unless torch counts
    no changes (writing through `.data`, tensors of inference mode) or a compiled graph runs, which holds the
    weight that it was traced with.

    Args:
        in_features: n_in.
        out_features: n_out.
        bias: whether there is one.
        widths: of the format; the chip's if None.
        mode: "sparse", "dense" or "auto".
        with_relu: whether a ReLU follows.
        skips_zeros: whether enough activations are 0 to look for them on a CPU; it sets the order of
            additions, and may be changed at any time. A GPU reads all weights by rows either way, which took
            half the time of leaving columns out on an H200 (`bench_kernels.py --device cuda --sections
            heads`).

    Raises:
        RangeError: another mode.

    Source: EIE (Han et al., ISCA 2016).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        widths: EIEFormat | None = None,
        mode: Mode = "sparse",
        with_relu: bool = False,
        skips_zeros: bool = True,
    ) -> None:
        super().__init__()
        if mode not in _MODES:
            raise RangeError(f"mode must be one of {', '.join(_MODES)}, got {mode!r}")
        self.in_features, self.out_features = in_features, out_features
        self.widths = widths or EIEFormat()
        self.mode: Mode = mode
        self.with_relu = with_relu
        self._skips_zeros = skips_zeros
        self.codes: Tensor
        self.skips: Tensor
        self.pointers: Tensor
        self.batch_starts: Tensor
        self.codebook: Tensor
        self._layout: EIELayout | None = None
        self._dense: Tensor | None = None
        self._seen: SeenBuffers | None = None
        self._token = object()
        empty = torch.zeros(out_features, in_features, dtype=torch.uint8, device="cpu")
        codebook = torch.zeros(1 << self.widths.code_bits, dtype=torch.float32, device="cpu")
        # packing is the host's, the layer is made where torch makes layers
        self._hold(pack_eie(empty, codebook, self.widths).to(torch.get_default_device()))
        self.bias: Tensor | None
        self.register_buffer("bias", torch.zeros(out_features, dtype=torch.float32) if bias else None)
        self._choices = Choices()

    @classmethod
    def from_matrix(
        cls,
        matrix: EIEMatrix,
        bias: Tensor | None = None,
        *,
        mode: Mode = "sparse",
        with_relu: bool = False,
        skips_zeros: bool = True,
    ) -> "EIELinear":
        """A layer with a packed weight, from `compress.heads.share_weights(...).pack()` or a file.

        Raises:
            ShapeError, DtypeError: the bias is not (n_out,) float32.
            FormatError: the tensors are no EIE matrix.
        """
        matrix.checked()
        made = cls(
            matrix.n_in,
            matrix.n_out,
            bias is not None,
            widths=matrix.format,
            mode=mode,
            with_relu=with_relu,
            skips_zeros=skips_zeros,
        )
        made._hold(matrix)
        if bias is not None:
            check_shape("bias", bias, (matrix.n_out,))
            check_dtype("bias", bias, torch.float32)
            made.bias = bias.detach().clone()
        return made

    @classmethod
    def from_linear(
        cls,
        given: nn.Linear,
        *,
        widths: EIEFormat | None = None,
        mode: Mode = "sparse",
        with_relu: bool = False,
        skips_zeros: bool = True,
    ) -> "EIELinear":
        """A layer that computes what `given` does, whose weights share few values already; on its device.

        Args:
            given: pruned, and with a shared weight: `compress.heads.trained_centroids` leaves such a layer.
            widths: of the format; the chip's if None.
            mode: see the class.
            with_relu: whether a ReLU follows.
            skips_zeros: see the class.

        Raises:
            ShapeError, DtypeError: the weight is no float32 matrix.
            RangeError: it is not finite, or has more different values than the codebook holds.
        """
        matrix = pack_eie(*codes_of(given.weight, widths), widths)
        made = cls.from_matrix(matrix, given.bias, mode=mode, with_relu=with_relu, skips_zeros=skips_zeros)
        # packing is the host's
        return made.to(given.weight.device)

    @property
    def matrix(self) -> EIEMatrix:
        """The weight, on the CPU."""
        parts = {name: getattr(self, name).cpu() for name in _PARTS}
        return EIEMatrix(self.widths, self.out_features, self.in_features, **parts).trusted()

    @property
    def weight_token(self) -> object:
        """Another one once the weight is another: for who made a form of it."""
        self._see_changes()
        return self._token

    @property
    def skips_zeros(self) -> bool:
        """Whether activations are asked for zeros; a change forgets the layout and its measurements."""
        return self._skips_zeros

    @skips_zeros.setter
    def skips_zeros(self, skips: bool) -> None:
        if skips != self._skips_zeros:
            self._skips_zeros = skips
            self._layout = None
            self.forget_choices()

    @property
    def choices(self) -> tuple[Choice, ...]:
        """What was measured, by device and batch."""
        return self._choices.listed()

    def forget_choices(self) -> None:
        """Measure anew: on another machine, with another number of threads, for other activations."""
        self._choices.clear()

    @torch.no_grad()
    def choose_layout(self, x: Tensor) -> bool:
        """Time both layouts on activations like those to come, and keep the faster one.

        The two add in different orders. So nothing else asks for this but `sparsify_heads` in mode "auto",
        and state dicts and files hold what was found. A GPU has but one layout: nothing is timed there.

        Args:
            x: (..., in_features) float32; as many items as there will be in a batch.

        Returns:
            `skips_zeros` from now on; on a GPU as it was.

        Raises:
            ShapeError: another number of features, or no item.
            DtypeError: `x` is not float32.
            UnsupportedError, DeviceError: the device has no kernels.
        """
        if x.dim() < 1 or x.shape[-1] != self.in_features or x.numel() == 0:
            raise ShapeError(f"x must be items of {self.in_features} features, got shape {tuple(x.shape)}")
        if _by_rows(x.device, skips_zeros=True):
            return self.skips_zeros
        items = x.reshape(-1, self.in_features)
        layouts = {
            skips: eie_layout(self.matrix, x.device, by_rows=_by_rows(x.device, skips))
            for skips in (True, False)
        }
        products = {
            str(skips): partial(eie_linear, items, layout, self.bias, relu=self.with_relu)
            for skips, layout in layouts.items()
        }
        taken = time_in_turns(products, runs=_RUNS, settle=1, device=x.device)
        self.skips_zeros = taken[str(True)].median < taken[str(False)].median
        self._layout = layouts[self.skips_zeros]
        return self.skips_zeros

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), float32.

        Raises:
            ShapeError: another number of features.
            DtypeError: `x` is not float32.
            FormatError: buffers were changed in place, and are no EIE matrix any more.
            UnsupportedError: `x` wants a gradient; or mode "sparse", and the device has no kernels.
        """
        refuse_gradients(x=x)
        if x.dim() < 1 or x.shape[-1] != self.in_features:
            raise ShapeError(f"x must have {self.in_features} features, got shape {tuple(x.shape)}")
        if x.is_meta:
            # for who asks for shapes alone, as `nn.prepare`
            check_dtype("x", x, torch.float32)
            return x.new_empty((*x.shape[:-1], self.out_features))
        items = x if x.dim() == 2 else x.reshape(x.shape[:-1].numel(), self.in_features)
        out = self._sparse_product(items) if self._way(items) == "sparse" else self._dense_product(items)
        return out if x.dim() == 2 else out.reshape(*x.shape[:-1], self.out_features)

    def layout(self, device: torch.device) -> EIELayout:
        """The weight as the kernels of `device` read it; made once."""
        self._see_changes()
        layout = self._layout
        if layout is None or layout.tensors[0].device != device:
            if torch.compiler.is_compiling():
                raise UnsupportedError(
                    "a layer in EIE's format is laid out when it first runs, which cannot be compiled; "
                    "call it once before torch.compile"
                )
            by_rows = _by_rows(device, self._skips_zeros)
            self._layout = layout = eie_layout(self.matrix, device, by_rows=by_rows)
        return layout

    def dense_weight(self) -> Tensor:
        """(n_out, n_in) float32, where the layer is; made once and held."""
        self._see_changes()
        dense = self._dense
        if dense is None or dense.device != self.codebook.device:
            self._dense = dense = self.matrix.to_dense().to(self.codebook.device)
        return dense

    def release_dense(self) -> None:
        """Let the dense weight go until it is asked for again."""
        self._dense = None

    def release_layout(self) -> None:
        """Let what the kernels read go until they run again."""
        self._layout = None

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also of modules that were pickled before changed buffers were seen."""
        super().__setstate__(state)
        self.__dict__.pop("weight_token", None)
        self._seen, self._token = None, object()

    def __getstate__(self) -> dict[str, Any]:
        """Without the forms that are made from the format: another version may make them otherwise."""
        return {**self.__dict__, "_layout": None, "_dense": None, "_seen": None}

    def _way(self, items: Tensor) -> Way:
        if self.mode not in _MODES:
            raise RangeError(f"mode must be one of {', '.join(_MODES)}, got {self.mode!r}")
        if self.mode != "auto":
            return self.mode
        if len(items) == 0:
            # nothing to measure, and nothing to remember for batches that are something
            return "dense"
        choice = self._choices.find(items.device, len(items))
        if choice is None:
            if torch.compiler.is_compiling():
                # nothing can be timed while a graph is traced
                return "sparse"
            products: dict[Way, Callable[[], Tensor]] = {
                "dense": lambda: self._dense_product(items),
                "sparse": lambda: self._sparse_product(items),
            }
            try:
                self.layout(items.device)
                choice = measure(products, items.device, len(items))
            except (UnsupportedError, DeviceError) as error:
                device, bucket = str(items.device), bucket_of(len(items))
                choice = Choice(device, bucket, "dense", refused=str(error))
            self._choices.keep(choice)
            if all(other.way == "sparse" for other in self.choices):
                self.release_dense()
            elif all(other.way == "dense" for other in self.choices):
                self.release_layout()
        return choice.way

    def _sparse_product(self, items: Tensor) -> Tensor:
        # past `Module.__getattr__`, which takes a microsecond to find a buffer
        bias = self._buffers["bias"]
        return eie_linear(items, self.layout(items.device), bias, relu=self.with_relu)

    def _dense_product(self, items: Tensor) -> Tensor:
        check_dtype("x", items, torch.float32)
        out = linear_as_stored(items, self.dense_weight(), self.bias)
        return relu(out) if self.with_relu else out

    def _hold(self, matrix: EIEMatrix) -> None:
        for name in _PARTS:
            self.register_buffer(name, getattr(matrix, name).clone())
        self._forget_forms()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "EIELinear":
        """Moves; conversions leave the layer in float32, the only dtype that it computes in."""
        kept = {name: getattr(self, name) for name in ("codebook", "bias")}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            now = getattr(self, name)
            if now is not None and now.dtype != torch.float32:
                setattr(self, name, before.to(now.device))
        self._forget_forms()
        return self

    def _forget_forms(self) -> None:
        self._layout = self._dense = self._seen = None
        self._token = object()

    def _see_changes(self) -> None:
        """Forget what was made of buffers that are others now.

        Raises:
            FormatError: they are no EIE matrix any more.
        """
        if is_traced():
            return
        own = self._buffers
        buffers = [each for name in _PARTS if (each := own[name]) is not None]
        if self._seen is not None and self._seen.are(buffers):
            return
        if self._seen is not None:
            # whoever changed them may have left what kernels cannot read
            parts = {name: getattr(self, name).detach().cpu() for name in _PARTS}
            EIEMatrix(self.widths, self.out_features, self.in_features, **parts).checked()
            self._forget_forms()
        self._seen = SeenBuffers.of(buffers)

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
        """A layer of these sizes may hold any number of weights; its state is checked as a file is."""
        given = {name: state_dict[prefix + name] for name in _PARTS if prefix + name in state_dict}
        if given:
            # parts that are missing stay, if the whole is a matrix
            parts = {name: given.get(name, getattr(self, name)).detach().cpu() for name in _PARTS}
            matrix = EIEMatrix(self.widths, self.out_features, self.in_features, **parts).checked()
            device = self.codebook.device
            self._hold(matrix)
            for name in _PARTS:
                self.register_buffer(name, getattr(self, name).to(device))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def get_extra_state(self) -> Tensor:
        """The choices, and the layout that they are for."""
        return self._choices.to_state(skips_zeros=self.skips_zeros)

    def set_extra_state(self, state: Any) -> None:
        """Take over stored choices, and their layout.

        Raises:
            FormatError: they are of another version, or damaged.
        """
        facts = self._choices.take_state(state)
        # older versions did not store it
        skips = bool(facts.get("skips_zeros", self._skips_zeros))
        if skips != self._skips_zeros:
            self._skips_zeros, self._layout = skips, None

    def extra_repr(self) -> str:
        """Sizes, format, mode and choices."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        share = len(self.codes) / max(self.in_features * self.out_features, 1)
        rest = f"bias={self.bias is not None}, with_relu={self.with_relu}, mode={self.mode}"
        rest += "" if self.skips_zeros else ", skips_zeros=False"
        entries = f"entries={len(self.codes)} ({100 * share:.1f} %), {self.widths}"
        return "\n".join([f"{sizes}, {rest}, {entries}", *map(str, self.choices)])
