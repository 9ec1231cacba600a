"""How often units fire together, counted exactly; and units rotated within their documents."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import pad

# Tokens of one product; enough of them that adding it to the counts is a small part of the work.
BLOCK_TOKENS = 8192
# Strips into which the units are cut; half of one part in so many is worked out in vain.
N_STRIPS = 8
# Below this share of firings a product over those that fire is faster than a dense one of int8.
SPARSE_DENSITY = 0.01
# cuBLAS wants sizes that are multiples of 8 and more than 16 rows.
PADDING = 32

# From first and last: joint counts of units first .. last - 1 with units first .. n_units - 1.
Strips = Callable[[int, int], Tensor]


def add_coactivations_(counts: Tensor, firing: NDArray[np.uint8]) -> None:
    """Add, for every two units, the number of tokens on which both fire.

    Only the upper triangle is worked out, strip by strip: beside `counts` there is one block of
    tokens and one strip. Products are sparse where few units fire, elsewhere of int8, or of
    float32 on a device without; the device and the share of firings decide. All are exact.

    Args:
        counts: `[unit, unit]` int32, on the device that is to count; changed where row <= column,
            unspecified below the diagonal. Exact up to 2^31 tokens in all.
        firing: `[token, unit]`, 0 or 1.
    """
    n_units = len(counts)
    height = max(math.ceil(n_units / (N_STRIPS * PADDING)), 1) * PADDING
    for row in range(0, len(firing), BLOCK_TOKENS):
        strips = _strips(firing[row : row + BLOCK_TOKENS], counts.device)
        for first in range(0, n_units, height):
            last = min(first + height, n_units)
            counts[first:last, first:] += strips(first, last)


def _strips(firing: NDArray[np.uint8], device: torch.device) -> Strips:
    """The way of counting that suits the device and the share of firings."""
    density = np.count_nonzero(firing) / max(firing.size, 1)
    if device.type == "cpu" and density < SPARSE_DENSITY:
        return _sparse_strips(firing)
    tokens = torch.from_numpy(np.require(firing, requirements=["C", "W"])).to(device)
    return _int8_strips(tokens) if _multiplies_int8(device) else _float_strips(tokens)


def _multiplies_int8(device: torch.device) -> bool:
    """Whether torch has a fast int8 product there; its substitute on other CPUs is a plain loop."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (7, 5)
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability().startswith("AVX")
    )


def _int8_strips(tokens: Tensor) -> Strips:
    """Products of int8 with sums in int32."""
    n_tokens, n_units = tokens.shape
    missing = (0, -n_units % PADDING, 0, -n_tokens % PADDING)
    padded = (pad(tokens, missing) if any(missing) else tokens).view(torch.int8)

    def strip(first: int, last: int) -> Tensor:
        end = last + -last % PADDING
        product = torch._int_mm(padded[:, first:end].t(), padded[:, first:])
        return product[: last - first, : n_units - first]

    return strip


def _float_strips(tokens: Tensor) -> Strips:
    """Products of float32, whose sums are exact up to 2^24 tokens."""
    floats = tokens.float()

    def strip(first: int, last: int) -> Tensor:
        return (floats[:, first:last].t() @ floats[:, first:]).int()

    return strip


def _sparse_strips(firing: NDArray[np.uint8]) -> Strips:
    """Products over the pairs that fire."""
    n_tokens, n_units = firing.shape
    rows, units = np.divmod(np.flatnonzero(firing), n_units)
    ends = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_tokens))])
    by_token = csr_array((np.ones(len(units), np.int32), units, ends), shape=firing.shape)
    by_unit = by_token.T.tocsr()

    def strip(first: int, last: int) -> Tensor:
        return torch.from_numpy((by_unit[first:last] @ by_token[:, first:]).toarray())

    return strip


def circular_shift(
    firing: NDArray[np.uint8], offsets: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.uint8]:
    """Rotate every unit within every document by a random number of tokens of its own.

    What two units have in common beyond their counts per document is lost; each keeps those, and
    its autocorrelation (around the document's end). Units are packed eight to a byte and a
    rotation is done power of two by power of two, so that a document takes few passes.

    Args:
        firing: `[token, unit]`, 0 or 1.
        offsets: `[document + 1]` rows of the documents, from 0 to n_tokens.
        generator: draws, document by document, each unit's rotation, uniform in 0 .. length - 1.

    Returns:
        `[token, unit]`, 0 or 1; row r of a document of length n stands at (r + rotation) mod n.
    """
    n_units = firing.shape[1]
    packed = np.packbits(firing, axis=1)
    for first, last in pairwise(offsets.tolist()):
        if last - first > 1:
            _rotate_(packed[first:last], generator.integers(0, last - first, size=n_units))
    return np.unpackbits(packed, axis=1, count=n_units)


def _rotate_(document: NDArray[np.uint8], rotations: NDArray[np.int64]) -> None:
    """Move each unit of one document, `[token, unit / 8]`, down by its own number of rows."""
    bits = np.arange((len(document) - 1).bit_length())
    chosen = np.packbits((rotations >> bits[:, None] & 1).astype(np.uint8), axis=1)
    for bit in bits.tolist():
        # As numpy.roll, whose own overhead is several times the copy of a short document.
        changed = np.concatenate([document[-(1 << bit) :], document[: -(1 << bit)]])
        changed ^= document
        changed &= chosen[bit]
        document ^= changed
