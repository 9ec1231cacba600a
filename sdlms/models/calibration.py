"""How many tokens a batch may have, so that an accelerator keeps some of its memory free.

Importing this module loads nothing heavy: settings are checked here before anything is.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from sdlms.errors import UserError

AUTO = "auto"
AUTO_BYTES, AUTO_FRACTION = 8 * 10**9, 0.1  # whichever is less
SIZE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(%|[kmgt]i?b)", re.IGNORECASE)
EXPONENTS = {"k": 1, "m": 2, "g": 3, "t": 4}


class DeviceMemory(NamedTuple):
    """What one accelerator says about its memory.

    Attributes:
        total_bytes: in all.
        free_bytes: what this process could still take, its own unused reserve among it.
        held_bytes: what tensors hold now.
        peak_bytes: the most that tensors held since the last reading.
    """

    total_bytes: int
    free_bytes: int
    held_bytes: int
    peak_bytes: int


def size_bytes(text: str) -> int:
    """Bytes of a size such as `500MB`; GB are powers of 1000, GiB of 1024.

    Raises:
        ValueError: it is misspelt, or a share (`10%`).
    """
    match = SIZE.fullmatch(text)
    if match is None or match[2] == "%":
        raise ValueError(f"'{text}' is no size")
    unit = match[2].lower()
    return int(float(match[1]) * (1024 if "i" in unit else 1000) ** EXPONENTS[unit[0]])


def check_free_memory(free_memory: str) -> None:
    """Check the spelling of `--free-memory`, before any device is known.

    Raises:
        UserError: it is neither a size, nor a share below 100 %, nor `auto`.
    """
    if free_memory == AUTO:
        return
    match = SIZE.fullmatch(free_memory)
    if match is None or (match[2] == "%" and float(match[1]) >= 100):
        raise UserError(
            f"--free-memory '{free_memory}' is neither a size (8GB, 500MB, 8GiB), nor a share of "
            "the device's memory below 100 (10%), nor auto."
        )


def bytes_to_leave(free_memory: str, total_bytes: int) -> int:
    """What `--free-memory` means on a device of `total_bytes`; `auto`: 8 GB, but at most 10 %.

    Raises:
        UserError: it is misspelt, or more than the device has.
    """
    check_free_memory(free_memory)
    if free_memory == AUTO:
        return min(AUTO_BYTES, int(AUTO_FRACTION * total_bytes))
    if free_memory.endswith("%"):
        return int(float(free_memory.removesuffix("%")) / 100 * total_bytes)
    leave = size_bytes(free_memory)
    if leave >= total_bytes:
        raise UserError(
            f"--free-memory {free_memory}: the device has {total_bytes / 1e9:.1f} GB in all. "
            "Leave less of it free."
        )
    return leave


def budget_within(room_bytes: int, bytes_per_token: float, most: int) -> int:
    """The token budget that fits: `most`, or else the largest power of two, 1 where none does.

    A power of two, because a few bytes more or less of free memory must not change the batches,
    and with them the last bits of the results.

    Args:
        room_bytes: what a batch may take; negative when too much is taken already.
        bytes_per_token: what one token of a batch takes, padding included; 0: no batch matters.
        most: the budget that is never exceeded.
    """
    if bytes_per_token == 0 or room_bytes >= most * bytes_per_token:
        return most
    fitting = max(int(max(room_bytes, 0) / bytes_per_token), 1)
    return int(2 ** (fitting.bit_length() - 1))


def measured_budget(
    probe: Callable[[], int],
    read_memory: Callable[[], Sequence[DeviceMemory]],
    free_memory: str,
    most: int,
) -> int:
    """The token budget, at most `most`, that leaves `free_memory` on each of the devices, if any.

    Args:
        probe: runs one batch; returns its tokens, padding included.
        read_memory: reads every device, and starts its peak anew.
        free_memory: as `--free-memory` has it.
        most: the budget that is never exceeded.

    Raises:
        UserError: a single document does not fit, or `free_memory` is more than a device has.
    """
    probe()  # what the first batch allocates for good (workspaces) is no token's
    before = read_memory()
    n_tokens = probe()
    budgets = (
        budget_within(
            after.free_bytes - bytes_to_leave(free_memory, after.total_bytes),
            max(after.peak_bytes - held_bytes, 0) / n_tokens,
            most,
        )
        for (_, _, held_bytes, _), after in zip(before, read_memory(), strict=True)
    )
    return min(budgets, default=most)
