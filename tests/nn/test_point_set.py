"""PointNet++'s levels on a GPU: the same as on a CPU, forward and backward."""

import torch

from pcsparse.nn.point_set import FeaturePropagation, GlobalAbstraction, PointSet, SetAbstraction
from tests.emulation import emulate
from tests.tolerance import tolerance


def test_levels_are_the_same_on_a_gpu(rng, monkeypatch):
    points, feats = torch.randn(70, 3, generator=rng), torch.randn(70, 2, generator=rng)
    batch = torch.randint(2, (70,), generator=rng)
    torch.manual_seed(3)
    down = SetAbstraction(6, [(0.8, 4), (1.6, 9)], [[(5, 7)], [(5, 8), (8, 4)]])
    up, whole = FeaturePropagation([(13, 6)]), GlobalAbstraction([(9, 5)])

    def results():
        given = feats.clone().requires_grad_()
        fine = PointSet(points, batch, given)
        coarse = down(fine)
        refined = up(coarse, fine)
        out = whole(refined, 2)
        (grad,) = torch.autograd.grad((out * torch.arange(10.0).view(2, 5)).sum(), given)
        return coarse.points, coarse.feats, refined.feats, out, grad

    expected = results()
    emulate(monkeypatch)
    found = results()
    assert torch.equal(found[0], expected[0])
    for got, same in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(got, same, **tolerance(torch.float32, 70, 128))
