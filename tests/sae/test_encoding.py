"""Tokens are encoded block by block; however they are cut, rows and sums are those of a loop."""

from dataclasses import replace
from math import isnan
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sdlms.acts.sources import Positions
from sdlms.errors import UserError
from sdlms.sae import encoding
from sdlms.sae.dictionary import Dictionary
from sdlms.sae.encoding import Tally, encode_layer, entries_of, read_tally
from tests.acts.samples import Sample, file_of, sample
from tests.stages.sae_runs import WIDTH, random_dictionary

LENGTHS = [4, 0, 7, 1, 9, 3]
LAYER = 3
DICTIONARY = random_dictionary(0)


def encoded(folder: Path, data: Sample, dictionary: Dictionary = DICTIONARY) -> Tally:
    folder.mkdir(exist_ok=True)
    counted: list[int] = []
    source = file_of(folder / "a.h5", data)
    tally = encode_layer(source, LAYER, dictionary, folder, counted.append)
    assert sum(counted) == data.rows.n_tokens
    return tally


def contents(folder: Path) -> list[bytes]:
    return [(folder / f"layer_3.{part}").read_bytes() for part in ("counts", "indices", "values")]


def test_entries_are_what_a_loop_finds() -> None:
    latents = torch.randn(7, 5).relu()
    latents[2] = 0
    found, first = entries_of(latents), 0
    for row, count in zip(latents.tolist(), found.counts.tolist(), strict=True):
        own = slice(first, first + count)
        assert found.indices[own].tolist() == [i for i, value in enumerate(row) if value]
        assert found.values[own].tolist() == [value for value in row if value]
        first += count
    assert first == len(found.indices)
    assert [part.dtype for part in found] == [np.int32, np.int32, np.float32]
    assert [len(part) for part in entries_of(torch.zeros(0, 5))] == [0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block_tokens", [1, 8, 8192])
@pytest.mark.parametrize("chunk_rows", [2, 1000])
def test_rows_and_sums_are_those_of_a_loop(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dtype: torch.dtype,
    block_tokens: int,
    chunk_rows: int,
) -> None:
    monkeypatch.setattr("sdlms.acts.sources.BLOCK_TOKENS", block_tokens)
    monkeypatch.setattr(encoding, "CHUNK_BYTES", 4 * WIDTH * chunk_rows)
    data = sample(LENGTHS, n_units=5, dtype=dtype)
    tally = encoded(tmp_path, data)
    acts, kept = data.acts[LAYER].float(), torch.from_numpy(data.rows.mask).bool()
    latents = torch.cat([DICTIONARY.encode(row[None]) for row in acts])
    counts, indices, values = contents(tmp_path)
    expected = entries_of(latents)
    assert np.array_equal(np.frombuffer(counts, np.int32), expected.counts)
    assert np.array_equal(np.frombuffer(indices, np.int32), expected.indices)
    np.testing.assert_allclose(np.frombuffer(values, np.float32), expected.values, atol=1e-6)
    assert (tally.n_documents, tally.n_rows) == (len(LENGTHS), sum(LENGTHS))
    assert tally.n_entries == len(expected.indices)
    some = acts[kept].double()
    error = (DICTIONARY.decode(latents[kept]) - acts[kept]).double().square().sum()
    variance = (some - some.mean(0)).square().sum()
    assert tally.n_tokens == int(kept.sum())
    assert tally.l0 == pytest.approx(float((latents[kept] > 0).sum(1).double().mean()))
    assert tally.fvu_own_mean == pytest.approx(float(error / variance), rel=1e-6)
    assert np.array_equal(tally.fired, (latents[kept] > 0).any(0).numpy())


def test_a_perfect_dictionary_leaves_nothing_unexplained(tmp_path: Path) -> None:
    """Twice as many latents as units, one for each sign."""
    both = torch.cat([torch.eye(5), -torch.eye(5)])
    tensors = {"W_enc": both.T.contiguous(), "W_dec": both}
    tensors |= {"b_enc": torch.zeros(10), "b_dec": torch.zeros(5)}
    exact = replace(DICTIONARY, tensors=tensors)
    tally = encoded(tmp_path, sample(LENGTHS, n_units=5), exact)
    assert tally.fvu_own_mean == pytest.approx(0, abs=1e-12)
    assert tally.l0 == 5


def test_nothing_to_count_is_nan(tmp_path: Path) -> None:
    for name, lengths, mask in (("none", [], 1), ("empty", [0, 0], 1), ("masked", [3, 2], 0)):
        data = sample(lengths, n_units=5)
        data.rows.mask[:] = mask
        tally = encoded(tmp_path / name, data)
        assert isnan(tally.l0) and isnan(tally.fvu_own_mean) and not tally.fired.any()
        assert len(contents(tmp_path / name)[0]) == 4 * sum(lengths)
    constant = sample([3, 2], n_units=5, holes=False)
    constant.acts[LAYER][:] = 0.5
    assert isnan(encoded(tmp_path / "constant", constant).fvu_own_mean)


@pytest.mark.parametrize("seconds", [0.0, 1e9])
@pytest.mark.parametrize("end", range(4))
def test_a_try_that_ended_anywhere_goes_on_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, end: int
) -> None:
    monkeypatch.setattr("sdlms.acts.sources.BLOCK_TOKENS", 8)
    monkeypatch.setattr(encoding, "CHECKPOINT_SECONDS", seconds)
    data = sample(LENGTHS, n_units=5)
    whole = encoded(tmp_path / "whole", data)
    source = file_of(tmp_path / "a.h5", data)
    add, calls = encoding._Encoder.add, []

    def ending(self: encoding._Encoder, positions: Positions, rows: Tensor) -> None:
        add(self, positions, rows)
        calls.append(len(rows))
        if len(calls) > end:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(encoding._Encoder, "add", ending)
        with pytest.raises(KeyboardInterrupt):
            encode_layer(source, LAYER, DICTIONARY, tmp_path, lambda _: None)
    done = read_tally(tmp_path, LAYER, DICTIONARY)
    assert done.n_rows == (0 if seconds else sum(calls[:end]))
    tally = encode_layer(source, LAYER, DICTIONARY, tmp_path, lambda _: None)
    assert contents(tmp_path) == contents(tmp_path / "whole")
    assert (tally.fvu_own_mean, tally.l0) == (whole.fvu_own_mean, whole.l0)
    assert np.array_equal(tally.fired, whole.fired)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 3e38])
def test_what_is_no_number_is_named(tmp_path: Path, value: float) -> None:
    """Finite activations may still overflow inside the autoencoder: no other capture mends it."""
    data = sample(LENGTHS, n_units=5)
    data.acts[LAYER][data.rows.offsets[3]] = value
    with pytest.raises(UserError) as refused:
        encoded(tmp_path, data, random_dictionary(1))
    what = "an activation is NaN or infinite. Capture anew"
    if value == 3e38:
        what = "a latent is not finite, though the activations are: this SAE cannot be used on them"
    assert str(refused.value).startswith(f"layer 3, document {data.rows.document_ids[3]}: {what}")
    assert ("Capture" in str(refused.value)) == (value != 3e38)
