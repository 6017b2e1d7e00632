"""MinkUNet: against a dense network, its published size, its Spec, and that it learns."""

import contextlib
import copy
import io

import pytest
import torch
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from pcsparse import SparseTensor, collate
from pcsparse.models import MinkUNet, MinkUNetSpec
from pcsparse.nn import ResidualBlock
from tests.clouds import CLOUDS, EMPTY_BETWEEN, TWO_BATCHES, UNSORTED, Cloud
from tests.models import dense_minkunet
from tests.tolerance import tolerance

# the narrowest layers have 2 channels
NARROW = MinkUNetSpec.minkunet14(in_channels=3, n_classes=5, width=1 / 16)


def _tensor(cloud: Cloud, rng, channels: int = 3, dtype=torch.float64) -> SparseTensor:
    feats = torch.randn(len(cloud.coords), channels, generator=rng, dtype=dtype, requires_grad=True)
    return SparseTensor(feats, cloud.coords, batch_size=cloud.batch_size)


def _network(spec: MinkUNetSpec) -> MinkUNet:
    torch.manual_seed(0)
    network = MinkUNet(spec)
    # scales and shifts of the norms that matter, so that no gradient is zero by accident
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1:
            torch.nn.init.uniform_(parameter, 0.5 if name.endswith("weight") else -0.5, 1.5)
    return network


@pytest.mark.parametrize("blocks", [(1, 1, 1, 1), (2, 1, 1, 1)], ids=["14", "two-blocks"])
def test_forward_and_all_gradients_are_those_of_a_dense_network(rng, blocks):
    spec = MinkUNetSpec.of(3, 5, width=1 / 16, encoder_blocks=blocks, decoder_blocks=(1, 1, 1, 1))
    network, cloud = _network(spec).double(), TWO_BATCHES
    x = _tensor(cloud, rng)
    state = dict(network.named_parameters())
    expected = dense_minkunet.logits(state, x.feats, x.coords, cloud.batch_size)
    y = network(x)
    grad_out = torch.randn(expected.shape, generator=rng, dtype=torch.float64)

    assert y.coords is x.coords
    # batch norm over a handful of voxels magnifies rounding
    close = tolerance(torch.float64, terms=10_000, factor=10_000)
    assert close["atol"] < 1e-8
    torch.testing.assert_close(y.feats, expected, **close)
    leaves = {"feats": x.feats} | state
    got = torch.autograd.grad(y.feats, list(leaves.values()), grad_out)
    wanted = torch.autograd.grad(expected, list(leaves.values()), grad_out)
    for name, mine, theirs in zip(leaves, got, wanted, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(
            mine,
            theirs,
            rtol=close["rtol"],
            atol=close["atol"] * scale,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    assert sum(bool(grad.any()) for grad in wanted) == len(leaves)


def test_the_published_size():
    with torch.device("meta"):
        network = MinkUNet(MinkUNetSpec.minkunet18())
    count = sum(parameter.numel() for parameter in network.parameters())

    assert round(count / 1e6, 1) == 21.7
    assert network.classifier.weight.shape == (19, 96)
    assert [block.conv1.weight.shape for block in network.decoder[0]] == [(27, 384, 256), (27, 256, 256)]


@pytest.mark.parametrize(
    ("make", "encoder", "decoder"),
    [
        (MinkUNetSpec.minkunet14, (1, 1, 1, 1), (1, 1, 1, 1)),
        (MinkUNetSpec.minkunet18, (2, 2, 2, 2), (2, 2, 2, 2)),
        (MinkUNetSpec.minkunet34, (2, 3, 4, 6), (2, 2, 2, 2)),
    ],
)
def test_block_counts(make, encoder, decoder):
    with torch.device("meta"):
        network = MinkUNet(make(width=0.25))
    for stages, counts in ((network.encoder, encoder), (network.decoder, decoder)):
        assert tuple(len(stage) for stage in stages) == counts
        assert all(isinstance(block, ResidualBlock) for stage in stages for block in stage)


@pytest.mark.parametrize(
    ("width", "channels"), [(1.0, (32, 256, 96)), (0.5, (16, 128, 48)), (1 / 16, (2, 16, 6))]
)
def test_width_ratio(width, channels):
    spec = MinkUNetSpec.minkunet18(width=width)
    assert (
        spec.stem[1].c_out,
        spec.encoder[3].blocks[-1].conv2.c_out,
        spec.decoder[3].blocks[-1].conv2.c_out,
    ) == channels
    with torch.device("meta"):
        MinkUNet(spec)


def test_state_dict_round_trip(rng):
    network, x = _network(NARROW).double(), _tensor(TWO_BATCHES, rng)
    network(x)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    file.seek(0)
    again = MinkUNet(copy.deepcopy(NARROW)).double()
    again.load_state_dict(torch.load(file, weights_only=True))

    assert torch.equal(again.eval()(x).feats, network.eval()(x).feats)


def test_a_spec_with_dropped_offsets_is_the_network_with_masked_weights(rng):
    network, x = _network(NARROW).double().eval(), _tensor(UNSORTED, rng)
    kept = {"stem.0": (0, 13, 14), "encoder.1.0.conv2": tuple(range(0, 27, 2)), "down.2.0": (0, 3, 7),
            "up.1.0": (1, 2), "decoder.3.0.conv1": (12, 13)}  # fmt: skip
    smaller = MinkUNet(_drop(NARROW, kept)).double().eval()
    sliced = network.state_dict()
    for name, offsets in kept.items():
        weight = sliced[f"{name}.weight"]
        dropped = [k for k in range(len(weight)) if k not in offsets]
        # in place: the whole network is masked by it
        weight[dropped] = 0
        sliced[f"{name}.weight"] = weight[list(offsets)]
    smaller.load_state_dict(sliced)

    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in network.parameters())
    close = tolerance(torch.float64, terms=1000, factor=64)
    torch.testing.assert_close(smaller(x).feats, network(x).feats, **close)


def _drop(spec: MinkUNetSpec, kept: dict[str, tuple[int, ...]]) -> MinkUNetSpec:
    """By way of the JSON, as a file would have it."""
    import json

    data = json.loads(spec.to_json())
    data["stem"][0]["offsets"] = kept["stem.0"]
    data["encoder"][1]["blocks"][0]["conv2"]["offsets"] = kept["encoder.1.0.conv2"]
    data["encoder"][2]["resample"]["offsets"] = kept["down.2.0"]
    data["decoder"][1]["resample"]["offsets"] = kept["up.1.0"]
    data["decoder"][3]["blocks"][0]["conv1"]["offsets"] = kept["decoder.3.0.conv1"]
    return MinkUNetSpec.from_json(json.dumps(data))


def test_one_small_batch_is_learnt_by_heart():
    rng = torch.Generator().manual_seed(1)
    x = _tensor(TWO_BATCHES, rng, dtype=torch.float32)
    targets = torch.randint(5, (len(x),), generator=rng)
    torch.manual_seed(0)
    network = MinkUNet(MinkUNetSpec.minkunet14(3, 5, width=0.25))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        optimiser.zero_grad()
        loss = functional.cross_entropy(network(x).feats, targets)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    assert losses[0] > 1.2
    assert losses[-1] < 0.1
    assert (network(x).feats.argmax(dim=1) == targets).float().mean() > 0.98


def test_autocast_trains_in_bfloat16(rng):
    network, x = _network(NARROW), _tensor(TWO_BATCHES, rng, dtype=torch.float32)
    exact = network(x).feats
    with torch.autocast("cpu", torch.bfloat16):
        out = network(x)
        loss = out.feats.float().square().mean()
    loss.backward()

    assert out.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in network.parameters())
    assert all(bool(p.grad.isfinite().all()) for p in network.parameters())
    # far too deep for a tight bound, but the same network
    assert functional.cosine_similarity(out.feats.float().flatten(), exact.flatten(), dim=0) > 0.9


