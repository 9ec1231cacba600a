import os

import pytest
import torch

from sdlms.errors import UserError
from sdlms.models import device as device_module
from sdlms.models.device import (
    announcement,
    check_free_memory_on,
    decisions,
    device_of,
    dtype_of,
    memory_of,
    read_cuda_memory,
    set_threads,
)

CPU = torch.device("cpu")


def test_auto_takes_what_is_there() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert device_of("auto").type == expected
    assert device_of("cpu") == CPU


@pytest.mark.parametrize("name", ["cuda:99", "mps"])
def test_a_device_that_is_absent_is_one_clear_line(name: str) -> None:
    with pytest.raises(UserError, match=f"--device {name}: this machine has"):
        device_of(name)


@pytest.mark.parametrize(("capable", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_dtype_follows_the_capability(
    monkeypatch: pytest.MonkeyPatch, capable: bool, expected: torch.dtype
) -> None:
    monkeypatch.setattr(device_module, "_has_bfloat16", lambda device: capable)
    assert dtype_of("auto", CPU) == expected
    assert dtype_of("float32", CPU) == torch.float32


def test_capability_is_decided_without_timing() -> None:
    found = {dtype_of("auto", CPU) for _ in range(3)}
    assert len(found) == 1
    assert found <= {torch.bfloat16, torch.float32}


def test_half_precision_is_refused_on_a_cpu() -> None:
    with pytest.raises(UserError, match="float16 is for GPUs"):
        dtype_of("float16", CPU)


def test_threads_and_memory() -> None:
    before = torch.get_num_threads()
    try:
        assert set_threads(1) == 1 == torch.get_num_threads()
        assert set_threads(0) == len(os.sched_getaffinity(0))
    finally:
        torch.set_num_threads(before)
    total, free = memory_of(CPU)
    assert 0 < free <= total


def test_decisions_are_what_meta_records() -> None:
    found = decisions(CPU, "float32", 1)
    assert found["device"] == "cpu"
    assert found["dtype"] == "float32"
    assert found["threads"] == 1


def test_the_announcement_says_where_and_how() -> None:
    line = announcement(CPU, {**decisions(CPU, "float32", 1), "batch_tokens": 77})
    assert line.startswith("device cpu (")
    assert line.endswith("; float32, 1 threads, batches of 77 tokens")


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_free_memory_is_for_cuda(device: str) -> None:
    check_free_memory_on(torch.device(device), "auto")
    with pytest.raises(UserError, match=f"--free-memory 8GB is for CUDA devices, .* on {device}"):
        check_free_memory_on(torch.device(device), "8GB")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_tells_what_tensors_hold() -> None:
    device = torch.device("cuda", 0)
    with pytest.raises(UserError, match="in all"):
        check_free_memory_on(device, "9999GB")
    read_cuda_memory(device)
    before = read_cuda_memory(device)
    kept = torch.empty(10**8, dtype=torch.uint8, device=device)
    for _ in range(2):
        torch.empty(10**8, dtype=torch.uint8, device=device)
    after = read_cuda_memory(device)
    assert after.held_bytes - before.held_bytes == pytest.approx(kept.nbytes, rel=0.05)
    assert after.peak_bytes - before.held_bytes == pytest.approx(2 * kept.nbytes, rel=0.05)
    assert read_cuda_memory(device).peak_bytes == after.held_bytes
    assert after.free_bytes < before.free_bytes < after.total_bytes
