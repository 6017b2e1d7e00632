"""The benchmark of EIE's layers: miniature runs, its JSON, and what a wrong product does."""

import json

import pytest
import torch

from pcsparse.bench import eie_layers
from pcsparse.bench.eie_layers import DENSE, OURS, SCIPY_CSR, TORCH_CSR, TORCH_CSR64, run_head_layer
from pcsparse.errors import RangeError
from pcsparse.hardware.eie_layers import EIE_LAYERS
from pcsparse.programs import bench_heads
from pcsparse.programs.bench_heads import main

# torch's compressed rows warn that they are new
pytestmark = pytest.mark.filterwarnings("ignore:Sparse:UserWarning")


@pytest.mark.slow
def test_a_quick_run_times_every_layer_and_library(tmp_path, capsys):
    out = tmp_path / "heads.json"
    assert main(["--quick", "--items", "1", "3", "--only", "NT", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.count("geometric mean") == 2 * 2 * 3
    assert "batch 3, caches warm; microseconds" in said
    results = json.loads(out.read_text())["results"]
    assert [(r["layer"]["name"], r["n_items"]) for r in results] == [
        (layer.name, n) for n in (1, 3) for layer in EIE_LAYERS if "NT" in layer.name
    ]
    for result in results:
        for times in (result["cold"], result["warm"]):
            assert set(times) == {OURS, DENSE, TORCH_CSR, TORCH_CSR64, SCIPY_CSR}
            assert all(time["median"] > 0 for time in times.values())
        assert all(check["error"] <= check["limit"] for check in result["checks"])


def test_counts_are_those_of_the_matrix():
    result = run_head_layer(EIE_LAYERS[2], 1, 1, scale=8, cache=1 << 16)
    n_in, n_out = EIE_LAYERS[2].n_in // 8, EIE_LAYERS[2].n_out // 8
    assert result.n_weights == pytest.approx(0.25 * n_in * n_out, rel=0.05)
    assert result.n_macs == pytest.approx(0.375 * result.n_weights, rel=0.15)
    assert result.bytes_csr == 8 * result.n_weights + 4 * (n_out + 1)
    assert result.bytes_layout < 2.5 * result.n_weights
    assert result.ratio(DENSE) == result.cold[DENSE].median / result.cold[OURS].median


def test_a_wrong_product_has_no_time_and_fails_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "mv", lambda weight, x: (weight @ x).flip(0))
    result = run_head_layer(EIE_LAYERS[6], 1, 1, scale=16, cache=1 << 16)
    assert not result.passed
    assert DENSE not in result.cold
    assert OURS in result.cold
    assert main(["--quick", "--only", "NT-We", "--out", str(tmp_path / "h.json")]) == 1
    assert "FAILED  NT-We: torch dense" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nothing_like_it"], r"no layer has 'nothing_like_it' in its name.*Alex-6, .*, NT-LSTM"),
        (["--items", "1", "0"], r"items=\[1, 0\]"),
        (["--runs", "0"], "runs=0"),
        (["--threads", "0"], "threads=0"),
    ],
)
def test_a_run_of_nothing_is_refused_before_any_work(tmp_path, monkeypatch, arguments, said):
    monkeypatch.setattr(bench_heads, "measure_limits", lambda: pytest.fail("work"))
    out = tmp_path / "heads.json"
    with pytest.raises(RangeError, match=said):
        main(["--quick", *arguments, "--out", str(out)])
    assert not out.exists()


def test_a_quick_run_takes_as_many_runs_as_it_is_told(tmp_path):
    out = tmp_path / "heads.json"
    assert main(["--quick", "--only", "NT-We", "--runs", "1", "--out", str(out)]) == 0
    (result,) = json.loads(out.read_text())["results"]
    assert {time["runs"] for time in (*result["cold"].values(), *result["warm"].values())} == {1}


def test_the_cache_is_asked_for(monkeypatch):
    assert eie_layers.cache_bytes() >= 1 << 18
    monkeypatch.setattr(eie_layers.Path, "glob", lambda *_: [])
    assert eie_layers.cache_bytes() == 32 << 20
