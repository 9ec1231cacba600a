from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sdlms.probes.members import Members

SIZES = st.integers(1, 4)


@given(SIZES, SIZES, SIZES)
def test_a_grid_is_every_layer_seed_and_label_in_order(
    layers: int, seeds: int, labels: int
) -> None:
    grid = Members.grid(layers, tuple(range(7, 7 + seeds)), labels)
    cells = list(zip(grid.layer.tolist(), grid.seed.tolist(), grid.label.tolist(), strict=True))
    assert cells == list(product(range(layers), range(seeds), range(labels)))
    assert cells[((layers - 1) * seeds + seeds - 1) * labels] == (layers - 1, seeds - 1, 0)


@given(SIZES, SIZES, SIZES, st.data())
def test_runs_cover_what_is_left_and_share_a_row(
    layers: int, seeds: int, labels: int, data: st.DataObject
) -> None:
    grid = Members.grid(layers, tuple(range(seeds)), labels)
    chosen = data.draw(st.sets(st.integers(0, len(grid) - 1), min_size=1))
    left = grid.subset(np.array(sorted(chosen)))
    for runs, rows in (
        (left.layer_runs, [left.layers.index(layer) for layer in left.layer]),
        (left.seed_runs, left.seed.tolist()),
    ):
        spread = [run.row for run in runs for _ in range(run.first, run.last)]
        assert spread == rows
        assert [run.first for run in runs] == [0, *(run.last for run in runs)][:-1]
    assert len(left.layer_runs) == len(left.layers) == len(set(left.layer.tolist()))
    assert left.seed_rows.tolist() == left.seed.tolist()
