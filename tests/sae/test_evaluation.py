import math
from dataclasses import asdict, fields, replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.sae import evaluation
from sdlms.sae.dictionary import Architecture, Dictionary
from sdlms.sae.evaluation import HeldOut, Measured, Measuring, measure
from sdlms.sae.lens_check import without_traces
from tests.sae.measured_samples import (
    D_IN,
    LENGTHS,
    WIDTH,
    some_dictionary,
    some_held_out,
    some_mean,
)

ARCHITECTURES: tuple[Architecture, ...] = ("standard", "topk", "jumprelu", "gated")


def identity() -> Dictionary:
    """Each unit and its negative is a latent; reconstructions are exact."""
    encoder = torch.cat([torch.eye(D_IN), -torch.eye(D_IN)], dim=1)
    tensors = {"W_enc": encoder, "W_dec": encoder.T.contiguous()}
    tensors |= {"b_enc": torch.zeros(2 * D_IN), "b_dec": torch.zeros(D_IN)}
    return Dictionary(architecture="standard", tensors=tensors)


def without_decoder(dictionary: Dictionary) -> Dictionary:
    nothing = torch.zeros_like(dictionary.decoder)
    return replace(dictionary, tensors=dictionary.tensors | {"W_dec": nothing})


def check_equal(found: Measured, expected: Measured, tolerance: float = 0.0) -> None:
    close = partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    for name, value in asdict(expected.evaluation).items():
        if name == "reason":
            assert found.evaluation.reason == value
        else:
            close(getattr(found.evaluation, name), value, err_msg=name)
    for name, array in expected.tables.arrays().items():
        close(found.tables.arrays()[name], array, err_msg=name)


