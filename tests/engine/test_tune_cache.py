"""Tables of tunings: buckets, files, foreign files, writers at once."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from pcsparse.engine import tune_cache
from pcsparse.engine.choice import Choice
from pcsparse.engine.gather_scatter import GatherScatterConfig
from pcsparse.engine.output_stationary import OutputStationaryConfig
from pcsparse.engine.problem import ConvProblem
from pcsparse.engine.tune_cache import Bucket, TuneTable, device_key, load_table, store_table, versions
from pcsparse.errors import DeviceError, FormatError
from pcsparse.kernels.map_ways import MapRule

PROBLEM = ConvProblem("cpu", torch.float32, 27, 16, 32, 1000, 1000, 5000, symmetric=True)
ODD = Choice("output_stationary", OutputStationaryConfig(tile=768))
GATHER = Choice("gather_scatter", GatherScatterConfig(0.3, 0))


def _table(choice: Choice = ODD, problem: ConvProblem = PROBLEM) -> TuneTable:
    return TuneTable.here("cpu", {(Bucket.of(problem), "forward"): choice})


@pytest.mark.parametrize(
    ("changes", "rows", "pairs"),
    [
        ({}, 10, 3),
        ({"n_out": 1023, "n_pairs": 1023 * 4}, 10, 3),
        ({"n_out": 1024, "n_pairs": 1024 * 8 - 1}, 11, 3),
        ({"n_pairs": 8000}, 10, 4),
        ({"n_pairs": 1000}, 10, 1),
        ({"n_pairs": 999}, 10, 0),
        ({"n_out": 0, "n_pairs": 0}, 0, 0),
        ({"n_out": 1, "n_pairs": 1}, 1, 1),
    ],
)
def test_sizes_share_a_bucket_by_powers_of_two(changes, rows, pairs):
    bucket = Bucket.of(replace(PROBLEM, **changes))
    assert (bucket.rows, bucket.pairs) == (rows, pairs)


@pytest.mark.parametrize(
    "changes",
    [{"k": 8}, {"c_in": 17}, {"c_out": 33}, {"dtype": torch.bfloat16}, {"symmetric": False},
     {"device": "cuda"}, {"n_out": 1024}, {"n_pairs": 8000}],
)  # fmt: skip
def test_other_problems_have_other_buckets(changes):
    other = replace(PROBLEM, **changes)
    assert Bucket.of(other) != Bucket.of(PROBLEM)
    assert _table().choice(other, "forward") is None


def test_a_pass_has_its_own_entry():
    assert _table().choice(PROBLEM, "forward") == ODD
    assert _table().choice(PROBLEM, "grad_feats") is None
    # input rows are no part of the bucket
    assert _table().choice(replace(PROBLEM, n_in=5), "forward") == ODD


def test_a_table_survives_its_file(tmp_path):
    path = tmp_path / "new" / "tuned.json"
    store_table(path, _table())

    assert load_table(path, "cpu") == _table()
    leftovers = [found.name for found in path.parent.iterdir() if found.name.endswith(".tmp")]
    assert not leftovers


def test_storing_keeps_what_is_there_and_the_newer_entry_wins(tmp_path):
    path = tmp_path / "tuned.json"
    other = replace(PROBLEM, c_out=64)
    store_table(path, _table())
    store_table(path, _table(GATHER, other))
    store_table(path, _table(Choice("output_stationary", OutputStationaryConfig(tile=300))))

    loaded = load_table(path, "cpu")
    assert loaded.choice(other, "forward") == GATHER
    assert loaded.choice(PROBLEM, "forward").config.tile == 300
    assert len(loaded.entries) == 2


def test_sections_of_other_machines_and_versions_are_kept_and_not_used(tmp_path, monkeypatch):
    path = tmp_path / "tuned.json"
    elsewhere = replace(_table(GATHER), device="another CPU; 64 threads")
    store_table(path, elsewhere)
    with pytest.raises(
        FormatError, match=r"no tuning for .* but for \[another CPU; 64 threads\].*run"
    ) as error:
        load_table(path, "cpu")
    assert device_key("cpu") in str(error.value)
    store_table(path, _table())

    assert load_table(path, "cpu") == _table()
    # the bits of that machine, on request
    assert load_table(path, "cpu", key="another CPU; 64 threads") == elsewhere

    # another version may know other configs: its choices stay as they are
    content = json.loads(path.read_text())
    content["sections"][0]["versions"]["torch"] = "99.0"
    content["sections"][0]["entries"][0]["choice"] = "unheard_of(x=1)"
    path.write_text(json.dumps(content))
    store_table(path, _table(GATHER, replace(PROBLEM, k=8)))
    again = json.loads(path.read_text())
    assert again["sections"][0] == content["sections"][0]
    with pytest.raises(FormatError, match=r"torch 99\.0"):
        load_table(path, "cpu", key="another CPU; 64 threads")


def test_threads_are_part_of_the_device():
    threads = torch.get_num_threads()
    here = device_key("cpu")
    try:
        torch.set_num_threads(threads + 1)
        assert device_key("cpu") != here
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"])
def test_what_the_kernels_are_compiled_for_is_part_of_the_device(monkeypatch, tmp_path, name):
    for other in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"):
        monkeypatch.delenv(other, raising=False)
    here, path = device_key("cpu"), tmp_path / "tuned.json"
    assert "NUMBA" not in here
    store_table(path, _table())
    # set to nothing is not unset: it takes the features away
    monkeypatch.setenv(name, "")
    assert device_key("cpu") == f"{here}; {name}="

    monkeypatch.setenv(name, "haswell")
    assert device_key("cpu") == f"{here}; {name}=haswell"
    with pytest.raises(FormatError, match=f"no tuning for .*{name}=haswell"):
        load_table(path, "cpu")
    monkeypatch.setenv(name, "x86-64")
    assert device_key("cpu") == f"{here}; {name}=x86-64"


def test_products_that_round_otherwise_have_a_bucket_of_their_own():
    on_gpu, before = replace(PROBLEM, device="cuda"), torch.backends.cuda.matmul.fp32_precision
    problems = (on_gpu, replace(on_gpu, dtype=torch.float16), PROBLEM)
    found = {}
    try:
        for precision in ("ieee", "tf32"):
            torch.backends.cuda.matmul.fp32_precision = precision
            found[precision] = [Bucket.of(problem) for problem in problems]
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert [found[name][0].precision for name in found] == ["ieee", "tf32"]
    assert found["ieee"][1:] == found["tf32"][1:]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a table of tunings"),
        ("[]", "is not a table of tunings"),
        ("{}", "is not a table of tunings"),
        ('{"schema": 2, "sections": []}', "has schema 2, this version reads 3"),
        ('{"schema": 3, "sections": [{}]}', "is not a table of tunings"),
        ('{"schema": 3, "sections": 5}', "is not a table of tunings"),
    ],
)
def test_a_foreign_file_is_named_and_left_alone(tmp_path, text, said):
    path = tmp_path / "tuned.json"
    path.write_text(text)
    for use in (lambda p: load_table(p, "cpu"), lambda p: store_table(p, _table())):
        with pytest.raises(FormatError, match=said) as error:
            use(path)
        assert str(path) in str(error.value)
    assert path.read_text() == text


@pytest.mark.parametrize(("key", "value"), [("pass", "sideways"), ("choice", "nonsense"), ("k", None)])
def test_a_broken_entry_is_named(tmp_path, key, value):
    path = tmp_path / "tuned.json"
    store_table(path, _table())
    content = json.loads(path.read_text())
    entry = content["sections"][0]["entries"][0]
    if value is None:
        del entry[key]
    else:
        entry[key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match="is not a table of tunings"):
        load_table(path, "cpu")


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(FormatError, match="make one with `pcsparse tune"):
        load_table(tmp_path / "none.json", "cpu")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "tuned.json"
    store_table(path, _table())
    before = path.read_text()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tune_cache.Path, "replace", full)
    with pytest.raises(OSError, match="No space"):
        store_table(path, _table(GATHER))
    assert path.read_text() == before
    assert [found.name for found in tmp_path.iterdir() if found.name.endswith(".tmp")] == []


_WRITER = """
import sys
from dataclasses import replace
from tests.engine.test_tune_cache import PROBLEM, _table
from pcsparse.engine.tune_cache import store_table
for n in range(12):
    store_table(sys.argv[1], _table(problem=replace(PROBLEM, c_in=100 * int(sys.argv[2]) + n)))
