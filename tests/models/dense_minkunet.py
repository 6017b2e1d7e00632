"""MinkUNet written a second time, from its layer table, with dense convolutions of the oracle.

Only names of parameters tie it to the package.
"""

import torch
from torch import Tensor

from tests import oracle
from tests.oracle import Geometry

_EPS = 1e-5
_HALVE = Geometry((2, 2, 2), (2, 2, 2))


def logits(state: dict[str, Tensor], feats: Tensor, coords: Tensor, batch: int) -> Tensor:
    """(n, in_channels) -> (n, n_classes) in training mode: batch norm over the occupied voxels of a level."""

    def conv(x: Tensor, name: str, size: int) -> Tensor:
        weight, geometry = state[f"{name}.weight"], Geometry((size,) * 3)
        return oracle.sparse_conv(x, here(), weight, here(), geometry, batch=batch)

    def norm(x: Tensor, name: str) -> Tensor:
        return oracle.batch_norm(x, state[f"{name}.weight"], state[f"{name}.bias"], _EPS)

    def blocks(x: Tensor, stage: str) -> Tensor:
        count = len({name.split(".")[2] for name in state if name.startswith(f"{stage}.")})
        for i in range(count):
            block = f"{stage}.{i}"
            y = torch.relu(norm(conv(x, f"{block}.conv1", 3), f"{block}.norm1"))
            y = norm(conv(y, f"{block}.conv2", 3), f"{block}.norm2")
            if f"{block}.shortcut.0.weight" in state:
                x = norm(conv(x, f"{block}.shortcut.0", 1), f"{block}.shortcut.1")
            x = torch.relu(x + y)
        return x

    levels = [coords]

    def here() -> Tensor:
        return levels[-1]

    x = torch.relu(norm(conv(feats, "stem.0", 3), "stem.1"))
    x = torch.relu(norm(conv(x, "stem.2", 3), "stem.3"))
    skips = []
    for i in range(4):
        skips.append(x)
        fine = here()
        levels.append(torch.tensor(sorted(oracle.touched(fine, _HALVE)), dtype=torch.int32).view(-1, 4))
        x = oracle.sparse_conv(x, fine, state[f"down.{i}.0.weight"], here(), _HALVE, batch=batch)
        x = blocks(torch.relu(norm(x, f"down.{i}.1")), f"encoder.{i}")
    for i in range(4):
        coarse = levels.pop()
        weight = state[f"up.{i}.0.weight"]
        x = oracle.sparse_conv(x, coarse, weight, here(), _HALVE, batch=batch, transposed=True)
        x = torch.relu(norm(x, f"up.{i}.1"))
        x = blocks(torch.cat([x, skips.pop()], dim=1), f"decoder.{i}")
    return x @ state["classifier.weight"].T + state["classifier.bias"]
