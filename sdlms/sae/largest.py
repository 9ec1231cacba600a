"""The largest few of many, row by row."""

import torch
from torch import Tensor

GROUP = 8


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, in no particular order.

    They are sought among the columns of the k groups with the largest maxima: any other group
    holds at most what k groups reach. Where groups are too few for that to pay, in all columns.

    Args:
        values: `[row, column]`; NaN counts as largest.
        k: at most the columns.

    Returns:
        Values and column indices, `[row, k]` each; of equal values any, but always the same.
    """
    n_rows, n_columns = values.shape
    n_groups = n_columns // GROUP
    if n_columns % GROUP or n_groups < 2 * k:
        found, columns = torch.topk(values, k, sorted=False)
        return found, columns
    # A group's columns lie n_groups apart, so that maxima are taken over whole stretches.
    maxima = values.view(n_rows, GROUP, n_groups).amax(1)
    groups = torch.topk(maxima, k, sorted=False).indices
    steps = torch.arange(0, n_columns, n_groups, device=values.device)
    columns = (groups[:, None, :] + steps[None, :, None]).view(n_rows, GROUP * k)
    found, which = torch.topk(values.gather(1, columns), k, sorted=False)
    return found, columns.gather(1, which)
