"""The threads of kernels: those that torch's own operations run on.

A second pool of threads would fight with torch's for the cores. A kernel is given the addresses
of two functions of the OpenMP library that torch has loaded; gcc's, LLVM's and Intel's have
both, under gcc's names.
"""

import ctypes
import functools
from pathlib import Path

import torch
from threadpoolctl import threadpool_info

from sdlms.progress import LOGGER

ENTRIES = ("GOMP_parallel", "omp_get_num_threads")
Addresses = tuple[int, int]


@functools.cache
def pool_addresses() -> Addresses | None:
    """Addresses of `ENTRIES`; None, and a line in the log, where torch's threads are others."""
    for path in openmp_libraries():
        try:
            library = ctypes.CDLL(path)
            found = [ctypes.cast(library[entry], ctypes.c_void_p).value for entry in ENTRIES]
        except (OSError, AttributeError):
            continue
        run, size = (address or 0 for address in found)
        return run, size
    LOGGER.info("compiled kernels run on one thread: torch's threads are not OpenMP's")
    return None


def give_threads(library: ctypes.CDLL) -> bool:
    """Let a kernel run on torch's threads; False where they cannot be shared."""
    addresses = pool_addresses()
    if addresses is None:
        return False
    library.set_pool(*(ctypes.c_void_p(address) for address in addresses))
    return True


def openmp_libraries() -> list[str]:
    """Files of torch's OpenMP library: the loaded one in torch's folder, else the only one."""
    loaded = [info["filepath"] for info in threadpool_info() if info["user_api"] == "openmp"]
    folder = Path(torch.__file__).resolve().parent
    of_torch = [path for path in loaded if Path(path).resolve().is_relative_to(folder)]
    return of_torch[:1] or (loaded if len(loaded) == 1 else [])
