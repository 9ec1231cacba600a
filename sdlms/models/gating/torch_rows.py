"""Products with some rows of a matrix in torch alone, on any device and for any float type.

`embedding_bag` gathers rows and sums them with weights in one pass, without a copy of the rows.
"""

import functools

import torch
from torch import Tensor
from torch.nn import functional

# Bags are summed side by side, each row after row. Four for each thread of a CPU: a core that is
# busy with something else delays one of them only. A GPU sums a bag with a handful of its threads.
BAGS_OF_A_THREAD = 4
BAGS_OF_A_GPU = 64


class Torch:
    """The backend that is always there."""

    name = "torch"

    @torch.no_grad()
    def dense(self, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
        """See `Backend.dense`."""
        return functional.linear(x, weight, bias)

    @torch.no_grad()
    def listed(self, rows: Tensor, bias: Tensor | None, x: Tensor, indices: Tensor) -> Tensor:
        """See `Backend.listed`."""
        _check(rows, x)
        return _sum_of(rows, bias, indices, x.index_select(0, indices))

    @torch.no_grad()
    def largest(
        self, rows: Tensor, bias: Tensor | None, x: Tensor, weights: Tensor | None, keep: int
    ) -> Tensor:
        """See `Backend.largest`."""
        _check(rows, x)
        if not 1 <= keep <= len(x):
            raise ValueError(f"keep must be in [1, {len(x)}], got {keep}")
        if keep == len(x):  # faster than a product with the transposed matrix, too
            return _sum_of(rows, bias, _ascending(keep, x.device), x)
        return self.listed(rows, bias, x, largest_of(x, weights, keep))

    @torch.no_grad()
    def above(
        self, rows: Tensor, bias: Tensor | None, x: Tensor, weights: Tensor | None, least: float
    ) -> tuple[Tensor, int]:
        """See `Backend.above`."""
        kept = ~(scores_of(x, weights) <= least)  # NaN is kept: it must reach the output
        indices = kept.nonzero().view(-1)
        return self.listed(rows, bias, x, indices), len(indices)


def scores_of(x: Tensor, weights: Tensor | None) -> Tensor:
    """`abs(x) * weights` in float32, of the shape of x; weights are float32, None is 1."""
    return (x.float() if weights is None else x * weights).abs()


def largest_of(x: Tensor, weights: Tensor | None, keep: int) -> Tensor:
    """Indices int64 of the `keep` largest scores, in no order; of equal ones the first are kept.

    A score's bits, which have the order of the scores, and below them the index counted from the
    end make one int64, so that ties need no further pass; and int64 is selected faster than
    float32. NaN is above infinity.

    Args:
        x: `[..., neuron]`.
        weights: `[neuron]` float32, none negative; None is 1.
        keep: how many, at least 1.

    Returns:
        `[..., keep]`.
    """
    bits = scores_of(x, weights).view(torch.int32)
    keys = torch.add(_descending(x.shape[-1], x.device), bits, alpha=1 << 32)
    return keys.topk(keep, sorted=False).indices


def _check(rows: Tensor, x: Tensor) -> None:
    """Torch itself would take an input that is too short."""
    if x.shape != rows.shape[:1]:
        raise ValueError(f"x must be [{rows.shape[0]}], got {list(x.shape)}")


def _sum_of(rows: Tensor, bias: Tensor | None, indices: Tensor, factors: Tensor) -> Tensor:
    """Sum of `factors[i] * rows[indices[i]]`, + bias; each thread sums some bags of rows."""
    n_bags = BAGS_OF_A_THREAD * torch.get_num_threads() if rows.is_cpu else BAGS_OF_A_GPU
    offsets = _offsets(len(indices), n_bags, rows.device)
    bags = functional.embedding_bag(indices, rows, offsets, mode="sum", per_sample_weights=factors)
    total = bags.sum(0)
    return total if bias is None else total + bias


@functools.lru_cache(maxsize=64)
def _ascending(n: int, device: torch.device) -> Tensor:
    """0, …, n-1 as int64."""
    return torch.arange(n, device=device)


@functools.lru_cache(maxsize=64)
def _descending(n: int, device: torch.device) -> Tensor:
    """n-1, …, 0 as int64."""
    return torch.arange(n - 1, -1, -1, device=device)


@functools.lru_cache(maxsize=4096)
def _offsets(n: int, n_bags: int, device: torch.device) -> Tensor:
    """Where each of `n_bags` equal parts of n begins, int64."""
    return torch.tensor([n * bag // n_bags for bag in range(n_bags)], device=device)
