"""Voxel pruning: rows with small features lose their neighbours' pairs, which are not in the layer's map.

All voxels stay, so that a segmentation still labels every point. A row that is not convolved is multiplied by
the weights of the kernel's centre alone, or hands on what it got. The work falls with the pairs, the memory
does not.

Source: SPSS-Conv of Liu et al., NeurIPS 2022 (arXiv 2209.14201), whose release computes all rows and
overwrites some with what they were. The centre is ours, see docs/adr/0028.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from pcsparse.compress.carry_over import build, fill, refuse_made
from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.nn import SubmanifoldConv3d
from pcsparse.nn.conv import Rest, SparseConv
from pcsparse.ops.importance import check_share

Shares = float | Mapping[str, float]
"""The share of rows that are convolved, in (0, 1]: of every layer that can do with some, or by its name."""


REST: Rest = "centre"
"""What becomes of rows that are not convolved where nobody says: more is left so (docs/adr/0028)."""
_CAN: dict[Rest, str] = {"pass": "rows can pass", "centre": "rows can be left out of"}


def check_rest(rest: str) -> None:
    """Raise RangeError unless `rest` is one of the two.

    Raises:
        RangeError: it is not.
    """
    if rest not in _CAN:
        raise RangeError(f"rest must be 'centre' or 'pass', got {rest!r}")


def voxel_layers(model: nn.Module, rest: Rest = REST) -> dict[str, SubmanifoldConv3d]:
    """Convolutions that need not convolve all rows, by name.

    They are submanifold, larger than 1^3 and of one group; where rows pass, with as many channels out as in,
    and where they keep their centre, with a centre.
    """
    parts = ((name, part) for name, part in model.named_modules() if isinstance(part, SubmanifoldConv3d))
    return {name: part for name, part in parts if _refusal(part, rest) is None}


def _refusal(part: nn.Module, rest: Rest) -> str | None:
    """Why a module must convolve all rows, or None."""
    if not isinstance(part, SparseConv):
        return f"it is a {type(part).__name__}, no convolution"
    if not isinstance(part, SubmanifoldConv3d) and part.relation.is_partition:
        return "it ties each fine voxel to one coarse voxel: none dilates, so nothing can be left out"
    if not isinstance(part, SubmanifoldConv3d):
        return (
            "its outputs are other voxels than its inputs, so that no row can be left out (levels that hang "
            "on features, as of SPRS-Conv, are not made)"
        )
    if rest == "pass" and part.c_in != part.c_out:
        return f"it reads {part.c_in} channels and writes {part.c_out}, so that no row can pass"
    if part.groups > 1:
        return f"it has {part.groups} groups"
    if part.relation.volume == 1:
        return "its 1^3 kernel has one pair a row"
    if rest == "centre" and part.centre is None:
        return "its kernel's centre was dropped"
    if rest == "pass" and part.folded and part.through_scale is None:
        return "a norm is folded into it, which rows that pass would miss; prune before fuse"
    if rest == "centre" and part.folded and part.voxels is None:
        return "a norm is folded into it, so that it is a layer of no Spec; prune before fuse"
    return None


def layer_shares(model: nn.Module, share: Shares, rest: Rest = REST) -> dict[str, float]:
    """The share of each layer that is named, or of all that can, checked.

    Raises:
        RangeError: no such layer, no such `rest`, or a share outside (0, 1].
        UnsupportedError: a layer that must convolve all rows; the text says why.
    """
    check_rest(rest)
    able = voxel_layers(model, rest)
    shares = dict(share) if isinstance(share, Mapping) else dict.fromkeys(able, float(share))
    parts = dict(model.named_modules())
    for name, value in shares.items():
        if name not in parts:
            raise RangeError(f"there is no layer {name!r}; {_CAN[rest]} {', '.join(able) or 'none'}")
        refusal = _refusal(parts[name], rest)
        if refusal is not None:
            raise UnsupportedError(
                f"{name} must convolve all rows: {refusal}; {_CAN[rest]} {', '.join(able) or 'no layer'}"
            )
        check_share(value)
    return {name: float(value) for name, value in shares.items()}


def prune_voxels(model: nn.Module, share: Shares, rest: Rest = REST) -> nn.Module:
    """The same network with the same weights, in which some layers convolve a share of their rows.

    Args:
        model: built from a Spec that has `with_voxels`; it is not changed.
        share: see `Shares`; layers that are not named keep theirs.
        rest: what becomes of the rows that are not convolved, see `nn.SubmanifoldConv3d`.

    Returns:
        A new network of the same class, with `spec` of its own; dtype, device and mode are those of `model`.
        Batch norms keep the statistics of the whole network: `finetune.recalibrate` renews them. Tuned plans
        are not taken over.

    Raises:
        RangeError: no such layer, no such `rest`, or a share outside (0, 1].
        UnsupportedError: a layer that must convolve all rows, no such Spec, or other layers than its Spec's.
    """
    spec: Any = getattr(model, "spec", None)
    if not hasattr(spec, "with_voxels"):
        raise UnsupportedError(
            f"{type(model).__name__} has no Spec with a method with_voxels; give voxels= to its "
            "SubmanifoldConv3d where it is built"
        )
    for name, part in model.named_modules():
        refuse_made(name, part)
    pruned = build(model, spec.with_voxels(layer_shares(model, share, rest), rest))
    # nothing of the new network shares memory with the old one
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    wanted = {name: tensor.shape for name, tensor in pruned.state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in state.items()}:
        raise UnsupportedError(
            f"the layers of {type(model).__name__} are not those of its Spec; prune a network before fuse, "
            "and before its layers are replaced"
        )
    return fill(pruned, model, state)
