"""The promises of the project itself: light import, pinned versions, one-way imports, verbs, the wheel."""

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HEAVY = {
    *("numba", "cupy", "triton", "open3d", "hydra", "omegaconf", "matplotlib", "PIL", "scipy"),
    *("laspy", "lazrs", "pyproj", "pypcd4", "plyfile", "pye57", "pyarrow", "rich", "tensorboard"),
}
VERBS = ["demo", "setup", "test", "test-slow", "test-gpu", "lint", "type", "bench", "docs"]
MEGABYTE = 1 << 20


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess:
    # a make around this test hands its own arguments down to every make below it
    inherited = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def succeed(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    done = run(*command, cwd=cwd, **environment)
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def tool(name: str) -> Path:
    return Path(sys.executable).parent / name


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = succeed("git", "ls-files", "-z").split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


# ---- import


def test_import_loads_nothing_heavy():
    program = "import sys, pcsparse; print(*sys.modules)"
    loaded = set(succeed(sys.executable, "-c", program, PYTHONPATH=str(ROOT)).split())

    assert {"torch", "numpy", "pcsparse"} <= loaded
    assert loaded.isdisjoint(HEAVY)


def test_imports_go_one_way():
    succeed(tool("lint-imports"), "--no-cache")


# ---- versions


def pinned() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [re.fullmatch(r"([a-z0-9][a-z0-9.-]*)==([^;\s]+)", line) for line in lines if line[:1] != "#"]
    assert all(pins), "each line of constraints.txt is name==version, in lower case with dashes"
    versions = {canonicalize_name(pin[1]): Version(pin[2]) for pin in pins if pin}
    assert len(versions) == len(pins), "a name stands twice in constraints.txt"
    return versions


def declared() -> list[Requirement]:
    project = PYPROJECT["project"]
    texts = [*project["dependencies"], *PYPROJECT["build-system"]["requires"]]
    for extra in project["optional-dependencies"].values():
        texts += extra
    requirements = [Requirement(text) for text in texts]
    return [r for r in requirements if r.name != project["name"]]


def test_constraints_hold_public_versions():
    assert not [f"{name}=={version}" for name, version in pinned().items() if version.local]


@pytest.mark.parametrize("requirement", declared(), ids=str)
def test_constraints_satisfy(requirement):
    version = pinned().get(canonicalize_name(requirement.name))

    assert version is not None, f"constraints.txt has no line for {requirement.name}"
    assert requirement.specifier.contains(version)


def test_constraints_hold_what_the_dependencies_need_in_turn():
    versions, missing = pinned(), []
    open_requirements, seen = declared(), set()
    while open_requirements:
        requirement = open_requirements.pop()
        name = canonicalize_name(requirement.name)
        if (name, *requirement.extras) in seen:
            continue
        seen.add((name, *requirement.extras))
        if name not in versions:
            missing.append(str(requirement))
        try:
            needs = [Requirement(text) for text in metadata.requires(name) or []]
        except metadata.PackageNotFoundError:
            continue
        for need in needs:
            chosen = [{"extra": extra} for extra in requirement.extras or {""}]
            wanted = need.marker is None or any(need.marker.evaluate(environment) for environment in chosen)
            # a CUDA build of torch pins its nvidia packages itself
            if wanted and not any(clause.operator == "==" for clause in need.specifier):
                open_requirements.append(need)

    assert not missing


def test_extra_all_names_every_extra_that_needs_no_device():
    extras = PYPROJECT["project"]["optional-dependencies"]
    (everything,) = (Requirement(text) for text in extras["all"])

    assert everything.extras == set(extras) - {"all", "gpu12", "gpu13"}


def test_the_extras_of_a_gpu_bring_what_its_kernels_need():
    extras = PYPROJECT["project"]["optional-dependencies"]
    for cuda in (12, 13):
        brought = {Requirement(text).name for text in extras[f"gpu{cuda}"]}
        assert brought == {f"cupy-cuda{cuda}x", "triton"}


# ---- the tree


def test_no_file_is_large(tracked):
    weights = ROOT / "pcsparse/models/weights"

    def limit(path: Path) -> int:
        return 12 * MEGABYTE if path.parent == weights and path.suffix == ".safetensors" else MEGABYTE

    assert not [f"{path}: {path.stat().st_size}" for path in tracked if path.stat().st_size > limit(path)]


def test_files_name_no_place_of_one_machine(tracked):
    machine = re.compile(r"(?<![\w.~/-])/(?:home|root|tmp|work|scratch|Users)/\w[^\s\"'`]*")
    found = [
        f"{path.relative_to(ROOT)}: {place}"
        for path in tracked
        if b"\0" not in (content := path.read_bytes())
        for place in machine.findall(content.decode())
    ]

    assert not found


def test_only_the_makefile_knows_where_the_real_samples_are(tracked):
    place = b"/".join((b"shared", b"data"))

    assert [path.name for path in tracked if place in path.read_bytes()] == ["Makefile"]


# ---- verbs


@pytest.mark.parametrize("verb", VERBS)
def test_verb_exists_and_says_what_it_does(verb):
    assert f'echo "== {verb}: ' in succeed("make", "-n", verb)
    assert re.search(rf"^ +{verb} +\w+", succeed("make", "help"), re.MULTILINE)


def fake_python(folder: Path, version: str) -> Path:
    script = folder / "python-of-the-past"
    script.write_text(f"#!/bin/sh\necho {version}\n")
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("version", ["2.7", "3.9", "3.10"])
def test_make_refuses_an_old_python_and_names_the_mend(tmp_path, version):
    done = run("make", "setup", f"PYTHON={fake_python(tmp_path, version)}", f"VENV={tmp_path / 'venv'}")

    assert done.returncode != 0
    assert f"is Python {version}, and pcsparse needs 3.11 or newer" in done.stderr
    assert "make PYTHON=python3.11" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_make_names_the_mend_where_there_is_no_python(tmp_path):
    done = run("make", "setup", "PYTHON=python-that-is-not", f"VENV={tmp_path / 'venv'}")

    assert done.returncode != 0
    assert "there is no 'python-that-is-not' here" in done.stderr
    assert "make PYTHON=python3.11" in done.stderr


def test_continuous_integration_runs_the_command_of_the_readme():
    script = ROOT / ".ci/run"
    commands = [line for line in script.read_text().splitlines() if line.startswith("make ")]

    assert os.access(script, os.X_OK)
    assert commands == ["make test", "make lint type"]
    assert re.search(r"^make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)


def test_pre_commit_hooks_are_valid_and_local():
    config = ROOT / ".pre-commit-config.yaml"

    succeed(tool("pre-commit"), "validate-config", config)
    assert re.findall(r"repo: (\S+)", config.read_text()) == ["local"]


# ---- the wheel


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The `bin` of an otherwise empty virtual environment that holds the wheel; dependencies are lent."""
    folder = tmp_path_factory.mktemp("wheel")
    succeed(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    succeed(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv/bin/python"
    succeed(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    own = succeed(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    lent = succeed(sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))")
    # a folder named by a .pth is searched last, and the .pth files in it (an editable pcsparse) are not read
    (Path(own) / "dependencies.pth").write_text(lent)
    return python.parent


@pytest.mark.slow
def test_wheel_carries_configs_labels_and_weights(installed, tmp_path):
    program = """if True:
        from pathlib import Path
        import pcsparse
        from pcsparse import resources
        print(Path(pcsparse.__file__).parent)
        print(resources.configs_dir() / "train.yaml")
        print(resources.labels_file("semantickitti"))
        for name in ("minkunet-hdl64e", "minkunet-32beam"):
            for ending in ("safetensors", "json", "md"):
                print(resources.weights_dir() / f"{name}.{ending}")
        for name in ("page.html", "page.css", "page.js"):
            print(Path(pcsparse.__file__).parent / "view" / name)
    """
    paths = [Path(line) for line in succeed(installed / "python", "-c", program, cwd=tmp_path).splitlines()]

    assert paths[0].is_relative_to(installed.parent)
    for path in paths[1:]:
        assert path.is_relative_to(paths[0])
        assert path.is_file()


@pytest.mark.slow
def test_wheel_runs_outside_the_checkout(installed, tmp_path):
    assert "infer" in succeed(installed / "pcsparse", "--help", cwd=tmp_path)
    assert "--checkpoint" in succeed(installed / "pcsparse", "infer", "--help", cwd=tmp_path)
    assert "epochs:" in succeed(installed / "pcsparse", "train", "--cfg", "job", cwd=tmp_path)


@pytest.mark.slow
def test_wheel_segments_a_sweep_with_the_default_checkpoint(installed, tmp_path):
    n_points = 500
    program = """if True:
        import sys
        import numpy as np
        rng = np.random.default_rng(0)
        sweep = rng.uniform([-20, -20, -2, 0], [20, 20, 1, 1], (int(sys.argv[1]), 4))
        sweep.astype(np.float32).tofile("sweep.bin")
    """
    succeed(installed / "python", "-c", program, str(n_points), cwd=tmp_path)
    succeed(installed / "pcsparse", "infer", "sweep.bin", "--out", "out", cwd=tmp_path)

    (labels,) = (tmp_path / "out").rglob("*.label")
    assert labels.stat().st_size == 4 * n_points
    assert list((tmp_path / "out").rglob("*.png"))
