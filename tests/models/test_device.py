import os

import pytest
import torch

from sdlms.errors import UserError
from sdlms.models import device as device_module
from sdlms.models.device import decisions, device_of, dtype_of, memory_of, set_threads

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
