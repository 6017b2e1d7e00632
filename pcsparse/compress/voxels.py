"""Voxel pruning: rows with small features skip the convolution, and their pairs are not in its map.

All voxels stay: a row that is not convolved hands on what it got, so that a segmentation still labels every
point. The work falls with the pairs, the memory does not.

Source: SPSS-Conv of Liu et al., NeurIPS 2022 (arXiv 2209.14201), whose release computes all rows and
overwrites some.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from pcsparse.errors import RangeError, UnsupportedError
from pcsparse.nn import SubmanifoldConv3d
from pcsparse.nn.conv import SparseConv
from pcsparse.ops.importance import check_share

Shares = float | Mapping[str, float]
"""The share of rows that are convolved, in (0, 1]: of every layer that can, or by name of the layer."""


def voxel_layers(model: nn.Module) -> dict[str, SubmanifoldConv3d]:
    """Convolutions whose rows can pass, by name: submanifold, larger than 1^3, c_in = c_out, one group."""
    parts = ((name, part) for name, part in model.named_modules() if isinstance(part, SubmanifoldConv3d))
    return {name: part for name, part in parts if _refusal(part) is None}


def _refusal(part: nn.Module) -> str | None:
    """Why rows cannot pass a module, or None."""
    if not isinstance(part, SparseConv):
        return f"it is a {type(part).__name__}, no convolution"
    if not isinstance(part, SubmanifoldConv3d) and part.relation.is_partition:
        return "it ties each fine voxel to one coarse voxel: none dilates, so nothing can be left out"
    if not isinstance(part, SubmanifoldConv3d):
        return (
            "its outputs are other voxels than its inputs, so that no row can pass (levels that hang on "
            "features, as of SPRS-Conv, are not made)"
        )
    if part.c_in != part.c_out:
        return f"it reads {part.c_in} channels and writes {part.c_out}, so that no row can pass"
    if part.groups > 1:
        return f"it has {part.groups} groups"
    if part.relation.volume == 1:
        return "its 1^3 kernel has one pair a row"
    if part.folded and part.through_scale is None:
        return "a norm is folded into it, which rows that pass would miss; prune before fuse"
    return None


def layer_shares(model: nn.Module, share: Shares) -> dict[str, float]:
    """The share of each layer that is named, or of all that can, checked.

    Raises:
        RangeError: no such layer, or a share outside (0, 1].
        UnsupportedError: a layer whose rows cannot pass; the text says why.
    """
    able = voxel_layers(model)
    shares = dict(share) if isinstance(share, Mapping) else dict.fromkeys(able, float(share))
    parts = dict(model.named_modules())
    for name, value in shares.items():
        if name not in parts:
            raise RangeError(f"there is no layer {name!r}; rows can pass {', '.join(able) or 'none'}")
        refusal = _refusal(parts[name])
        if refusal is not None:
            raise UnsupportedError(
                f"rows cannot pass {name}: {refusal}; they can pass {', '.join(able) or 'no layer'}"
            )
        check_share(value)
    return {name: float(value) for name, value in shares.items()}


def prune_voxels(model: nn.Module, share: Shares) -> nn.Module:
    """The same network with the same weights, in which some layers convolve a share of their rows.

    Args:
        model: built from a Spec that has `with_voxels`; it is not changed.
        share: see `Shares`; layers that are not named keep theirs.

    Returns:
        A new network of the same class, with `spec` of its own; dtype, device and mode are those of `model`.
        Batch norms keep the statistics of the whole network: `finetune.recalibrate` renews them. Tuned plans
        are not taken over.

    Raises:
        RangeError: no such layer, or a share outside (0, 1].
        UnsupportedError: a layer whose rows cannot pass, no such Spec, or other layers than its Spec's.
    """
    spec: Any = getattr(model, "spec", None)
    if not hasattr(spec, "with_voxels"):
        raise UnsupportedError(
            f"{type(model).__name__} has no Spec with a method with_voxels; give voxels= to its "
            "SubmanifoldConv3d where it is built"
        )
    for name, part in model.named_modules():
        if is_parametrized(part):
            raise UnsupportedError(f"the weights of {name} are made by a parametrisation; remove it first")
    kinds: Any = type(model)
    with torch.device("meta"):
        pruned: nn.Module = kinds(spec.with_voxels(layer_shares(model, share)))
    # nothing of the new network shares memory with the old one
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    wanted = {name: tensor.shape for name, tensor in pruned.state_dict().items()}
    if wanted != {name: tensor.shape for name, tensor in state.items()}:
        raise UnsupportedError(
            f"the layers of {type(model).__name__} are not those of its Spec; prune a network before fuse, "
            "and before its layers are replaced"
        )
    pruned.load_state_dict(state, strict=True, assign=True)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in pruned.named_parameters():
        parameter.requires_grad_(flags[name])
    return pruned.train(model.training)
