"""The map of some outputs, kept with the mask that tells them: a backward pass finds what forward made."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pcsparse.coords.kernel_map import KernelMap
from pcsparse.coords.map_header import Owner, edits
from pcsparse.lack_of_memory import raise_with_sizes


@dataclass(frozen=True, eq=False)
class _Kept:
    """What was made of a mask: out of which map, and of which version of the mask (`Owner.edits`)."""

    source: Owner
    whole: int | None
    kmap: KernelMap


def kept_outputs(kmap: KernelMap, mask: Tensor, whole: int | None = None) -> KernelMap:
    """`kmap.keep_outputs(mask, whole)`, made once for a mask. Who drops the mask drops the map with it.

    Args:
        kmap: the whole map.
        mask: (kmap.n_out,) bool.
        whole: an offset whose pairs all stay, or None.

    Raises:
        RangeError: there is no offset `whole`.
        ShapeError: `mask` is not (n_out,).
        DtypeError: `mask` is not bool.
        DeviceError: `mask` is not where the map is.
        OutOfMemoryError: the device's memory does not suffice.
    """
    try:
        return _kept_outputs(kmap, mask, whole)
    except (RuntimeError, MemoryError) as error:
        raise_with_sizes(error, lambda: f"the map of {kmap.volume} offsets to some of {kmap.n_out} voxels")


def _kept_outputs(kmap: KernelMap, mask: Tensor, whole: int | None) -> KernelMap:
    if mask.is_inference():
        # such a tensor does not count its edits, so that what is kept for it could be stale
        return kmap.keep_outputs(mask, whole)
    known: _Kept | None = getattr(mask, "kept_outputs", None)
    if known is not None and known.whole == whole:
        source = known.source
        if source.kernel_map() is kmap and source.edits == edits([mask]):
            return known.kmap
    with torch.inference_mode(False):
        found = kmap.keep_outputs(mask, whole)
    mask.kept_outputs = _Kept(Owner(kmap, edits([mask])), whole, found)  # type: ignore[attr-defined]
    return found
