"""Small heads, and a problem that they learn in a second."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def mlp(seed: int = 0) -> nn.Sequential:
    """A classification head with batch norms, 24 features to 4 classes."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(24, 32), nn.BatchNorm1d(32), nn.ReLU(),
        nn.Linear(32, 32), nn.BatchNorm1d(32), nn.ReLU(),
        nn.Linear(32, 4),
    )  # fmt: skip


class BevNet(nn.Module):
    """A backbone, here one convolution, and a head on its map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.ModuleDict(
            {
                "shared": nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)),
                "heat": nn.Conv2d(16, 5, 1),
                "box": nn.Conv2d(16, 8, 3, stride=2, padding=2, dilation=2),
            }
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shared = self.head["shared"](self.stem(x).relu()).relu()
        return self.head["heat"](shared), self.head["box"](shared)


def bev(seed: int = 0) -> BevNet:
    torch.manual_seed(seed)
    model = BevNet()
    with torch.no_grad():
        model(torch.randn(4, 3, 8, 8))
    return model


def problem(n: int = 800) -> tuple[Callable[[nn.Module], None], Callable[[nn.Module], float]]:
    """Four classes, told apart by distances to prototypes: `fit` and `evaluate`, on different points."""
    rng = torch.Generator().manual_seed(5)
    prototypes = torch.randn(12, 24, generator=rng)
    sets = []
    for _ in range(2):
        which = torch.randint(0, 12, (n,), generator=rng)
        sets.append((prototypes[which] + 0.9 * torch.randn(n, 24, generator=rng), which % 4))
    (x, y), (held_x, held_y) = sets

    def fit(model: nn.Module) -> None:
        model.train()
        optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(60):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimiser.step()

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(held_x).argmax(dim=1) == held_y).double().mean())

    return fit, evaluate
