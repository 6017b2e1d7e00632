"""Which peers are there on an accelerator."""

from collections.abc import Callable, Sequence

import torch

from pcsparse.bench.device.peer import SPCONV_LIKE, DevicePeer, SpconvPeer
from pcsparse.bench.device.peer_flex_gemm import FlexGemm
from pcsparse.bench.device.peer_torchsparse import TorchSparsePlus

PEERS = (*SPCONV_LIKE, "flex_gemm", "torchsparse")
_OTHERS: dict[str, Callable[[torch.device], DevicePeer]] = {
    "flex_gemm": FlexGemm,
    "torchsparse": TorchSparsePlus,
}


def device_peers(
    names: Sequence[str], device: torch.device
) -> tuple[list[DevicePeer], list[tuple[str, str]]]:
    """Those of `PEERS` that can be imported, and (name, why) of the others."""
    found: list[DevicePeer] = []
    absent = []
    for name in names:
        try:
            found.append(_OTHERS[name](device) if name in _OTHERS else SpconvPeer(name, device))
        # a wheel of another torch or CUDA fails in many ways at its import
        except Exception as error:
            absent.append((name, f"{type(error).__name__}: {error}".partition("\n")[0]))
    return found, absent
