from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sdlms.acts import sources
from sdlms.structure.streaming import scan_documents
from sdlms.structure.subject import Subject, open_subject
from sdlms.structure.threshold_rule import AUTO
from tests.acts.samples import Sample, sample
from tests.acts.sparse_samples import sparse_sample
from tests.stages.probe_runs import published
from tests.structure.read_runs import captured, published_latents

LENGTHS = (3, 1, 7, 4, 2, 6)


def subject_of(work: Path, data: Sample, *, latents: bool = False) -> Subject:
    run = published_latents(work, data) if latents else published(work, data)
    return open_subject(run, None, ("all",), AUTO)


def expected(subject: Subject, data: Sample, layer: int, chosen: list[int]) -> list[Tensor]:
    """Tokens of mask 1, in a plain loop."""
    rows, acts = data.rows, data.acts[layer]
    documents = subject.documents.indices[chosen].tolist()
    spans = [range(rows.offsets[d], rows.offsets[d + 1]) for d in documents]
    return [acts[[i for i in span if rows.mask[i]]] for span in spans]


@pytest.mark.parametrize("latents", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("block", [1, 8, 8192])
def test_documents_come_in_the_order_in_which_they_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    latents: bool,
    dtype: torch.dtype,
    block: int,
) -> None:
    monkeypatch.setattr(sources, "BLOCK_TOKENS", block)
    made = sparse_sample(LENGTHS, 1) if latents else sample(LENGTHS, 1, dtype=dtype)
    subject = subject_of(tmp_path, made, latents=latents)
    n_documents = len(subject.documents.ids)
    for chosen in ([*range(n_documents)], [3, 0, 2], [1], []):
        found: dict[int, Tensor] = {}

        def take(position: int, acts: Tensor, found: dict[int, Tensor] = found) -> None:
            found[position] = acts.clone()

        for layer in subject.layers:
            scan_documents(subject, layer, np.array(chosen, dtype=np.int64), take)
            wanted = expected(subject, made, layer, chosen)
            assert list(found) == [*range(len(chosen))]
            assert all(torch.equal(found[i], piece) for i, piece in enumerate(wanted))


def test_threads_are_as_before(tmp_path: Path) -> None:
    torch.set_num_threads(2)
    subject = subject_of(tmp_path, sample(LENGTHS))
    seen = []
    take = lambda *_: seen.append(torch.get_num_threads())  # noqa: E731
    scan_documents(subject, subject.layers[0], np.arange(3), take)
    assert (set(seen), torch.get_num_threads()) == ({1}, 2)
    torch.set_num_threads(1)


def test_a_run_without_activations_is_our_bug(tmp_path: Path) -> None:
    run = captured(tmp_path, "--tasks", "qa", "--layers", 0, "--no-save")
    subject = open_subject(run, None, ("all",), AUTO)
    with pytest.raises(ValueError, match="kept no activations"):
        scan_documents(subject, 0, np.arange(1), lambda *_: None)
