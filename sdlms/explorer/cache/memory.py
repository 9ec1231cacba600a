"""The first level of the explorer's cache: rows and records in memory, bounded by bytes."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sdlms.explorer.spans import Span, spans_of
from sdlms.storage.flat import Array
from sdlms.storage.row_layout import RowGroup

BLOCK_TOKENS = 64


@dataclass
class _Block:
    """Rows of 64 tokens of one group."""

    arrays: dict[str, Array]
    present: NDArray[np.bool_]

    @property
    def n_bytes(self) -> int:
        """All that it allocates."""
        return sum(array.nbytes for array in self.arrays.values()) + self.present.nbytes


@dataclass
class _Kept:
    """What memory holds of one conversation.

    Attributes:
        blocks: by group and block number, least recently used first.
        record: the encoded record; None where it is on the disk only.
        is_saved: the disk has this record.
        used: time of the last use, seconds.
    """

    blocks: OrderedDict[tuple[str, int], _Block] = field(default_factory=OrderedDict)
    record: bytes | None = None
    is_saved: bool = False
    used: float = 0.0


class MemoryLevel:
    """Rows in blocks, so that growing copies nothing and bytes are counted as allocated.

    Not thread-safe: the cache holds its lock around every call. Records that the disk does not
    have are counted, and never evicted.
    """

    def __init__(self, groups: Mapping[str, RowGroup], limit_bytes: int) -> None:
        self._groups = groups
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # least recently used first
        self.used_bytes = 0

    def ids(self) -> list[str]:
        """Conversations of which a record is here."""
        return [i for i, kept in self._kept.items() if kept.record is not None]

    def size_bytes(self, conversation: str) -> int:
        """What one conversation takes."""
        kept = self._kept.get(conversation, _Kept())
        return sum(block.n_bytes for block in kept.blocks.values()) + len(kept.record or b"")

    def touch(self, conversation: str, now: float) -> None:
        """Note that a conversation is used; one that is not here is passed over."""
        if conversation in self._kept:
            self._kept.move_to_end(conversation)
            self._kept[conversation].used = now

    def record(self, conversation: str) -> bytes | None:
        """The encoded record."""
        kept = self._kept.get(conversation)
        return kept.record if kept is not None else None

    def put_record(self, conversation: str, record: bytes, is_saved: bool, now: float) -> None:
        """Keep a record."""
        kept = self._kept.setdefault(conversation, _Kept())
        self.used_bytes += len(record) - len(kept.record or b"")
        kept.record, kept.is_saved = record, is_saved
        self.touch(conversation, now)
        self._shrink()

    def mark_saved(self, conversation: str, record: bytes) -> None:
        """Note that the disk has this record, unless there is a newer one by now."""
        kept = self._kept.get(conversation)
        if kept is not None and kept.record is record:
            kept.is_saved = True

    def unsaved(self) -> list[str]:
        """Conversations whose record the disk does not have."""
        return [conversation for conversation in self._kept if self.is_unsaved(conversation)]

    def is_unsaved(self, conversation: str) -> bool:
        """Whether it is one of them."""
        kept = self._kept.get(conversation, _Kept())
        return kept.record is not None and not kept.is_saved

    def put(
        self,
        conversation: str,
        group: str,
        positions: Sequence[int],
        arrays: Mapping[str, Array],
        now: float,
    ) -> None:
        """Keep rows; what is used least goes where they do not fit."""
        kept = self._kept.setdefault(conversation, _Kept())
        self.touch(conversation, now)
        for number, inside, rows in _by_block(positions):
            key = group, number
            if key not in kept.blocks:
                kept.blocks[key] = self._new_block(group)
                self.used_bytes += kept.blocks[key].n_bytes
            kept.blocks.move_to_end(key)
            block = kept.blocks[key]
            for name, array in arrays.items():
                block.arrays[name][inside] = array[rows]
            block.present[inside] = True
            self._shrink()

    def _new_block(self, group: str) -> _Block:
        """A block without rows."""
        arrays: dict[str, Array] = {
            column.name: np.zeros((BLOCK_TOKENS, *column.shape), column.dtype)
            for column in self._groups[group].columns
        }
        return _Block(arrays, np.zeros(BLOCK_TOKENS, np.bool_))

    def get(
        self, conversation: str, group: str, positions: Sequence[int], states: Sequence[int]
    ) -> tuple[dict[str, Array], NDArray[np.bool_]]:
        """Copies of some states of rows, zero where a row is not here, and which are."""
        present = np.zeros(len(positions), np.bool_)
        chosen = np.asarray(states, np.int64)
        arrays: dict[str, Array] = {
            column.name: np.zeros((len(positions), len(states), *column.shape[1:]), column.dtype)
            for column in self._groups[group].columns
        }
        blocks = self._kept.get(conversation, _Kept()).blocks
        for number, inside, rows in _by_block(positions):
            block = blocks.get((group, number))
            if block is None:
                continue
            blocks.move_to_end((group, number))
            present[rows] = block.present[inside]
            for name, array in arrays.items():
                array[rows] = block.arrays[name][np.ix_(inside, chosen)]
        for array in arrays.values():
            array[~present] = 0
        return arrays, present

    def marks(self, conversation: str, group: str, n_tokens: int) -> NDArray[np.bool_]:
        """Which of the first tokens have a row here, `[n_tokens]`."""
        present = np.zeros(n_tokens, np.bool_)
        for (name, number), block in self._kept.get(conversation, _Kept()).blocks.items():
            start = number * BLOCK_TOKENS
            if name == group and start < n_tokens:
                present[start : start + BLOCK_TOKENS] = block.present[: n_tokens - start]
        return present

    def held(self, conversation: str, first: int) -> list[tuple[str, Span]]:
        """Group and positions of all rows from `first` on, at most 64 rows at a time."""
        found = []
        for (group, number), block in self._kept.get(conversation, _Kept()).blocks.items():
            places = number * BLOCK_TOKENS + np.flatnonzero(block.present)
            found += [(group, span) for span in spans_of(places[places >= first].tolist())]
        return found

    def truncate(self, conversation: str, n_tokens: int, groups: Sequence[str]) -> None:
        """Forget rows from a position on."""
        blocks = self._kept.get(conversation, _Kept()).blocks
        for group, number in list(blocks):
            start = number * BLOCK_TOKENS
            if group not in groups or start + BLOCK_TOKENS <= n_tokens:
                continue
            if start >= n_tokens:
                self.used_bytes -= blocks.pop((group, number)).n_bytes
            else:
                blocks[group, number].present[n_tokens - start :] = False

    def remove(self, conversation: str) -> None:
        """Forget a conversation, its record too."""
        self.used_bytes -= self.size_bytes(conversation)
        self._kept.pop(conversation, None)

    def expire(self, used_before: float) -> None:
        """Evict what was last used before a time."""
        for conversation in [i for i, kept in self._kept.items() if kept.used < used_before]:
            self._evict(conversation)

    def _evict(self, conversation: str) -> None:
        """Give up the rows of a conversation, and its record where the disk has it."""
        kept = self._kept[conversation]
        if kept.is_saved or kept.record is None:
            self.remove(conversation)
            return
        self.used_bytes -= sum(block.n_bytes for block in kept.blocks.values())
        kept.blocks.clear()

    def _shrink(self) -> None:
        """Evict conversations until all fits; of the last used one, its oldest blocks but one."""
        *others, latest = self._kept
        for conversation in others:
            if self.used_bytes <= self._limit_bytes:
                return
            self._evict(conversation)
        blocks = self._kept[latest].blocks
        while self.used_bytes > self._limit_bytes and len(blocks) > 1:
            self.used_bytes -= blocks.popitem(last=False)[1].n_bytes


def _by_block(
    positions: Sequence[int],
) -> list[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Block number, rows inside the block and indices into `positions`, block by block."""
    wanted = np.asarray(positions, np.int64)
    numbers = wanted // BLOCK_TOKENS
    found = []
    for number in np.unique(numbers):
        rows = np.flatnonzero(numbers == number)
        found.append((int(number), wanted[rows] - number * BLOCK_TOKENS, rows))
    return found
