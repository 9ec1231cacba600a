import gc

import torch

from sdlms.sae.scratch import shared_scratch

CPU = torch.device("cpu")


def test_room_is_made_once_and_shared_by_equal_sizes() -> None:
    one, other = shared_scratch(CPU, 8, 32), shared_scratch(CPU, 8, 32)
    assert one is other
    assert shared_scratch(CPU, 8, 64) is not one
    whole = one.tensor("a", (6, 4), torch.float32)
    part = other.tensor("a", (3, 4), torch.float32)
    assert part.shape == (3, 4)
    assert part.data_ptr() == whole.data_ptr()


def test_names_and_types_have_rooms_of_their_own() -> None:
    scratch = shared_scratch(CPU, 8, 32)
    rooms = [scratch.tensor("a", (2,), torch.float32), scratch.tensor("b", (2,), torch.float32)]
    rooms.append(scratch.tensor("a", (2,), torch.bfloat16))
    assert len({room.data_ptr() for room in rooms}) == 3


def test_more_rows_get_more_room() -> None:
    scratch = shared_scratch(CPU, 8, 32)
    scratch.tensor("a", (2, 4), torch.float32)
    assert scratch.tensor("a", (9, 4), torch.float32).shape == (9, 4)


def test_it_goes_with_its_last_user() -> None:
    first = shared_scratch(CPU, 8, 32)
    first.tensor("a", (2, 4), torch.float32).fill_(7.0)
    del first
    gc.collect()
    assert not shared_scratch(CPU, 8, 32)._tensors
