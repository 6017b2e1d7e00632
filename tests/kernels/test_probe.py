"""The multiply-add probe does the operations that it counts."""

import pytest
import torch

from pcsparse.kernels.cpu import probe


@pytest.mark.parametrize(("dtype", "lanes"), [(torch.float32, 16), (torch.float64, 8)], ids=str)
def test_counted_operations(dtype, lanes):
    chains = probe._CHAINS
    assert probe.fma_rounds(7, dtype) == 2 * lanes * chains * 7 * torch.get_num_threads()


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_chain_runs_every_step(steps, monkeypatch):
    seen = []
    rounds = probe._fma_rounds

    def spy(element, tag, factor, steps, sums):
        rounds(element, tag, factor, steps, sums)
        seen.append(sums.copy())

    monkeypatch.setattr(probe, "_fma_rounds", spy)
    probe.fma_rounds(steps)

    values = [float(chain) for chain in range(probe._CHAINS)]
    for _ in range(steps):
        values = [0.5 * value + 0.5 for value in values]
    assert seen[0].tolist() == pytest.approx([sum(values)] * torch.get_num_threads(), rel=1e-5)