@pytest.mark.parametrize("autocast", [False, True], ids=["wide", "autocast"])
@pytest.mark.parametrize("way", [contextlib.nullcontext, lambda: torch.device("cpu")], ids=["plain", "torch"])
def test_a_checkpoint_of_the_whole_network_changes_no_gradient(rng, way, autocast):
    feats = _tensor(TWO_BATCHES, rng, dtype=torch.float32).feats
    whole = _network(MinkUNetSpec.minkunet18(3, 5, 0.25)).float().train()
    twice = copy.deepcopy(whole)
    runs = ((whole, whole), (twice, lambda x: checkpoint(twice, x, use_reentrant=False)))
    for net, run in runs:
        # of its own cache: maps are made within the checkpoint, and are there when it is computed again
        x = SparseTensor(feats, TWO_BATCHES.coords, batch_size=TWO_BATCHES.batch_size)
        with way():
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                out = run(x).feats
            out.float().square().mean().backward()
        # as torch's norms: they see the cloud again when it is computed again
        norms = [buffer for name, buffer in net.named_buffers() if name.endswith("num_batches_tracked")]
        assert {int(count) for count in norms} == {1 if net is whole else 2}
    for wanted, found in zip(whole.parameters(), twice.parameters(), strict=True):
        assert torch.equal(wanted.grad, found.grad)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["empty", "one"])
def test_hardly_any_voxel_end_to_end(rng, name, training):
    network, x = _network(NARROW).double().train(training), _tensor(CLOUDS[name], rng)
    y = network(x)
    y.feats.sum().backward()

    n = len(CLOUDS[name].coords)
    assert y.feats.shape == (n, 5)
    assert bool(y.feats.isfinite().all())
    assert x.feats.grad.shape == (n, 3)
    grads = [parameter.grad for parameter in network.parameters()]
    assert all(grad is not None and bool(grad.isfinite().all()) for grad in grads)
    if n == 0:
        assert not any(grad.any() for grad in grads)


def test_a_batch_with_an_empty_cloud_trains(rng):
    network, x = _network(NARROW).double(), _tensor(EMPTY_BETWEEN, rng)
    y = network(x)
    y.feats.sum().backward()
    network.eval()
    y = network(x)

    assert y.batch_size == 3
    assert [len(y[i]) for i in range(3)] == [len(x[i]) for i in range(3)]
    assert len(y[1]) == 0
    torch.testing.assert_close(network(x[2]).feats, y[2].feats, **tolerance(torch.float64, 1000, factor=64))


def test_collated_clouds_train_as_one_batch(rng):
    network = _network(NARROW).double()
    clouds = [_tensor(CLOUDS[name], rng) for name in ("plane", "empty", "shell")]
    y = network(collate(clouds))
    y.feats.square().sum().backward()

    assert len(y) == sum(len(cloud) for cloud in clouds)
    assert clouds[2].feats.grad.any()
