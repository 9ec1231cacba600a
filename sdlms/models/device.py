"""Where and in what precision a model computes: the device rule, decided once, by capability."""

import ctypes
import os
import platform
from pathlib import Path
from typing import Any

import psutil
import torch

from sdlms.errors import UserError
from sdlms.models.calibration import AUTO, DeviceMemory, bytes_to_leave
from sdlms.progress import readable_bytes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def device_of(name: str) -> torch.device:
    """The device that `--device` means; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: this machine has no such device.
    """
    n_cuda = n_cuda_devices()
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda:0" if n_cuda else "mps" if mps else "cpu"
    if name.startswith("cuda"):
        index = int(name.partition(":")[2] or 0)
        if index >= n_cuda:
            raise UserError(f"--device {name}: this machine has {n_cuda} CUDA devices.")
        return torch.device("cuda", index)
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: this machine has no Metal device.")
    return torch.device(name)


def n_cuda_devices() -> int:
    """CUDA devices of this machine."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """The type that `--dtype` means; `auto` is bfloat16 where the device multiplies it natively."""
    if name == "auto":
        return torch.bfloat16 if _has_bfloat16(device) else torch.float32
    if name == "float16" and device.type == "cpu":
        raise UserError("--dtype float16 is for GPUs. On a CPU choose float32 or bfloat16.")
    return DTYPES[name]


def _has_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 run in hardware, not by emulation."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def set_threads(threads: int) -> int:
    """Set torch's threads on the CPU; 0 takes all cores this process may use.

    Returns:
        The number in force.
    """
    if threads == 0:
        affinity = getattr(os, "sched_getaffinity", None)
        threads = len(affinity(0)) if affinity else os.cpu_count() or 1
    torch.set_num_threads(threads)
    return threads


def memory_of(device: torch.device) -> tuple[int, int]:
    """Total and free memory of the device, in bytes; for the CPU that of the machine."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    memory = psutil.virtual_memory()
    return memory.total, memory.available


def allocated_bytes(device: torch.device) -> int:
    """Bytes that torch holds on an accelerator; 0 on the CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def check_free_memory_on(device: torch.device, free_memory: str) -> None:
    """Check `--free-memory` against the device.

    Raises:
        UserError: it is set where no token budget is measured, or is more than the device has.
    """
    if device.type == "cuda":
        bytes_to_leave(free_memory, memory_of(device)[0])
    elif free_memory != AUTO:
        raise UserError(
            f"--free-memory {free_memory} is for CUDA devices, the run is on {device}. Leave it "
            "out; --batch-tokens sets the size of a batch anywhere."
        )


def read_cuda_memory(device: torch.device) -> DeviceMemory:
    """What a CUDA device says about its memory; its peak starts anew."""
    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_allocated(device)
    reserve = torch.cuda.memory_reserved(device) - held
    peak = torch.cuda.max_memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    return DeviceMemory(total, free + reserve, held, peak)


def decisions(device: torch.device, dtype: str, threads: int) -> dict[str, str | int]:
    """What `auto` means on this machine, as `meta.jsonl` records it; sets the threads."""
    return {
        "device": str(device),
        "device_name": describe(device),
        "device_memory_bytes": memory_of(device)[0],
        "dtype": str(dtype_of(dtype, device)).removeprefix("torch."),
        "threads": set_threads(threads),
    }


def announcement(device: torch.device, decided: dict[str, Any]) -> str:
    """What a run says about where and how it computes, in one line."""
    total, free = (readable_bytes(size) for size in memory_of(device))
    return (
        f"device {device} ({decided['device_name']}), memory {total}, free {free}; "
        f"{decided['dtype']}, {decided['threads']} threads, "
        f"batches of {decided['batch_tokens']} tokens"
    )


def return_freed_memory() -> None:
    """Hand what was freed back to the system, where the C library keeps it otherwise (glibc).

    Batches of ever other shapes leave holes that the next ones do not fit into: without this,
    memory grows with the number of batches.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def describe(device: torch.device) -> str:
    """The device's own name; of a CPU what the system calls it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
