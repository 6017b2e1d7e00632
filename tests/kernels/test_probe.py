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


@pytest.mark.skipif(not probe.HAS_DOT, reason="this CPU has no bfloat16 dot product")
@pytest.mark.parametrize("steps", [1, 4])
def test_every_dot_product_adds_both_products_of_a_pair(steps, monkeypatch):
    seen = []
    rounds = probe._dot_rounds

    def spy(tag, pair, steps, sums):
        rounds(tag, pair, steps, sums)
        seen.append(sums.copy())

    monkeypatch.setattr(probe, "_dot_rounds", spy)
    operations = probe.dot_rounds(steps)

    chains, threads = probe._DOT_CHAINS, torch.get_num_threads()
    # 16 lanes of two multiplications and two additions each
    assert operations == 16 * 4 * chains * steps * threads
    # 0.5 * 0.5 twice a step
    assert seen[0].tolist() == [sum(range(chains)) + 0.5 * steps * chains] * threads
