"""What `.ci` does on machines that are not this one: every program that it asks is a stand-in on PATH."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SONAMES = ["libusb-1.0.so.0", "libGL.so.1", "libEGL.so.1", "libX11.so.6", "libidn2.so.0", "libudev.so.1"]
PACKAGES = "libusb-1.0-0 libgl1 libegl1 libx11-6 libidn2-0 libudev1"


class Machine:
    """A folder of stand-ins in front of PATH, and a virtual environment whose pip only takes notes."""

    def __init__(self, folder: Path):
        self.folder, self.log = folder, folder / "log"
        self.log.touch()
        self.stand_in("getconf", "echo glibc 2.36")
        self.stand_in(
            "uname", 'case "$1" in -s) echo Linux ;; -m) echo x86_64 ;; *) echo Linux x86_64 ;; esac'
        )
        self.stand_in("id", "echo 0")
        self.stand_in("apt-get", f'echo "apt-get $*" >>{self.log}')
        self.has_libraries(*SONAMES)
        self.has_venv()

    def stand_in(self, name: str, script: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def has_libraries(self, *sonames: str) -> None:
        lines = "\n".join(f"echo '\t{name} (libc6,x86-64) => /lib/{name}'" for name in sonames)
        self.stand_in("ldconfig", lines or "true")

    def has_venv(self, version: str = "3.11", pip: str = "true") -> None:
        answers = f'case "$*" in -c*) echo {version} ;; "-m pip install"*) {pip} ;; esac'
        self.stand_in("venv/bin/python", f'echo "$*" >>{self.log}\n{answers}')

    def try_set_up(self, pip_args: str = "") -> subprocess.CompletedProcess:
        return subprocess.run(
            [ROOT / ".ci/setup", self.folder / "venv", "python3"],
            cwd=ROOT,
            env=os.environ | {"PATH": f"{self.folder}:{os.environ['PATH']}", "PIP_ARGS": pip_args},
            capture_output=True,
            text=True,
            check=False,
        )

    def set_up(self, pip_args: str = "") -> str:
        done = self.try_set_up(pip_args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commands(self, word: str) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if word in line]

    def has_gpu(self, torch: str, *installed: str, cupy: str = "exit 1", pip: str = "true") -> None:
        """A virtual environment that is set up.

        Args:
            torch: its version, its CUDA or None, and whether it sees a device.
            installed: packages beside it.
            cupy: what asking cupy for the CUDA that it was built for does.
            pip: what an installation does.
        """
        answers = f"""case "$*" in
            "-c import torch"*) echo {torch} ;;
            "-c import cupy"*) {cupy} ;;
            "-m pip list"*) printf '%s\\n' {" ".join(("numpy==2.4.6", *installed))} ;;
            "-m pip install"*) {pip} ;;
        esac"""
        self.stand_in("venv/bin/python", f'echo "$*" >>{self.log}\n{answers}')
        (self.folder / "venv/pcsparse-setup").touch()

    def test_gpu(self, pip_args: str = "") -> subprocess.CompletedProcess:
        return subprocess.run(
            ["make", "test-gpu", f"VENV={self.folder / 'venv'}", f"PIP_ARGS={pip_args}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    def find_browser(self) -> str:
        done = subprocess.run(
            [ROOT / ".ci/browser"],
            env={"PATH": str(self.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_everything_is_installed_with_the_pinned_versions(machine):
    machine.set_up()

    (install,) = machine.commands("-e ")
    assert install.endswith("-e .[all]")
    assert "-c constraints.txt" in install
    assert not machine.commands("apt-get")


def test_pip_args_reach_every_pip_install(machine):
    machine.set_up("--extra-index-url somewhere --no-cache-dir")

    installs = machine.commands("pip install")
    assert len(installs) == 3
    assert all("pip install --extra-index-url somewhere --no-cache-dir " in line for line in installs)


def test_root_gets_the_missing_libraries_and_only_those(machine):
    machine.has_libraries(*(set(SONAMES) - {"libEGL.so.1", "libudev.so.1"}))
    machine.set_up()

    assert machine.commands("apt-get") == ["apt-get install -y --no-install-recommends libegl1 libudev1"]


def test_stale_package_lists_are_fetched_once(machine):
    machine.has_libraries()
    lists = machine.folder / "lists"
    fetches = f'case "$1" in update) touch {lists} ;; esac'
    machine.stand_in("apt-get", f'echo "apt-get $1" >>{machine.log}\n{fetches}\ntest -e {lists}')
    machine.set_up()

    assert machine.commands("apt-get") == ["apt-get install", "apt-get update", "apt-get install"]
    assert machine.commands("-e .[all]")


def test_failing_apt_is_said_and_the_rest_goes_on(machine):
    machine.has_libraries()
    machine.stand_in("apt-get", "exit 100")

    assert f"apt-get install -y --no-install-recommends {PACKAGES}" in machine.set_up()
    assert machine.commands("-e .[all]")


def test_others_than_root_are_shown_the_one_command(machine):
    machine.has_libraries()
    machine.stand_in("id", "echo 1000")

    command = f"sudo apt-get update && sudo apt-get install -y --no-install-recommends {PACKAGES}"
    assert command in machine.set_up()
    assert not machine.commands("apt-get")


def test_no_open3d_on_an_old_glibc(machine):
    machine.has_libraries()
    machine.stand_in("getconf", "echo glibc 2.31")

    assert "open3d is left out: glibc 2.31 is older than 2.35" in machine.set_up()
    assert machine.commands("-e .[train,io,view,dev]")
    assert not machine.commands("apt-get")


def test_no_open3d_on_another_c_library(machine):
    machine.stand_in("getconf", "exit 1")

    assert "open3d is left out: the C library is not glibc" in machine.set_up()
    assert machine.commands("-e .[train,io,view,dev]")


@pytest.mark.parametrize(
    ("answer", "extras"),
    [
        ("ERROR: No matching distribution found for open3d-cpu", "train,io,view,dev"),
        ("ERROR: the connection was reset", "all"),
    ],
    ids=["no-wheel", "no-connection"],
)
def test_only_a_missing_wheel_leaves_open3d_out(machine, answer, extras):
    machine.has_venv(pip=f'case "$*" in *--dry-run*) echo "{answer}" >&2; exit 1 ;; esac')
    said = machine.set_up()

    assert machine.commands(f"-e .[{extras}]")
    assert ("open3d is left out: open3d-cpu has no wheel" in said) == (extras != "all")


def test_a_failing_installation_fails_the_set_up(machine):
    machine.has_venv(pip='case "$*" in *-e*) exit 1 ;; esac')

    assert machine.try_set_up().returncode != 0


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("3.10", "is Python 3.10, and pcsparse needs 3.11 or newer; remove "),
        ("", "does not run, and pcsparse needs Python 3.11 or newer; remove "),
    ],
    ids=["old", "silent"],
)
def test_an_environment_of_no_use_is_refused_with_its_mend(machine, version, said):
    machine.has_venv(version)
    done = machine.try_set_up()

    assert done.returncode != 0
    assert said in done.stderr
    assert not machine.commands("pip install")


# ---- the extra of a GPU


@pytest.mark.parametrize(
    ("torch", "installed", "extra"),
    [
        ("2.13.0 13.0 True", (), "gpu13"),
        ("2.13.0+cu126 12.6 True", (), "gpu12"),
        ("2.13.0 13.0 True", ("cupy-cuda13x==14.1.0", "cupy-xarray==0.1.4"), "gpu13"),
    ],
    ids=["13", "12", "older"],
)
def test_the_cupy_of_torchs_cuda_is_installed_before_the_tests(machine, torch, installed, extra):
    machine.has_gpu(torch, *installed)
    done = machine.test_gpu("--no-cache-dir")

    assert done.returncode == 0, done.stderr
    *_, install, tests = machine.commands("")
    assert install.startswith("-m pip install --no-cache-dir -c constraints.txt ")
    assert install.endswith(f" -e .[{extra}]")
    assert tests.startswith("-m pytest")
    assert "--device cuda" in tests


def test_a_cupy_that_is_right_is_left_alone(machine):
    (pinned,) = re.findall(r"^cupy-cuda13x==.*$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    machine.has_gpu("2.13.0 13.0 True", pinned)

    assert machine.test_gpu().returncode == 0
    assert not machine.commands("pip install")
    assert machine.commands("-m pytest")


@pytest.mark.parametrize("installed", [("cupy==14.2.0",), ("cupy==15.0.0.dev1",), ()], ids=str)
def test_a_cupy_of_torchs_cuda_may_come_from_anywhere(machine, installed):
    machine.has_gpu("2.13.0 13.0 True", *installed, cupy="echo 13")

    assert machine.test_gpu().returncode == 0
    assert not machine.commands("pip install")
    assert machine.commands("-m pytest")


@pytest.mark.parametrize(
    ("cupy", "said"),
    [("echo 12", "is installed, which is for CUDA 12,"), ("exit 1", "is installed, which does not import,")],
    ids=["another-cuda", "broken"],
)
def test_why_a_cupy_is_refused_is_said(machine, cupy, said):
    machine.has_gpu("2.13.0 13.0 True", "cupy==14.2.0", cupy=cupy)
    done = machine.test_gpu()

    assert done.returncode != 0
    assert said in done.stderr
    assert not machine.commands("pytest")


@pytest.mark.parametrize(
    ("torch", "installed", "said"),
    [
        (
            "2.13.0+cpu None False",
            (),
            r"torch 2\.13\.0\+cpu is built without CUDA, .*remove \S+/venv, then: make .* without the CPU ",
        ),
        (
            "2.13.0 13.0 False",
            (),
            r"built for CUDA 13\.0 and sees no CUDA device .*nvidia-smi .*remove \S+/venv, .* PIP_ARGS=",
        ),
        (
            "2.13.0 11.8 True",
            (),
            r"built for CUDA 11\.8, and pcsparse has extras for CUDA 12 and 13, .*PIP_ARGS=",
        ),
        (
            "2.13.0 13.0 True",
            ("cupy-cuda12x==14.2.0",),
            r"13\.0, and cupy-cuda12x is installed, .*/python -m pip uninstall cupy-cuda12x, then: make",
        ),
        (
            "2.13.0 13.0 True",
            ("cupy-cuda12x==14.2.0", "cupy-cuda13x==14.2.0"),
            r"pip uninstall cupy-cuda12x cupy-cuda13x, then: make test-gpu",
        ),
        (
            "2.13.0+cu126 12.6 True",
            ("cupy-cuda12x==14.2.0", "cupy-cuda13x==14.2.0"),
            r"installed, which overwrite each other, .*pip uninstall cupy-cuda12x cupy-cuda13x, then: make",
        ),
        ("2.13.0 13.0 True", ("cupy==14.2.0",), r"pip uninstall cupy, then: make test-gpu"),
    ],
    ids=["no-cuda", "no-device", "another-cuda", "another-cupy", "two-of-them", "two-of-12", "of-its-source"],
)
def test_what_a_gpu_cannot_use_is_refused_with_its_mend(machine, torch, installed, said):
    machine.has_gpu(torch, *installed)
    done = machine.test_gpu()

    assert done.returncode != 0
    assert re.search(said, done.stderr), done.stderr
    assert "nothing was tested" in done.stderr
    assert not machine.commands("pip install")
    assert not machine.commands("pytest")


def test_a_failing_installation_of_cupy_tests_nothing(machine):
    machine.has_gpu("2.13.0 13.0 True", pip="exit 1")

    assert machine.test_gpu().returncode != 0
    assert not machine.commands("pytest")


# ---- the browser of the slow tests

INSTALL_BROWSER = "apt-get install -y --no-install-recommends chromium"


def test_a_browser_that_is_there_is_left_alone(machine):
    machine.stand_in("chromium-browser", "true")

    assert machine.find_browser() == ""
    assert not machine.commands("apt-get")


def test_root_gets_a_browser_and_stale_lists_are_fetched_once(machine):
    machine.find_browser()
    assert machine.commands("apt-get") == [INSTALL_BROWSER]

    machine.log.write_text("")
    lists = machine.folder / "lists"
    fetches = f'case "$1" in update) : >{lists} ;; esac'
    machine.stand_in("apt-get", f'echo "apt-get $1" >>{machine.log}\n{fetches}\n[ -e {lists} ]')
    machine.find_browser()
    assert machine.commands("apt-get") == ["apt-get install", "apt-get update", "apt-get install"]


def test_without_a_browser_the_way_to_one_is_said(machine):
    machine.stand_in("apt-get", "exit 100")
    assert f"apt-get update && {INSTALL_BROWSER}" in machine.find_browser()

    machine.stand_in("id", "echo 1000")
    assert f"sudo apt-get update && sudo {INSTALL_BROWSER}" in machine.find_browser()

    (machine.folder / "apt-get").unlink()
    assert "there is no Chromium here" in machine.find_browser()
