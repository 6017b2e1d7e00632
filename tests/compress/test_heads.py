"""Pruning by magnitude, shared weights, and training of centroids."""

import numpy as np
import pytest
import torch
from torch import nn

from pcsparse.compress.heads import keep_largest, share_weights, train_centroids, trained_centroids
from pcsparse.errors import DtypeError, RangeError, ShapeError, UnsupportedError


def sparse(rng: torch.Generator, n_out: int = 60, n_in: int = 80, density: float = 0.2) -> torch.Tensor:
    weight = torch.randn(n_out, n_in, generator=rng)
    return weight * keep_largest(weight, density)


def test_the_largest_weights_stay():
    weight = torch.tensor([[0.1, -3.0, 2.0], [-0.2, 0.0, 1.0]])
    assert keep_largest(weight, 0.5).tolist() == [[False, True, True], [False, False, True]]
    assert not keep_largest(weight, 0.0).any()
    assert keep_largest(weight, 1.0).all()


def test_of_equal_weights_the_first_stay():
    assert keep_largest(torch.ones(6), 0.5).tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("density", [-0.1, 1.1, float("nan")])
def test_a_density_is_a_share(density):
    with pytest.raises(RangeError, match="density must be a share"):
        keep_largest(torch.ones(3), density)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("initial", ["linear", "density", "random"])
def test_each_weight_takes_its_nearest_centroid(rng, bits, initial):
    weight = sparse(rng)
    shared = share_weights(weight, code_bits=bits, initial=initial)

    assert shared.codes.dtype == torch.uint8
    assert shared.codebook.shape == (1 << bits,)
    assert float(shared.codebook[0]) == 0.0
    assert torch.equal(shared.codes == 0, weight == 0)
    # exhaustively: no other centroid is nearer
    used = shared.codebook[1 : 1 + int(shared.codes.max())]
    kept = weight[weight != 0]
    nearest = (kept[:, None] - used).abs().amin(dim=1)
    assert torch.equal((kept - shared.to_dense()[weight != 0]).abs(), nearest)


@pytest.mark.parametrize("initial", ["linear", "density", "random"])
def test_each_centroid_is_the_mean_of_its_members(rng, initial):
    weight = sparse(rng, 200, 100)
    shared = share_weights(weight, initial=initial)
    for code in shared.codes.unique().tolist():
        if code:
            members = weight[shared.codes == code].double()
            assert float(shared.codebook[code]) == pytest.approx(float(members.mean()), rel=1e-6)


def test_rounds_of_lloyd_beat_where_they_start(rng):
    weight = sparse(rng, 200, 100)
    kept = weight[weight != 0]
    start = torch.linspace(float(kept.min()), float(kept.max()), 15)
    before = (kept[:, None] - start).abs().amin(dim=1).square().sum()
    after = (weight - share_weights(weight).to_dense()).square().sum()
    assert float(after) < 0.8 * float(before)


def test_the_distortion_is_near_the_best_that_exists(rng):
    # a dynamic program over sorted weights gives the least sum of squares for 3 centroids
    values = np.sort(np.random.default_rng(3).normal(size=60))
    s1, s2 = np.append(0, np.cumsum(values)), np.append(0, np.cumsum(values**2))

    def cost(i: int, j: int) -> float:
        return s2[j] - s2[i] - (s1[j] - s1[i]) ** 2 / (j - i)

    best = min(cost(0, a) + cost(a, b) + cost(b, 60) for a in range(1, 59) for b in range(a + 1, 60))
    weight = torch.from_numpy(values).float()[None]
    found = float((weight - share_weights(weight, code_bits=2).to_dense()).square().sum())
    assert best * (1 - 1e-4) <= found <= 1.35 * best


def test_few_different_weights_stay_as_they_are(rng):
    values = torch.tensor([-2.0, -0.5, 0.25, 3.0])
    weight = values[torch.randint(0, 4, (30, 20), generator=rng)]
    weight[torch.rand(30, 20, generator=rng) < 0.5] = 0
    assert torch.equal(share_weights(weight).to_dense(), weight)
    assert torch.equal(share_weights(torch.zeros(3, 4)).to_dense(), torch.zeros(3, 4))


def test_shared_weights_survive_the_packed_format(rng):
    shared = share_weights(sparse(rng))
    assert torch.equal(shared.pack().to_dense(), shared.to_dense())


@pytest.mark.parametrize(
    ("weight", "options", "error", "text"),
    [
        (torch.ones(3), {}, ShapeError, "weight must have shape"),
        (torch.ones(3, 3).double(), {}, DtypeError, "weight must be float32"),
        (torch.full((3, 3), float("nan")), {}, RangeError, "9 of 9 weights are not finite"),
        (torch.ones(3, 3), {"code_bits": 9}, RangeError, "code_bits must be 1 to 8, got 9"),
        (torch.randn(9, 9), {"initial": "best"}, RangeError, "initial must be"),
    ],
)
def test_wrong_input_is_refused(weight, options, error, text):
    with pytest.raises(error, match=text):
        share_weights(weight, **options)


def test_a_centroid_moves_by_the_sum_of_its_members_gradients(rng):
    linear = nn.Linear(80, 60)
    shared = share_weights(sparse(rng))
    train_centroids(linear, shared)
    (centroids,) = [p for name, p in linear.named_parameters() if "weight" in name]
    assert torch.equal(linear.weight, shared.to_dense())

    x, grad = torch.randn(7, 80, generator=rng), torch.randn(7, 60, generator=rng)
    linear(x).backward(grad)
    dense = grad.T @ x
    for code in range(1, 16):
        expected = float(dense[shared.codes == code].double().sum())
        assert float(centroids.grad[code - 1]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_training_keeps_zeros_and_sharing_and_lowers_the_loss(rng):
    linear = nn.Linear(80, 60)
    shared = share_weights(sparse(rng), code_bits=2)
    train_centroids(linear, shared)
    x = torch.randn(200, 80, generator=rng)
    target = x @ sparse(rng).T
    optimiser = torch.optim.SGD(linear.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = (linear(x) - target).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]

    before = linear.weight.detach().clone()
    after = trained_centroids(linear)
    assert torch.equal(after.codes, shared.codes)
    assert not torch.equal(after.codebook, shared.codebook)
    assert torch.equal(after.to_dense(), before)
    assert torch.equal(linear.weight, before)
    assert len(linear.state_dict()) == 2


def test_only_layers_with_shared_weights_have_them(rng):
    with pytest.raises(RangeError, match="call train_centroids first"):
        trained_centroids(nn.Linear(3, 3))
    with pytest.raises(ShapeError, match=r"shared\.codes must have shape"):
        train_centroids(nn.Linear(3, 3), share_weights(sparse(rng)))


def test_a_weight_is_parametrised_once(rng):
    linear = nn.Linear(80, 60)
    train_centroids(linear, share_weights(sparse(rng)))
    with pytest.raises(UnsupportedError, match="parametrised already; call trained_centroids"):
        train_centroids(linear, share_weights(sparse(rng)))


def test_centroids_that_ran_away_are_refused(rng):
    linear = nn.Linear(80, 60)
    train_centroids(linear, share_weights(sparse(rng)))
    with torch.no_grad():
        linear.parametrizations.weight.original[0] = float("inf")
    with pytest.raises(RangeError, match="1 of 15 weights are not finite"):
        trained_centroids(linear)
