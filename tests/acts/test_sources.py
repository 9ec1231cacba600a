"""What tensors of the user's are taken, and that they are read as they are."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdlms.acts.description import Ranges, whole
from sdlms.acts.handle import Acts
from sdlms.acts.sources import Cost, Wanted, blocks_of, largest_block, steps_of, tensor_source
from sdlms.errors import UserError

X = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).view(2, 3, 4, 5)
MASK = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0]])

REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "axes": ({"dims": "bls"}, "dims='bls' is none of bh, bsh, blh, blsh"),
    "order": ({"dims": "lbsh"}, "dims='lbsh' is none of"),
    "number of axes": ({"dims": "bsh"}, "dims='bsh' needs 3 axes, the tensor has 4"),
    "no mask": ({"mask": None}, r"dims='blsh' needs a mask \[2, 4\]"),
    "mask shape": ({"mask": MASK[:, :3]}, r"the mask is \[2, 3\], dims='blsh' needs \[2, 4\]"),
    "mask transposed": ({"mask": MASK.T}, r"the mask is \[4, 2\]"),
    "mask values": ({"mask": MASK * 2}, "other values than 0 and 1"),
    "mask NaN": ({"mask": MASK * torch.nan}, "other values than 0 and 1"),
    "mask not allowed": (
        {"tensor": X[:, 0, 0], "dims": "bh", "mask": MASK},
        "dims='bh' has no tokens, so it takes no mask",
    ),
    "double": ({"tensor": X.double()}, "the tensor is torch.float64; float16, bfloat16 or float32"),
    "integers": ({"tensor": X.int()}, "the tensor is torch.int32"),
    "no tensor": (
        {"tensor": [[1.0]], "dims": "bh"},
        "a tensor or a numpy array is needed",
    ),
    "objects": ({"tensor": np.array([[None]]), "dims": "bh"}, "the tensor cannot be made of a nda"),
    "no units": ({"tensor": X[..., :0]}, r"the tensor \[2, 3, 4, 0\] has no units"),
    "ragged mask": ({"mask": [[1], [1, 0]]}, "the mask cannot be made of a list"),
    "mask of words": ({"mask": "ab"}, "the mask cannot be made of a str"),
    "few layers": ({"layers": [1]}, r"layers=\[1\]: 3 different ones"),
    "a layer twice": ({"layers": [1, 1, 2]}, r"layers=\[1, 1, 2\]: 3 different ones"),
    "negative layer": ({"layers": [0, 1, -1]}, "from 0 on"),
    "layers of one": ({"tensor": X[:, 0], "dims": "bsh", "layers": [1, 2]}, "1 different ones"),
    "few documents": ({"documents": ["a"]}, "documents: 1 ids for 2 documents"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_does_not_fit_together_is_refused_in_one_line(what: str) -> None:
    arguments, message = REFUSALS[what]
    with pytest.raises(UserError, match=message) as refused:
        Acts(**{"tensor": X, "dims": "blsh", "mask": MASK, **arguments})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("mask", [MASK, MASK.numpy(), MASK.bool().numpy(), MASK.tolist()])
def test_arrays_and_lists_are_taken_as_tensors_are(mask: Any) -> None:
    expected = Acts(X, "blsh", MASK).mean_pool().realize().tensor
    locked = X.numpy().copy()
    locked.setflags(write=False)
    for x in (X, X.numpy(), locked, X.numpy()[::-1][::-1], X.numpy().copy(order="F")):
        assert torch.equal(Acts(x, "blsh", mask).mean_pool().realize().tensor, expected)
    backwards = Acts(X.numpy()[::-1], "blsh", MASK.flip(0)).mean_pool().realize().tensor
    assert torch.equal(backwards, expected.flip(0))


def test_padding_is_what_lies_behind_the_last_readable_token() -> None:
    acts = Acts(X, "blsh", MASK)
    assert acts.lengths.tolist() == [3, 1]
    assert acts.shape == (2, 3, 3, 5) == tuple(acts.tensor.shape)
    assert acts.mask is not None and acts.mask.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert acts.tensor.data_ptr() == X.data_ptr()  # nothing is copied


@pytest.mark.parametrize("mask", [torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.bool)])
def test_nothing_to_read_is_allowed(mask: torch.Tensor) -> None:
    acts = Acts(X, "blsh", mask)
    assert acts.shape == (2, 3, 0, 5)
    assert acts.mean_pool().realize().tensor.isnan().all()
    assert not acts.sum_pool().realize().tensor.any()


def test_no_tokens_and_no_documents_are_allowed() -> None:
    assert Acts(X[:, :, :0], "blsh", MASK[:, :0]).mean_pool().realize().shape == (2, 3, 5)
    empty = Acts(X[:0], "blsh", MASK[:0])
    assert empty.mean_pool().realize().shape == (0, 3, 5)
    assert empty.realize().shape == (0, 3, 0, 5)


def test_names_are_taken_or_counted() -> None:
    named = Acts(X[:, 0, 0], "bh", layers=[7], documents=[12, "b"])  # type: ignore[list-item]
    assert named.layers == (7,) and named.document_ids == ["12", "b"]
    counted = Acts(X[:, :, 0], "blh")
    assert counted.layers == (0, 1, 2) and counted.document_ids == ["0", "1"]
    assert counted.document_tasks == ["", ""] and counted.site == "acts"


def test_a_parameter_can_be_read() -> None:
    parameter = torch.nn.Parameter(X.clone())
    acts = Acts(parameter, "blsh", MASK).mean_pool()
    found = acts.realize().tensor
    assert not found.requires_grad
    torch.testing.assert_close(found[1], X[1, :, 0])
    assert len(acts.cast("bfloat16")._source.fingerprint()) == 64


def test_a_view_of_any_layout_is_read_right() -> None:
    odd = X.permute(3, 1, 2, 0).contiguous().permute(3, 1, 2, 0)[:, :, :, ::2]
    assert not odd.is_contiguous()
    found = Acts(odd, "blsh", MASK).select_layers(1).slice_batch([0]).realize().tensor
    assert torch.equal(found[0], odd[0, 1, :3])


@given(st.lists(st.integers(0, 5000), max_size=20))
def test_blocks_hold_every_range_once_and_stay_small(lengths: list[int]) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    ranges = Ranges(np.arange(len(sizes)), np.zeros_like(sizes), sizes)
    blocks = blocks_of(ranges)
    assert [i for block in blocks for i in block] == list(range(len(sizes)))
    assert all(len(block) == 1 or sizes[block].sum() <= 8192 for block in blocks)
    assert largest_block(ranges) == max((sizes[block].sum() for block in blocks), default=0)
    assert steps_of(ranges).tolist() == [i for length in lengths for i in range(length)]


def test_a_scan_hands_over_each_row_of_each_layer_once() -> None:
    source = tensor_source(X, "blsh", MASK)
    ranges = whole(source.description, np.array([1, 0, 1]))
    seen: list[tuple[int, list[int], list[float]]] = []
    source.scan(
        Wanted(ranges, [2, 0], masked=False, together=False),
        lambda positions, rows: [rows],
        lambda layer, positions, found: seen.append(
            (layer, positions.tolist(), found[0][:, 0].tolist())
        ),
    )
    places = [(1, 0), (0, 0), (0, 1), (0, 2), (1, 0)]
    expected = {layer: [X[d, layer, s, 0].item() for d, s in places] for layer in (2, 0)}
    assert seen == [(layer, [0, 1, 2], expected[layer]) for layer in (2, 0)]
    assert source.ids(ranges).tolist() == [-1] * 5  # nobody knows them
    assert source.mask(ranges).tolist() == [True, False, True, True, True]


def test_a_fingerprint_tells_every_difference() -> None:
    def fingerprint(tensor: torch.Tensor = X, mask: torch.Tensor = MASK, **names: Any) -> str:
        return tensor_source(tensor, "blsh", mask, **names).fingerprint()

    changed = X.clone()
    changed[1, 2, 0, 4] += 1e-3
    prints = [
        fingerprint(),
        fingerprint(changed),
        fingerprint(mask=torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])),
        fingerprint(X.bfloat16()),
        fingerprint(layers=[0, 1, 3]),
        fingerprint(documents=["a", "b"]),
        tensor_source(X[:, 0], "bsh", MASK).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)
    assert fingerprint(X.clone()) == prints[0]


def test_a_tensor_costs_no_reading() -> None:
    source = tensor_source(X, "blsh", MASK)
    wanted = Wanted(whole(source.description, np.array([0, 1])), [0], masked=True, together=False)
    assert source.cost(wanted) == Cost(bytes_read=0, buffer_bytes=4 * 5 * 4, block_rows=4)
