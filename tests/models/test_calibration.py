"""The arithmetic, and the measuring against an allocator whose rule is known."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.models.calibration import (
    DeviceMemory,
    budget_within,
    bytes_to_leave,
    check_free_memory,
    measured_budget,
    size_bytes,
)

GB = 10**9


@pytest.mark.parametrize(
    ("free_memory", "expected"),
    [
        ("auto", 8 * GB),  # 10 % would be 14 GB
        ("8GB", 8 * GB),
        ("8 gb", 8 * GB),
        ("0.5GB", GB // 2),
        ("500MB", GB // 2),
        ("8GiB", 8 * 2**30),
        ("0GB", 0),
        ("10%", 14 * GB),
        ("12.5 %", 17.5 * GB),
    ],
)
def test_what_is_left_free(free_memory: str, expected: int) -> None:
    check_free_memory(free_memory)
    assert bytes_to_leave(free_memory, 140 * GB) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("1kB", 1_000), ("1 KiB", 1024), ("1.5gb", 1.5 * GB), ("2TB", 2000 * GB)]
)
def test_sizes_are_powers_of_1000_and_with_an_i_of_1024(text: str, expected: int) -> None:
    assert size_bytes(text) == expected


@pytest.mark.parametrize("text", ["10%", "auto", "1", "", "1e3MB"])
def test_what_is_no_size_has_no_bytes(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        size_bytes(text)


def test_auto_leaves_a_small_card_most_of_its_memory() -> None:
    assert bytes_to_leave("auto", 24 * GB) == 2.4 * GB
    assert bytes_to_leave("auto", 80 * GB) == 8 * GB


@pytest.mark.parametrize(
    "free_memory", ["8", "GB", "-8GB", "8 GB free", "100%", "1e3MB", "", "8PB"]
)
def test_what_is_no_size_is_one_clear_line(free_memory: str) -> None:
    for total in (GB, 140 * GB):
        with pytest.raises(UserError, match=r"--free-memory .* is neither a size \(8GB"):
            bytes_to_leave(free_memory, total)


def test_more_than_the_device_has_is_refused() -> None:
    with pytest.raises(UserError, match=r"--free-memory 24GB: the device has 24\.0 GB in all"):
        bytes_to_leave("24GB", 24 * GB)


@given(st.integers(-(10**12), 10**12), st.floats(0, 1e9), st.integers(1, 10**6))
def test_the_budget_is_the_largest_that_fits(room: int, per_token: float, most: int) -> None:
    budget = budget_within(room, per_token, most)
    assert 1 <= budget <= most
    assert budget == 1 or per_token == 0 or budget * per_token <= room
    if budget < most:
        assert budget & (budget - 1) == 0  # a power of two
        assert min(2 * budget, most) * per_token > room


def test_a_little_more_free_memory_gives_the_same_batches() -> None:
    assert {budget_within(room, 1000, 16384) for room in range(5_000_000, 8_000_000, 7919)} == {
        4096
    }


class Card:
    """A device on which each token of a batch takes `per_token` and workspaces stay."""

    def __init__(self, total: int, weights: int, others: int, per_token: int) -> None:
        self.total, self.others, self.per_token = total, others, per_token
        self.held = self.peak = weights

    def run(self, n_tokens: int) -> None:
        if self.peak == self.held:  # the first forward
            self.held += 3 * 10**8
        self.peak = max(self.peak, self.held + n_tokens * self.per_token)

    def read(self) -> DeviceMemory:
        memory = DeviceMemory(
            self.total, self.total - self.others - self.held, self.held, self.peak
        )
        self.peak = self.held + 1
        return memory


def probe_of(cards: list[Card], n_tokens: int) -> Callable[[], int]:
    def probe() -> int:
        for card in cards:
            card.run(n_tokens)
        return n_tokens

    return probe


def test_the_measured_budget_leaves_what_was_asked_for() -> None:
    card = Card(24 * GB, weights=13 * GB, others=GB, per_token=10**6)
    budget = measured_budget(probe_of([card], 2000), lambda: [card.read()], "2GB", 16384)
    assert budget == 4096
    left = card.total - card.others - card.held - budget * card.per_token
    assert 2 * GB <= left < 2 * GB + (budget + 1) * card.per_token


def test_plenty_of_memory_gives_the_usual_budget() -> None:
    card = Card(140 * GB, weights=GB, others=0, per_token=10**5)
    assert measured_budget(probe_of([card], 2000), lambda: [card.read()], "auto", 16384) == 16384


def test_too_little_memory_means_one_document_at_a_time() -> None:
    card = Card(24 * GB, weights=23 * GB, others=0, per_token=10**6)
    assert measured_budget(probe_of([card], 100), lambda: [card.read()], "auto", 16384) == 1


def test_of_several_devices_the_fullest_decides() -> None:
    def budget(weights: list[int]) -> int:
        cards = [Card(24 * GB, each, 0, 10**6) for each in weights]
        read = lambda: [card.read() for card in cards]  # noqa: E731
        return measured_budget(probe_of(cards, 2000), read, "2GB", 16384)

    assert budget([5 * GB, 20 * GB]) == budget([20 * GB, 5 * GB]) == budget([20 * GB]) < 16384