@pytest.mark.parametrize("normalization", ["none", "layer_norm", "constant_norm_rescale"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_number_agrees_with_a_loop_over_rows(
    architecture: Architecture, normalization: str
) -> None:
    dictionary = replace(some_dictionary(architecture), normalize_activations=normalization)
    held_out, mean = some_held_out(), some_mean().numpy()
    found = measure(dictionary, held_out, some_mean(), seed=0).evaluation
    error = energy = bias_error = kept = product = 0.0
    active, lengths, cosines = [], [], []
    for row in held_out.rows:
        latents = dictionary.encode(row[None])
        silent = dictionary.decode(torch.zeros_like(latents), row[None])[0].double().numpy()
        y = dictionary.decode(latents, row[None])[0].double().numpy()
        x = row.double().numpy()
        active.append(int((latents > 0).sum()))
        error += ((x - y) ** 2).sum()
        bias_error += ((x - silent) ** 2).sum()
        energy += ((x - mean) ** 2).sum()
        kept += ((y - mean) ** 2).sum()
        product += ((x - mean) * (y - mean)).sum()
        lengths.append(np.linalg.norm(y - mean) / np.linalg.norm(x - mean))
        cosines.append(
            (x - mean) @ (y - mean) / np.linalg.norm(x - mean) / np.linalg.norm(y - mean)
        )
    expected = {
        "n_tokens": sum(LENGTHS),
        "fvu": error / energy,
        "explained_variance": 1 - error / energy,
        "bias_only_fvu": bias_error / energy,
        "l0": np.mean(active),
        "l0_p5": np.percentile(active, 5),
        "l0_p50": np.median(active),
        "l0_p95": np.percentile(active, 95),
        "shrinkage": np.mean(lengths),
        "reconstruction_bias": kept / product,
        "cosine": np.mean(cosines),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, rtol=1e-5, err_msg=name)
    rates = np.stack([dictionary.encode(row[None])[0].numpy() > 0 for row in held_out.rows])
    assert found.n_dead == (rates.sum(axis=0) == 0).sum() > 0
    assert found.n_dense == (rates.mean(axis=0) > 0.1).sum() > 0
    assert found.reason == ""


@given(st.lists(st.integers(0, sum(LENGTHS)), max_size=6).map(sorted))
def test_how_rows_are_cut_into_blocks_changes_nothing(cuts: list[int]) -> None:
    dictionary, held_out = some_dictionary(), some_held_out()
    measuring = Measuring(dictionary, held_out, some_mean())
    for first, last in zip([0, *cuts], [*cuts, sum(LENGTHS)], strict=True):
        measuring.add(held_out.rows[first:last])
    # What is left is the order of the sums inside a matrix product.
    check_equal(measuring.finish(0), measure(dictionary, held_out, some_mean(), 0), 1e-4)


@pytest.mark.parametrize("block_bytes", [1, 4 * WIDTH * 5])
def test_small_blocks_give_the_bits_of_large_ones(
    monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    """An encoder and a decoder without rounding leave nothing but our own sums."""
    rows = some_held_out()
    whole = measure(identity(), rows, some_mean(), 0)
    monkeypatch.setattr(evaluation, "BLOCK_BYTES", block_bytes)
    check_equal(measure(identity(), rows, some_mean(), 0), whole)


def test_the_identity_loses_nothing() -> None:
    found = measure(identity(), some_held_out(), some_mean(), 0).evaluation
    assert (found.fvu, found.explained_variance) == (0, 1)
    assert (found.fvu_low, found.fvu_high) == (0, 0)
    for value in (found.shrinkage, found.reconstruction_bias, found.cosine):
        assert value == pytest.approx(1, abs=1e-12)
    assert found.l0 == found.l0_p5 == found.l0_p95 == D_IN
    assert found.bias_only_fvu > 0.9


def test_without_a_decoder_the_bias_is_left() -> None:
    found = measure(without_decoder(some_dictionary()), some_held_out(), some_mean(), 0).evaluation
    assert found.fvu == found.bias_only_fvu
    mean = some_held_out().rows.double().mean(dim=0)
    tensors = some_dictionary().tensors | {"b_dec": mean.float()}
    centred = without_decoder(replace(some_dictionary(), tensors=tensors))
    assert measure(centred, some_held_out(), mean, 0).evaluation.fvu == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("factor", [0.25, 2.0])
def test_shrinkage_and_bias_are_the_factor_of_a_scaled_identity(factor: float) -> None:
    scaled = identity()
    tensors = scaled.tensors | {"W_dec": factor * scaled.decoder}
    found = measure(
        replace(scaled, tensors=tensors), some_held_out(), torch.zeros(D_IN).double(), 0
    ).evaluation
    assert found.shrinkage == pytest.approx(factor, rel=1e-12)
    assert found.reconstruction_bias == pytest.approx(factor, rel=1e-12)
    assert found.cosine == pytest.approx(1, abs=1e-12)
    assert found.fvu == pytest.approx((1 - factor) ** 2, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_stored_types_are_read_as_what_they_hold(dtype: torch.dtype) -> None:
    held_out = some_held_out(dtype=dtype)
    as_float = replace(held_out, rows=held_out.rows.float())
    found, expected = (measure(some_dictionary(), h, some_mean(), 0) for h in (held_out, as_float))
    check_equal(found, expected)


def test_explained_variance_is_that_of_sae_lens_about_the_same_mean() -> None:
    with without_traces():
        from sae_lens.evals import ExplainedVarianceCalculator

    dictionary, held_out = some_dictionary("topk"), some_held_out()
    theirs = ExplainedVarianceCalculator()
    theirs.add_batch(dictionary.reconstruct(held_out.rows), held_out.rows)
    own_mean = held_out.rows.double().mean(dim=0)
    found = measure(dictionary, held_out, own_mean, 0).evaluation
    assert found.explained_variance == pytest.approx(theirs.compute(), abs=1e-5)
    other = measure(dictionary, held_out, own_mean + 0.3, 0).evaluation
    assert other.explained_variance > found.explained_variance


def test_the_interval_is_over_documents() -> None:
    found = measure(some_dictionary("topk"), some_held_out(), some_mean(), 0).evaluation
    assert found.fvu_low < found.fvu < found.fvu_high
    again = measure(some_dictionary("topk"), some_held_out(), some_mean(), 0).evaluation
    assert again == found
    single = measure(some_dictionary(), some_held_out([0, 9], ["a", "a"]), some_mean(), 0)
    assert math.isnan(single.evaluation.fvu_low)
    assert single.evaluation.reason == ""


def test_rows_that_are_the_mean_are_left_out_of_means_of_ratios() -> None:
    held_out = some_held_out([3], ["a"])
    held_out.rows[1] = some_mean().float()
    mean = held_out.rows[1].double()
    both = measure(identity(), held_out, mean, 0).evaluation
    assert both.shrinkage == pytest.approx(1, abs=1e-12)
    assert both.cosine == pytest.approx(1, abs=1e-12)


def test_what_is_undefined_is_nan_and_says_why() -> None:
    constant = replace(some_held_out(), rows=torch.ones(sum(LENGTHS), D_IN))
    ones = torch.ones(D_IN, dtype=torch.float64)
    found = measure(some_dictionary(), constant, ones, 0).evaluation
    assert found.reason == "every row is the mean of the training rows"
    for value in (found.fvu, found.explained_variance, found.bias_only_fvu, found.shrinkage):
        assert math.isnan(value)
    assert math.isfinite(found.l0)
    tensors = some_dictionary().tensors | {"b_dec": ones.float()}
    silent = without_decoder(replace(some_dictionary(), tensors=tensors))
    found = measure(silent, some_held_out(), ones, 0).evaluation
    assert found.reason == "every reconstruction is the mean of the training rows"
    assert math.isnan(found.cosine) and math.isnan(found.reconstruction_bias)
    assert (found.fvu, found.shrinkage) == (1, 0)


@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_no_rows_are_no_numbers(lengths: list[int]) -> None:
    found = measure(some_dictionary(), some_held_out(lengths, ["a"] * len(lengths)), some_mean(), 0)
    assert found.evaluation.reason == "no rows"
    assert (found.evaluation.n_tokens, found.evaluation.n_dead) == (0, WIDTH)
    assert math.isnan(found.evaluation.fvu) and math.isnan(found.evaluation.l0_p50)
    assert found.tables.document_counts.shape == (len(lengths), WIDTH)


@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_sae_that_is_no_number_is_refused(name: str, value: float) -> None:
    dictionary = some_dictionary()
    dictionary.tensors[name].view(-1)[-1] = value
    with pytest.raises(UserError, match="not finite"):
        measure(dictionary, some_held_out(), some_mean(), 0)


def test_parts_that_do_not_fit_are_refused() -> None:
    held_out = some_held_out()
    for wrong in (
        replace(held_out, rows=held_out.rows[1:]),
        replace(held_out, positions=held_out.positions[1:]),
        replace(held_out, document_tasks=["a"]),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            measure(some_dictionary(), wrong, some_mean(), 0)
    with pytest.raises(ValueError, match="0 of 31 rows were added"):
        Measuring(some_dictionary(), held_out, some_mean()).finish(0)


def test_dense_is_above_a_tenth() -> None:
    """A latent that fires on 2 of 20 rows is not dense, one that fires on 3 is."""
    rows = torch.zeros(20, D_IN)
    rows[:2, 0], rows[:3, 1] = 1.0, 1.0
    held_out = HeldOut(rows, np.array([0, 20]), np.arange(20), ["a"])
    found = measure(identity(), held_out, some_mean(), 0).evaluation
    assert (found.n_dense, found.n_dead) == (1, 2 * D_IN - 2)


def test_columns_are_plain_numbers() -> None:
    found = measure(some_dictionary(), some_held_out(), some_mean(), 0).evaluation
    for field in fields(found):
        assert type(getattr(found, field.name)) in (int, float, str)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_gpu_measures_the_same(architecture: Architecture) -> None:
    dictionary, held_out = some_dictionary(architecture), some_held_out()
    cuda = dictionary.to(torch.device("cuda"))
    found = measure(cuda, held_out, some_mean(), 0)
    check_equal(found, measure(dictionary, held_out, some_mean(), 0), 1e-3)
    check_equal(found, measure(cuda, held_out, some_mean(), 0))
