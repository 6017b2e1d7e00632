"""What tests of compression share."""

import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other in tiny kernels take most of the time where other programs run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
