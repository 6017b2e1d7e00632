"""What meets a mocked CUDA device, in processes of their own: autograd asks once which there are."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def _run(*args: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *args]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


def test_the_mock_refuses_what_a_gpu_refuses():
    files = ("mock_cuda/check_mock.py", "test_default_device.py")
    _run(*(str(TESTS / file) for file in files), "--device", "mock", "--cases", "0")


def test_a_model_trains_and_labels_a_sweep_on_it():
    pytest.importorskip("hydra")
    _run(str(TESTS / "mock_cuda/check_programs.py"), "--device", "mock", "-k", "labels_of_a_sweep")


@pytest.mark.slow
def test_programs_and_recordings_run_on_it():
    files = ("mock_cuda/check_programs.py", "nn/test_recorded.py", "nn/test_recorded_training.py")
    _run(*(str(TESTS / file) for file in files), "--device", "mock")


@pytest.mark.slow
def test_a_few_cases_of_all_tests_pass_on_it():
    folders = ("nn", "models", "train", "infer", "compress", "engine", "coords", "ops", "packed", "data")
    _run(*(str(TESTS / name) for name in folders), "--device", "mock", "--cases", "4")


@pytest.mark.slow
def test_a_few_cases_of_all_kernels_pass_on_it():
    _run(str(TESTS / "kernels"), "--device", "mock-emulated", "--cases", "2")
