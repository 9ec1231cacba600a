from pathlib import Path

import numpy as np
import pytest
import torch

from sdlms.acts.handle import Acts
from sdlms.probes.batches import ActsBatches
from tests.probes.toy_lessons import N_UNITS, toy_acts

GROUPS = [np.array([5, 0]), np.array([3]), np.array([7, 8, 1])]


@pytest.mark.parametrize("dims", ["bh", "bsh", "blh", "blsh"])
@pytest.mark.parametrize("on_disk", [False, True])
def test_batches_are_the_documents_layers_first(tmp_path: Path, dims: str, on_disk: bool) -> None:
    acts = toy_acts(tokens="s" in dims)
    acts = acts if "l" in dims else acts.select_layers(1)
    whole = acts.realize()
    read = acts.save(tmp_path / "acts.h5") if on_disk else acts
    data = ActsBatches(read)
    n_layers = 2 if "l" in dims else 1
    assert (data.n_documents, data.n_layers, data.n_units) == (40, n_layers, N_UNITS)
    assert (data.lengths is None) == ("s" not in dims)
    for _ in range(2):
        for batch, group in zip(data.batches(GROUPS), GROUPS, strict=True):
            assert batch.documents.tolist() == group.tolist()
            assert batch.x.dtype == torch.float32
            x = whole.tensor[group]
            x = x.transpose(0, 1) if "l" in dims else x[None]
            if batch.mask is None:
                assert torch.equal(batch.x, x)
                continue
            width = batch.mask.shape[1]
            assert width == data.lengths[group].max()
            assert torch.equal(batch.mask, whole.mask[group][:, :width])
            assert torch.equal(batch.x, x[:, :, :width])


def test_stored_types_are_read_as_float32() -> None:
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    (batch,) = ActsBatches(Acts(x, "bh")).batches([np.arange(6)])
    assert torch.equal(batch.x[0], x.float())


def test_a_file_is_read_group_by_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making the batches reads nothing; each reads its own documents when it is asked for."""
    read: list[list[str]] = []
    real = Acts.realize

    def watch(acts: Acts) -> Acts:
        read.append(acts.document_ids)
        return real(acts)

    monkeypatch.setattr(Acts, "realize", watch)
    batches = ActsBatches(toy_acts().save(tmp_path / "acts.h5")).batches(GROUPS)
    assert read == []
    next(batches)
    next(batches)
    assert read == [["5", "0"], ["3"]]
