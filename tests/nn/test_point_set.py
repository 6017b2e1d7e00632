"""PointNet++'s levels on a GPU: the same as on a CPU, forward and backward."""

from copy import deepcopy

import torch

from pcsparse.nn.point_set import FeaturePropagation, GlobalAbstraction, PointSet, SetAbstraction
from tests.emulation import emulate
from tests.tolerance import tolerance


def test_levels_are_the_same_on_a_gpu(device, rng, monkeypatch):
    points, feats = torch.randn(70, 3, generator=rng), torch.randn(70, 2, generator=rng)
    batch = torch.randint(2, (70,), generator=rng)
    torch.manual_seed(3)
    down = SetAbstraction(6, [(0.8, 4), (1.6, 9)], [[(5, 7)], [(5, 8), (8, 4)]])
    up, whole = FeaturePropagation([(13, 6)]), GlobalAbstraction([(9, 5)])
    layers = torch.nn.ModuleList([down, up, whole])

    def results(place):
        down, up, whole = deepcopy(layers).to(place)
        given = feats.to(place, copy=True).requires_grad_()
        fine = PointSet(points.to(place), batch.to(place), given)
        coarse = down(fine)
        refined = up(coarse, fine)
        out = whole(refined, 2)
        (grad,) = torch.autograd.grad((out.cpu() * torch.arange(10.0).view(2, 5)).sum(), given)
        return [part.cpu() for part in (coarse.points, coarse.feats, refined.feats, out, grad)]

    expected = results("cpu")
    if device.type == "cpu":
        emulate(monkeypatch)
    found = results(device)
    assert torch.equal(found[0], expected[0])
    for got, same in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(got, same, **tolerance(torch.float32, 70, 128))
