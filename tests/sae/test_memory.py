"""What a sweep takes is known before it begins; what fails for want of memory is one line."""

from dataclasses import replace

import pytest
import torch

from sdlms.errors import UserError
from sdlms.models.device import memory_of
from sdlms.sae.initial import initial_weights
from sdlms.sae.members import Member, members_of
from sdlms.sae.memory import (
    COPIES,
    chapter_bytes,
    check_memory,
    learning_bytes,
    within_memory,
)
from sdlms.sae.stream import CHAPTER_BYTES
from sdlms.sae.trainers import learner_of
from tests.sae.recipes import recipe
from tests.sae.sweeps import CPU, prepared_acts, small_members, sparse_acts


def members(n_layers: int = 2, n_seeds: int = 3, **changes: object) -> list[Member]:
    return members_of(recipe("standard", **changes), range(n_layers), (0.1,), range(n_seeds))


@pytest.mark.parametrize("trainer", ["auto", "sae-lens"])
def test_a_member_takes_what_was_predicted(trainer: str) -> None:
    own = recipe("standard", d_in=16, width=256)
    initial = initial_weights(own, torch.zeros(16))
    learner = learner_of(own, initial, torch.float32, CPU, trainer)  # type: ignore[arg-type]
    learner.step(torch.randn(own.batch_size, 16))
    counted = {t.data_ptr(): t.nbytes for t in learner.state().values() if t.numel() > 256}
    counted |= {t.data_ptr(): t.nbytes for t in learner.state().values() if t.numel() <= 256}
    weights = sum(tensor.nbytes for tensor in learner.weights().values())
    held = sum(counted.values()) + 2 * weights  # the gradients, and a copy of the best weights
    predicted = learning_bytes([Member(0, "one", own)])
    assert 0.9 * predicted < held < 1.02 * predicted
    assert predicted == COPIES * 4 * (2 * 16 + 4) * 256


def test_members_add_up() -> None:
    one = learning_bytes(members(1, 1))
    assert learning_bytes(members(2, 3)) == 6 * one


def test_a_chapter_takes_no_more_than_was_predicted() -> None:
    prepared = prepared_acts(sparse_acts())
    (chapter,) = prepared.stream.chapters(0)
    own = small_members(d_in=8, batch_size=64, n_steps=100)
    assert prepared.stream.read(chapter).nbytes <= chapter_bytes(own) == 105 * 64 * 2 * 8 * 4
    assert chapter_bytes(members(n_steps=10**9)) == CHAPTER_BYTES
    large = members(n_layers=1, d_in=4096, batch_size=1 << 16, n_steps=1000)
    assert chapter_bytes(large) == 4 * (1 << 16) * 4096 * 4  # four batches at least


def test_what_fits_may_begin() -> None:
    check_memory(members(), CPU)


def test_more_than_is_free_is_refused() -> None:
    _, free_bytes = memory_of(CPU)
    width = free_bytes // (COPIES * 4 * (2 * 8 + 4))
    one = members(1, 1, d_in=8, width=width // 2)
    check_memory(one, CPU)
    with pytest.raises(UserError, match=r"training 3 members takes \S+ [GT]B of memory, cpu has"):
        check_memory([replace(one[0], name=name) for name in "abc"], CPU)


def test_too_little_memory_is_one_line() -> None:
    with (
        pytest.raises(UserError, match=r"^3 members do not fit the memory of cpu\. Name fewer\.$"),
        within_memory("3 members", CPU, "Name fewer."),
    ):
        torch.empty(2**50)


@pytest.mark.parametrize("error", [RuntimeError("a shape is wrong"), ValueError("out of memory")])
def test_other_errors_are_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)), within_memory("all", CPU, "Name fewer."):
        raise error
