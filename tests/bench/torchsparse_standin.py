"""What `bench.device.peer_torchsparse` asks of TorchSparse++ 2.1, slow and from the definitions.

Written from the library's sources: one module stands for `torchsparse`, `torchsparse.nn` and
`torchsparse.nn.functional`. Weights of an odd number of offsets run x fastest, of an even one z fastest;
outputs outside of the grid are dropped; a transposed layer reads the map of the way down and needs to know
the coordinates of the level above it.
"""

import itertools
from types import SimpleNamespace

import torch
from torch import nn

__version__ = "2.1.0"
backends = SimpleNamespace(allow_tf32=True, hash_rsv_ratio=2)


class Settings(dict):
    def __getattr__(self, name):
        return self[name]

    def __setattr__(self, name, value):
        self[name] = value

    def copy(self):
        return Settings(self)


_DEFAULT = Settings(
    dataflow="implicit gemm", ifsort=False, kmap_mode="hashmap_on_the_fly", downsample_mode="spconv",
    split_mask_num=1, split_mask_num_bwd=3,
)  # fmt: skip
conv_config = SimpleNamespace(get_default_conv_config=lambda: _DEFAULT)


class SparseTensor:
    def __init__(self, feats, coords, stride=1, spatial_range=None):
        self.feats, self.coords, self.spatial_range = feats, coords, spatial_range
        self.stride = (stride,) * 3 if isinstance(stride, int) else stride
        self._caches = SimpleNamespace(cmaps={}, kmaps={}, hashmaps={})


def build_kernel_map(
    coords, input_node_num, kernel_size, stride, padding, *, spatial_range, mode, dataflow, downsample_mode
):
    """Output coordinates, their grid, and (rows in, rows out) of every weight."""
    assert (len(coords), mode, downsample_mode) == (input_node_num, "hashmap_on_the_fly", "spconv")
    step, pad, edge = (torch.tensor(given) for given in (stride, padding, kernel_size))
    size = (torch.tensor(spatial_range[1:]) + 2 * pad - edge) // step + 1
    taps = list(itertools.product(*map(range, kernel_size)))
    if len(taps) % 2:
        taps.sort(key=lambda tap: tap[::-1])
    # one number a voxel
    weights = torch.tensor([size.prod(), size[1] * size[2], size[2], 1])
    reached = []
    for tap in taps:
        at = coords[:, 1:] + pad - torch.tensor(tap)
        out = torch.div(at, step, rounding_mode="floor")
        inside = ((at % step == 0) & (out >= 0) & (out < size)).all(dim=1)
        code = (torch.cat([coords[:, :1], out], dim=1) * weights).sum(dim=1)
        reached.append((inside.nonzero()[:, 0], code[inside]))
    # those of a strided layer as of a hash: any order, and not that of keys
    outputs = (coords * weights).sum(dim=1) if set(stride) == {1} else _codes(reached)
    if len(outputs) > max(512, backends.hash_rsv_ratio * len(coords)):
        raise ValueError("The capacity of hashtable is not sufficient")
    ranked, order = outputs.sort()
    lists = []
    for rows, code in reached:
        place = torch.searchsorted(ranked, code).clamp(max=len(ranked) - 1)
        hit = ranked[place] == code
        lists.append((rows[hit], order[place[hit]]))
    cells = torch.stack(
        [outputs // weights[0], *(outputs // w % n for w, n in zip(weights[1:], size, strict=True))]
    )
    return cells.T.int(), (spatial_range[0], *size.tolist()), lists


def _codes(reached):
    return torch.cat([code for _, code in reached]).unique().flip(0)


class Conv3d(nn.Module):
    def __init__(self, in_channels, out_channels, kernel_size, stride, padding, transposed):
        super().__init__()
        self.kernel_size, self.stride, self.padding, self.transposed = (
            kernel_size,
            stride,
            padding,
            transposed,
        )
        volume = kernel_size[0] * kernel_size[1] * kernel_size[2]
        self.kernel = nn.Parameter(torch.randn(volume, in_channels, out_channels))
        self.register_parameter("bias", None)
        self._config = None

    def forward(self, x):
        level = x.stride
        if self.transposed:
            level = tuple(a // b for a, b in zip(x.stride, self.stride, strict=True))
        key, known = (level, self.kernel_size, self.stride), x._caches
        if not self.transposed and key not in known.kmaps:
            config = self._config
            known.kmaps[key] = build_kernel_map(
                x.coords, len(x.coords), self.kernel_size, self.stride, self.padding,
                spatial_range=x.spatial_range, mode=config.kmap_mode, dataflow=config.dataflow,
                downsample_mode=config.downsample_mode,
            )  # fmt: skip
        coords, size, lists = known.kmaps[key]
        stride = tuple(a * b for a, b in zip(x.stride, self.stride, strict=True))
        if self.transposed:
            (coords, size), stride = known.cmaps[level], level
            lists = [(rows_out, rows_in) for rows_in, rows_out in lists]
        out = x.feats.new_zeros(len(coords), self.kernel.shape[2])
        for weight, (rows_in, rows_out) in zip(self.kernel, lists, strict=True):
            # in the type of the features, whatever that of the weights
            out = out.index_add(0, rows_out, x.feats[rows_in] @ weight.to(x.feats.dtype))
        y = SparseTensor(out if self.bias is None else out + self.bias, coords, stride, size)
        y._caches = known
        known.cmaps.setdefault(y.stride, (coords, size))
        return y


def tune(model, data_loader, *, n_samples, save_dir, force_retune, tune_with_bwd, verbose, skip_warning):
    """Sorts in 2 splits; runs on emptied caches and writes the shared default, as the real one does."""
    assert model.training == tune_with_bwd == torch.is_grad_enabled()
    for x in data_loader[:n_samples]:
        for cache in vars(x._caches).values():
            cache.clear()
        with torch.autocast("cpu", enabled=False):
            out = model(x)
        if tune_with_bwd:
            out.backward(torch.ones_like(out))
    _DEFAULT.update(ifsort=True, split_mask_num=2)
    for module in model.modules():
        if isinstance(module, Conv3d):
            module._config = _DEFAULT.copy()
