"""A layer that has two ways to the same product, and takes the one that was measured to be faster."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pcsparse.errors import FormatError
from pcsparse.timing import time_in_turns

Way = Literal["sparse", "dense"]
_STATE_FORMAT = 1
# of each product when a layer measures; the median of fewer jumps on a shared machine
_RUNS = 11


@dataclass(frozen=True)
class Choice:
    """Which product a layer takes for batches of one size on one device.

    Attributes:
        device: as torch writes it.
        items: the largest batch that it is for, a power of two; half of it is for the choice before.
        way: "sparse" or "dense".
        dense: median seconds of the dense product; None where the sparse one was refused.
        sparse: of the sparse one.
        refused: why there is no sparse product; None where it was measured.
    """

    device: str
    items: int
    way: Way
    dense: float | None = None
    sparse: float | None = None
    refused: str | None = None

    def __str__(self) -> str:
        """One line with units."""
        where = f"{self.device}, batch {self.items}: {self.way}"
        if self.dense is None or self.sparse is None:
            return f"{where} ({self.refused})"
        return f"{where} (dense {1e3 * self.dense:.3f} ms, sparse {1e3 * self.sparse:.3f} ms)"


def bucket_of(n_items: int) -> int:
    """The smallest power of two that is not below `n_items`, at least 1."""
    return 1 << max(n_items - 1, 0).bit_length()


def measure(
    products: Mapping[Way, Callable[[], object]], device: torch.device, n_items: int, *, runs: int = _RUNS
) -> Choice:
    """Time both products in turns, without gradients.

    Args:
        products: by way; each call is one run.
        device: where they run.
        n_items: of the batch.
        runs: of each product.
    """
    with torch.no_grad():
        named: dict[str, Callable[[], object]] = dict(products.items())
        taken = time_in_turns(named, runs=runs, device=device)
    dense, sparse = taken["dense"].median, taken["sparse"].median
    way: Way = "sparse" if sparse < dense else "dense"
    return Choice(str(device), bucket_of(n_items), way, dense, sparse)


@dataclass
class Choices:
    """The choices of one layer, by device and batch; they travel in its state dict."""

    _by_key: dict[tuple[str, int], Choice] = field(default_factory=dict)

    def find(self, device: torch.device, n_items: int) -> Choice | None:
        """The choice for such a batch, if there is one."""
        return self._by_key.get((str(device), bucket_of(n_items)))

    def keep(self, choice: Choice) -> None:
        """Remember a choice, in the place of an earlier one for the same batches."""
        self._by_key[choice.device, choice.items] = choice

    def clear(self) -> None:
        """Forget all."""
        self._by_key.clear()

    def listed(self) -> tuple[Choice, ...]:
        """All, by device and batch."""
        # a copy: another thread may choose or forget meanwhile
        return tuple(choice for _, choice in sorted(self._by_key.copy().items(), key=lambda item: item[0]))

    def to_state(self, **facts: bool) -> Tensor:
        """Bytes of JSON in a tensor: so every way to store tensors stores them, too.

        Args:
            facts: what the layer was when it measured.
        """
        content = {"format": _STATE_FORMAT, "choices": [asdict(choice) for choice in self.listed()], **facts}
        return torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8).clone()

    def take_state(self, state: Any) -> dict[str, Any]:
        """Replace all by what `to_state` gave.

        Returns:
            The facts that it was given.

        Raises:
            FormatError: of another version, or damaged.
        """
        try:
            content = json.loads(bytes(state.cpu().tolist()))
            version, listed = content.pop("format"), content.pop("choices")
            if version != _STATE_FORMAT:
                raise FormatError(f"choices of format {version}; this version reads format {_STATE_FORMAT}")
            found = [Choice(**entry) for entry in listed]
            wrong = [c for c in found if c.way not in get_args(Way) or bucket_of(c.items) != c.items]
        except FormatError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"the stored choices of a layer cannot be read: {error}") from error
        if wrong:
            raise FormatError(f"the stored choices of a layer are none: {wrong[0]!r}")
        self._by_key = {(choice.device, choice.items): choice for choice in found}
        return dict(content)
