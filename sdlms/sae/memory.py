"""Whether a sweep fits the memory, said before it begins; and one line where it does not after all.

Linux grants memory that is not there and ends the process later: on a CPU only the first helps.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from sdlms.errors import UserError
from sdlms.models.batching import is_out_of_memory
from sdlms.models.device import memory_of
from sdlms.progress import readable_bytes
from sdlms.sae.members import Member
from sdlms.sae.stream import CHAPTER_BYTES

# Of a member while it learns: weights, gradients, two moments of Adam, and the best weights.
COPIES = 5
FLOAT_BYTES = 4


def learning_bytes(members: Sequence[Member]) -> int:
    """What all members take while they learn; the room that a step needs is not counted."""
    weights = sum((2 * own.recipe.d_in + 4) * own.recipe.width for own in members)
    return COPIES * FLOAT_BYTES * weights


def chapter_bytes(members: Sequence[Member]) -> int:
    """What the activations that they learn from take at once, or a little less; in float32.

    Args:
        members: of all layers, by recipes that differ in coefficient and seed alone.
    """
    recipe = members[0].recipe
    token_bytes = FLOAT_BYTES * recipe.d_in * len({own.layer for own in members})
    n_least = 4 * recipe.batch_size
    n_most = recipe.n_steps * recipe.batch_size * 21 // 20  # a twentieth is left over
    return min(n_most * token_bytes, max(CHAPTER_BYTES, n_least * token_bytes))


def check_memory(members: Sequence[Member], device: torch.device) -> None:
    """Make sure that a sweep can be begun. Activations lie in the machine's memory.

    Args:
        members: of all layers.
        device: where they learn.

    Raises:
        UserError: it takes more memory than is free.
    """
    needed = {device: learning_bytes(members)}
    host = torch.device("cpu") if device.type == "cuda" else device  # others share its memory
    needed[host] = needed.get(host, 0) + chapter_bytes(members)
    for place, size_bytes in needed.items():
        _, free_bytes = memory_of(place)
        if size_bytes > free_bytes:
            raise UserError(
                f"training {len(members)} members takes {readable_bytes(size_bytes)} of memory, "
                f"{place} has {readable_bytes(free_bytes)} free. Name fewer --layers or "
                "coefficients, fewer --seeds, or a smaller --expansion."
            )


@contextmanager
def within_memory(what: str, device: torch.device, remedy: str) -> Iterator[None]:
    """Say in one line that the block's work does not fit. Smaller parts would be other results.

    Args:
        what: its subject, in the plural.
        device: where it is done.
        remedy: what to do about it, a sentence.

    Raises:
        UserError: an allocation failed.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(f"{what} do not fit the memory of {device}. {remedy}") from None
