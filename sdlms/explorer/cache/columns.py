"""What is stored per token of a conversation, and how hidden states become fewer bytes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sdlms.errors import UserError
from sdlms.lens.kinds import NAMES
from sdlms.storage.row_layout import Column, RowGroup, RowLayout, stored_columns

Array = NDArray[np.generic]
StoreHidden = Literal["none", "fp16", "int8"]
HIDDEN = "hidden"
AUTO_TOKENS = 1_000
AUTO_BYTES = 100_000_000
HALF_MAX = float(np.finfo(np.float16).max)
INT8_MAX = 127


@dataclass(frozen=True)
class Columns:
    """The arrays that have a row per token.

    Attributes:
        n_states: states of the residual stream.
        d_model: width of a state.
        n_top: predictions kept per state.
        store_hidden: how hidden states are stored on the disk; with "none" they are kept in memory
            only, as float16.
    """

    n_states: int
    d_model: int
    n_top: int
    store_hidden: StoreHidden

    @cached_property
    def groups(self) -> dict[str, RowGroup]:
        """What memory keeps: "hidden", and the rows of every lens."""
        packed = "|i1" if self.store_hidden == "int8" else "<f2"
        hidden = (
            Column("values", packed, (self.n_states, self.d_model)),
            Column("scale", "<f4", (self.n_states,)),
        )
        top = (self.n_states, self.n_top)
        lens = (
            Column("top_ids", "<i4", top),
            Column("top_probabilities", "<f4", top),
            Column("entropy_nats", "<f4", (self.n_states,)),
            Column("log_normalizer", "<f4", (self.n_states,)),
            Column("kl_to_final_nats", "<f4", (self.n_states,)),
            Column("next_log_probability", "<f4", (self.n_states,)),
            Column("next_rank", "<i4", (self.n_states,)),
        )
        groups = {HIDDEN: RowGroup(HIDDEN, hidden, self.n_states)}
        return groups | {name: RowGroup(name, lens, 1) for name in NAMES}

    @property
    def layout(self) -> RowLayout:
        """What the disk keeps."""
        return tuple(g for g in self.groups.values() if self.is_on_disk(g.name))

    def is_on_disk(self, group: str) -> bool:
        """Whether a group has a place on the disk."""
        return group != HIDDEN or self.store_hidden != "none"


def predicted_bytes(columns: Columns, n_tokens: int) -> int:
    """Bytes that the rows of `n_tokens` take on the disk, both lenses filled."""
    per_token = sum(
        np.dtype(column.dtype).itemsize * math.prod(column.shape)
        for group in columns.layout
        for column in stored_columns(group)
    )
    return per_token * n_tokens


def store_hidden_of(name: str, n_states: int, d_model: int, n_top: int) -> StoreHidden:
    """How to store hidden states: as named; "auto" is the most exact that is small enough.

    Small enough: 1,000 tokens take at most 100 MB, both lenses filled.

    Raises:
        UserError: there is no such way.
    """
    kinds: tuple[StoreHidden, ...] = get_args(StoreHidden)
    for kind in kinds:
        if name == kind:
            return kind
    if name != "auto":
        raise UserError(f"--store-hidden must be auto, {', '.join(kinds)}; got '{name}'.")
    for kind in ("fp16", "int8"):
        if predicted_bytes(Columns(n_states, d_model, n_top, kind), AUTO_TOKENS) <= AUTO_BYTES:
            return kind
    return "none"


def pack_hidden(hidden: Array, store_hidden: StoreHidden) -> dict[str, Array]:
    """Hidden states as they are stored: `values` times `scale` is the state.

    fp16: scale 1, unless a finite value of the state exceeds 65504 in size; NaN and infinities
    stay. int8: 127 steps to the largest value of the state; a state with a NaN or an infinity has
    the scale NaN, so that all of it comes back as NaN (its norm, and so its lens, is NaN anyway).

    Args:
        hidden: `[token, state, d_model]`, a float dtype.
        store_hidden: "int8", or float16 otherwise.

    Returns:
        `values` `[token, state, d_model]` float16 or int8, `scale` `[token, state]` float32.
    """
    if store_hidden != "int8" and hidden.dtype == np.float16:
        return {"values": hidden.copy(), "scale": np.ones(hidden.shape[:2], np.float32)}
    exact = hidden.astype(np.float32)
    largest = np.abs(exact).max(axis=2, initial=0.0)
    if store_hidden == "int8":
        return _pack_int8(exact, largest)
    scale = np.ones_like(largest)
    for where in zip(*np.nonzero(~(largest <= HALF_MAX)), strict=True):
        state = exact[where]
        finite = np.abs(state[np.isfinite(state)])
        scale[where] = max(1.0, _rounded_up(finite.max(initial=0.0), HALF_MAX))
        exact[where] = state / scale[where]
    return {"values": exact.astype(np.float16), "scale": scale}


def _pack_int8(exact: NDArray[np.float32], largest: NDArray[np.float32]) -> dict[str, Array]:
    """Symmetric int8 with one scale per token and state."""
    scale = np.where(np.isfinite(largest), largest / np.float32(INT8_MAX), np.float32(np.nan))
    divisor = np.where(scale > 0, scale, np.float32(1))  # 1 also for NaN
    steps = np.rint(exact / divisor[..., None])
    steps = np.clip(np.nan_to_num(steps, nan=0.0), -INT8_MAX, INT8_MAX)
    return {"values": steps.astype(np.int8), "scale": scale.astype(np.float32)}


def _rounded_up(largest: np.float32, limit: float) -> float:
    """A scale that brings `largest` to the limit or just below, whatever float32 rounds."""
    return float(np.nextafter(np.float32(largest / limit), np.float32(np.inf)))


def unpack_hidden(values: Array, scale: Array) -> Array:
    """Hidden states again: float16 where no scale was needed, else float32.

    Args:
        values: `[token, state, d_model]` float16 or int8.
        scale: `[token, state]` float32; 0 in rows that are absent.
    """
    if values.dtype == np.float16 and np.isin(scale, (0, 1)).all():
        return values
    exact: NDArray[np.float32] = values.astype(np.float32)
    exact *= scale[..., None].astype(np.float32)
    return exact


def packed(columns: Columns, group: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Copies of the arrays of a group, as memory and disk keep them.

    Args:
        columns: what a row holds.
        group: "hidden", whose one array is `hidden` `[token, state, d_model]`, or a lens.
        arrays: every array of the group, `[token, ...]`.

    Raises:
        ValueError: an array is missing, is not of the group, or has another shape or dtype.
    """
    if group == HIDDEN:
        shape = (columns.n_states, columns.d_model)
        hidden = arrays.get(HIDDEN)
        if len(arrays) != 1 or hidden is None or hidden.shape[1:] != shape:
            raise ValueError(f"'{HIDDEN}' needs one array [token, {shape[0]}, {shape[1]}]")
        if hidden.dtype.kind != "f":
            raise ValueError(f"hidden states must be of a float dtype, got {hidden.dtype}")
        return pack_hidden(hidden, columns.store_hidden)
    wanted = {column.name: column for column in columns.groups[group].columns}
    if set(arrays) != set(wanted):
        raise ValueError(f"'{group}' needs the arrays {sorted(wanted)}, got {sorted(arrays)}")
    for name, array in arrays.items():
        if array.dtype != np.dtype(wanted[name].dtype) or array.shape[1:] != wanted[name].shape:
            raise ValueError(f"{name} must be {wanted[name]}, got {array.dtype} {array.shape}")
    if len({len(array) for array in arrays.values()}) != 1:
        raise ValueError(f"the arrays of '{group}' have rows of different numbers of tokens")
    return {name: np.array(array) for name, array in arrays.items()}


def unpacked(group: str, arrays: dict[str, Array]) -> dict[str, Array]:
    """What was packed, in the caller's form."""
    if group != HIDDEN:
        return arrays
    return {HIDDEN: unpack_hidden(arrays["values"], arrays["scale"])}
