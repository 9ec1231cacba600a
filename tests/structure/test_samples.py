from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sdlms.structure import samples
from sdlms.structure.samples import DenseSample, Sample, SparseSample, samples_of
from sdlms.structure.subject import open_subject
from sdlms.structure.threshold_rule import AUTO
from tests.acts.samples import sample
from tests.acts.sparse_samples import sparse_sample
from tests.stages.probe_runs import published
from tests.structure.read_runs import published_latents, tokens_of

FRACTIONS = (0.01, 0.3, 0.5, 0.9, 0.99)


def check(found: Sample, values: NDArray[np.float32]) -> None:
    """Compare with numpy, `[token, unit]`."""
    for fraction in FRACTIONS:
        expected = np.quantile(values, fraction, axis=0, method="inverted_cdf")
        assert np.array_equal(found.quantile(fraction), expected)
    several = np.resize(FRACTIONS, values.shape[1])
    pairs = zip(values.T, several, strict=True)
    each = [np.quantile(own, fraction, method="inverted_cdf") for own, fraction in pairs]
    assert np.array_equal(found.quantiles(several), each)
    mean, deviation = found.moments()
    np.testing.assert_allclose(mean, values.mean(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        deviation, values.std(axis=0, dtype=np.float64), rtol=1e-4, atol=1e-6
    )


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 6), st.floats(0, 1))
def test_both_kinds_agree_with_numpy(seed: int, n_tokens: int, n_units: int, zeros: float) -> None:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(n_tokens, n_units)).astype(np.float32)
    values[generator.random(values.shape) < zeros] = 0
    check(DenseSample(values.T.copy()), values)
    rows, units = values.nonzero()
    order = generator.permutation(len(rows))
    rows, units = rows[order], units[order]
    sparse = SparseSample(units.astype(np.int32), values[rows, units], n_units, n_tokens)
    check(sparse, values)


@pytest.mark.parametrize("buffer", [4, 4 * 40, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_unit_has_its_turn_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(samples, "BUFFER_BYTES", buffer)
    run = published(tmp_path, sample([5, 8, 3, 9], 2, n_units=7, dtype=dtype))
    subject = open_subject(run, None, ("all",), AUTO)
    for layer in subject.layers:
        values = np.concatenate(tokens_of(subject, layer))
        seen = np.zeros(7, dtype=np.int64)
        for units, found in samples_of(subject, layer):
            seen[units] += 1
            check(found, values[:, units])
        assert (seen == 1).all()


def test_latents_are_read_as_entries(tmp_path: Path) -> None:
    run = published_latents(tmp_path, sparse_sample([5, 8, 3, 9], 3, n_units=7))
    subject = open_subject(run, None, ("all",), AUTO)
    for layer in subject.layers:
        ((units, found),) = samples_of(subject, layer)
        assert isinstance(found, SparseSample)
        check(found, np.concatenate(tokens_of(subject, layer))[:, units])


def test_documents_that_are_not_sampled_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdlms.structure.subject.SAMPLE_TOKENS", 12)
    for made in (published, published_latents):
        data = sparse_sample([5, 8, 3, 9], 4, n_units=7)
        subject = open_subject(made(tmp_path, data), None, ("all",), AUTO)
        chosen = subject.sample.tolist()
        assert 0 < len(chosen) < len(subject.documents.ids)
        pieces = tokens_of(subject, 1)
        for units, found in samples_of(subject, 1):
            check(found, np.concatenate([pieces[i] for i in chosen])[:, units])