"""


def test_writers_at_once_lose_nothing(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "tuned.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    commands = [[sys.executable, "-c", _WRITER, str(path), str(number)] for number in (1, 2)]
    writers = [subprocess.Popen(command, env=environment) for command in commands]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    content = json.loads(path.read_text())
    assert sum(len(section["entries"]) for section in content["sections"]) == 24


@pytest.fixture
def two_gpus(monkeypatch):
    """Two GPUs of different make, the first of which is the current one."""
    names = ("NVIDIA Some", "NVIDIA Other")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    monkeypatch.setattr(
        torch.cuda, "get_device_name", lambda device=None: names[torch.device(device or "cuda").index or 0]
    )


def test_a_key_names_the_gpu_that_is_tuned(two_gpus):
    cpu = device_key("cpu")
    assert "NVIDIA" not in cpu
    for device, name in (("cuda", "Some"), ("cuda:0", "Some"), (torch.device("cuda", 1), "Other")):
        assert device_key(device) == f"{cpu}; NVIDIA {name}"
    with pytest.raises(DeviceError, match="torch sees 2, cuda:0 to cuda:1"):
        device_key("cuda:2")


def test_each_gpu_has_a_section_of_its_own(two_gpus, tmp_path):
    path, on_gpu = tmp_path / "tuned.json", replace(PROBLEM, device="cuda")
    tables = {
        "cuda:1": TuneTable.here("cuda:1", {(Bucket.of(on_gpu), "forward"): GATHER}),
        "cuda:0": TuneTable.here("cuda:0", {(Bucket.of(on_gpu), "forward"): ODD}),
    }
    store_table(path, tables["cuda:1"])
    # what another GPU was tuned for is none of this one's
    with pytest.raises(
        FormatError, match=r"no tuning for \[.*NVIDIA Some\].*--device cuda:0` to add it"
    ) as error:
        load_table(path, "cuda:0")
    command = f"`pcsparse tune --out {path} --device cuda:0`"
    assert command in str(error.value)
    with pytest.raises(FormatError, match="no tuning at") as error:
        load_table(tmp_path / "none.json", "cuda:0")
    assert command.replace("tuned", "none") in str(error.value)
    store_table(path, tables["cuda:0"])
    for device, table in tables.items():
        assert load_table(path, device) == table
    with pytest.raises(FormatError, match=r"but for .*NVIDIA Other\].*NVIDIA Some\]"):
        load_table(path, "cpu")
    assert load_table(path, "cpu", key=device_key("cuda:1")) == tables["cuda:1"]
    # another machine's section, too, is read for a device of this one
    with pytest.raises(DeviceError, match="torch sees 2, cuda:0 to cuda:1"):
        load_table(path, "cuda:2", key=device_key("cuda:1"))
    for key in ("another CPU", ""):
        # tuning here would not add it
        with pytest.raises(
            FormatError, match=rf"no tuning for \[{key}\] .*; take one of these, or run"
        ) as error:
            load_table(path, "cuda:0", key=key)
        assert str(error.value).endswith(f"run `pcsparse tune --out {path}` on that machine")


def test_the_compiler_of_a_gpu_is_part_of_the_versions(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = versions()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert versions() == {**found, "triton": versions()["triton"]}
    assert found.keys() == {"pcsparse", "torch", "numba"}


RULE = MapRule(
    {"search": (1e-6, 0.0, 0.0, 0.0, 2e-9), "grid": (3e-6, 1e-9, 0.0, 0.0, 0.0)}, (9, 9, 27, 99), 1.1
)


def test_a_rule_of_maps_is_kept_beside_the_choices(tmp_path):
    path = tmp_path / "tuned.json"
    store_table(path, TuneTable.here("cpu", maps=RULE))
    assert load_table(path, "cpu") == TuneTable.here("cpu", maps=RULE)
    store_table(path, _table())
    assert load_table(path, "cpu") == replace(_table(), maps=RULE)
    other = replace(RULE, margin=2.0)
    store_table(path, TuneTable.here("cpu", maps=other))
    assert load_table(path, "cpu") == replace(_table(), maps=other)


def test_a_rule_of_another_version_stays_as_it_is(tmp_path):
    path = tmp_path / "tuned.json"
    store_table(path, replace(TuneTable.here("cpu", maps=RULE), device="another GPU"))
    content = json.loads(path.read_text())
    content["sections"][0]["versions"]["torch"] = "99.0"
    content["sections"][0]["maps"] = {"unheard of": 1}
    path.write_text(json.dumps(content))
    store_table(path, _table())
    assert json.loads(path.read_text())["sections"][0] == content["sections"][0]
    # of these versions it must be one
    content["sections"][0]["versions"] = versions()
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match="no rule of ways to a map"):
        load_table(path, "cpu")
