"""The kernel runs on the threads that torch's own operations run on."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sdlms.models.gating.pool import openmp_libraries, pool_addresses


def test_torchs_own_library_is_found() -> None:
    if not torch.backends.openmp.is_available():
        pytest.skip("torch was built without OpenMP")
    libraries = openmp_libraries()
    assert len(libraries) == 1 and Path(libraries[0]).exists()
    addresses = pool_addresses()
    assert addresses is not None and all(addresses) and len(set(addresses)) == 4


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux does")
def test_no_second_pool_of_threads() -> None:
    program = (
        "import os, torch\n"
        "from sdlms.models.gating.compiled import Compiled\n"
        "torch.set_num_threads(3)\n"
        "torch.randn(512, 512) @ torch.randn(512, 512)\n"
        "torch.randn(1 << 20).exp_()\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "kernel, x = Compiled(torch.float32), torch.randn(1024)\n"
        "kernel.dense(torch.randn(1024, 1024), None, x)\n"
        "kernel.largest(torch.randn(1024, 1024), None, x, None, 900)\n"
        "print(before > 2, len(os.listdir('/proc/self/task')) - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "0"], done.stderr
