"""The kernel runs on the threads that torch's own operations run on."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sdlms.models.gating.compiled import Compiled
from sdlms.models.kernels import pool
from sdlms.models.kernels.pool import openmp_libraries, pool_addresses


def test_torchs_own_library_is_found() -> None:
    if not torch.backends.openmp.is_available():
        pytest.skip("torch was built without OpenMP")
    libraries = openmp_libraries()
    assert len(libraries) == 1 and Path(libraries[0]).exists()
    addresses = pool_addresses()
    assert addresses is not None and all(addresses) and len(set(addresses)) == 2


def test_without_such_threads_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert Compiled(torch.float32).shares_threads == (pool_addresses() is not None)
    monkeypatch.setattr(pool, "openmp_libraries", lambda: ["/nowhere/libgomp.so"])
    pool_addresses.cache_clear()
    caplog.set_level(logging.INFO, "sdlms")
    kernels = [Compiled(dtype) for dtype in (torch.float32, torch.bfloat16)]
    pool_addresses.cache_clear()
    assert not any(kernel.shares_threads for kernel in kernels)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "run on one thread" in caplog.text


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
