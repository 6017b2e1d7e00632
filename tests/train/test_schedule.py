"""The learning rate by step, and which parameters decay."""

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from pcsparse.train.schedule import build_optimizer, lr_factor, set_lr
from pcsparse.train.settings import OptimSettings, ScheduleSettings
from tests.streets import tiny_model


@pytest.mark.parametrize("n_steps", [2, 10, 137])
def test_onecycle_is_that_of_torch(n_steps):
    settings = ScheduleSettings("onecycle", warmup=0.3, start=0.04, final=0.001)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    # torch warms up over pct_start * n_steps - 1 steps, this over warmup * (n_steps - 1)
    pct_start = (0.3 * (n_steps - 1) + 1) / n_steps
    scheduler = OneCycleLR(
        optimizer, 1.0, n_steps, pct_start=pct_start, div_factor=25, final_div_factor=40, cycle_momentum=False
    )
    for step in range(n_steps):
        assert lr_factor(step, n_steps, settings) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        if step < n_steps - 1:
            scheduler.step()


@pytest.mark.parametrize("name", ["onecycle", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("n_steps", [1, 2, 100])
def test_every_schedule_rises_to_its_peak_and_falls(name, warmup, n_steps):
    settings = ScheduleSettings(name, warmup=warmup, start=0.1, final=0.01)
    factors = [lr_factor(step, n_steps, settings) for step in range(n_steps)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    if n_steps == 100 and warmup < 1:
        assert max(factors) > 0.99
        assert factors[-1] == pytest.approx(1.0 if name == "constant" else 0.01)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_biases_and_normalisation_do_not_decay(name):
    model = tiny_model()
    optimizer = build_optimizer(model, OptimSettings(name, weight_decay=0.1))
    decaying = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    free = {id(p) for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]}
    assert not decaying & free
    names = dict(model.named_parameters())
    assert len(decaying) + len(free) == len(names)
    for parameter in names.values():
        assert (id(parameter) in decaying) == (parameter.dim() > 1)
    set_lr(optimizer, 0.125)
    assert {group["lr"] for group in optimizer.param_groups} == {0.125}
