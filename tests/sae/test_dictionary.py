from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdlms.errors import UserError
from sdlms.sae.dictionary import (
    Architecture,
    Dictionary,
    Normalization,
    config_of,
    load_dictionary,
)
from sdlms.sae.lens_check import loaded_by_lens
from sdlms.storage.sae_files import write_sae
from tests.storage.sparsify_folders import write_sparsify

D_IN, WIDTH, ROWS, K = 12, 40, 50, 5
ARCHITECTURES: tuple[Architecture, ...] = ("standard", "topk", "jumprelu", "gated")
NORMALIZATIONS: tuple[Normalization, ...] = ("none", "layer_norm", "constant_norm_rescale")


def random_dictionary(architecture: Architecture) -> Dictionary:
    random = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    tensors = {
        "W_enc": drawn(D_IN, WIDTH),
        "W_dec": drawn(WIDTH, D_IN),
        "b_dec": drawn(D_IN),
        "b_enc": drawn(WIDTH),
    }
    if architecture == "jumprelu":
        tensors["threshold"] = drawn(WIDTH).abs()
    if architecture == "gated":
        del tensors["b_enc"]
        tensors |= {name: drawn(WIDTH) for name in ("b_gate", "b_mag", "r_mag")}
    k = K if architecture in ("topk", "groupmax") else 0
    return Dictionary(architecture=architecture, tensors=tensors, k=k)


def saved(folder: Path, dictionary: Dictionary, metadata: dict[str, Any] | None = None) -> Path:
    arrays = {name: tensor.numpy() for name, tensor in dictionary.tensors.items()}
    write_sae(folder, arrays, config_of(dictionary, metadata or {}))
    return folder


def acts(n_rows: int = ROWS) -> Tensor:
    return 3 * torch.randn(n_rows, D_IN, generator=torch.Generator().manual_seed(5)) + 1


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_does_what_sae_lens_does(
    tmp_path: Path, architecture: Architecture, with_bias: bool, normalization: Normalization
) -> None:
    ours = replace(
        random_dictionary(architecture),
        apply_b_dec_to_input=with_bias,
        normalize_activations=normalization,
    )
    theirs = loaded_by_lens(saved(tmp_path, ours))
    latents = theirs.encode(acts())
    assert (latents > 0).any()
    assert torch.equal(ours.encode(acts()), latents)
    assert torch.equal(ours.reconstruct(acts()), theirs.decode(latents))
    again = load_dictionary(tmp_path)
    assert torch.equal(again.reconstruct(acts()), ours.reconstruct(acts()))
    assert config_of(again, {}) == config_of(ours, {})


def test_topk_rescaled_by_the_norms_of_its_decoder(tmp_path: Path) -> None:
    ours = replace(random_dictionary("topk"), rescale_acts_by_decoder_norm=True)
    theirs = loaded_by_lens(saved(tmp_path, ours))
    assert load_dictionary(tmp_path).rescale_acts_by_decoder_norm
    assert torch.equal(ours.encode(acts()), theirs.encode(acts()))
    assert torch.equal(ours.reconstruct(acts()), theirs(acts()))


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "groupmax"])
def test_shapes_signs_and_single_rows(architecture: Architecture) -> None:
    dictionary = random_dictionary(architecture)
    latents = dictionary.encode(acts())
    assert (dictionary.d_in, dictionary.width) == (D_IN, WIDTH)
    assert latents.shape == (ROWS, WIDTH)
    assert latents.dtype == torch.float32
    assert (latents >= 0).all()
    assert dictionary.encode(acts(0)).shape == (0, WIDTH)
    nothing = dictionary.decode(torch.zeros(3, WIDTH))
    assert torch.equal(nothing, dictionary.bias.expand(3, D_IN))
    one = torch.zeros(1, WIDTH)
    one[0, 7] = 2.0
    torch.testing.assert_close(
        dictionary.decode(one)[0] - dictionary.bias, 2 * dictionary.decoder[7]
    )
    halves = dictionary.encode(acts().to(torch.float16))
    assert halves.dtype == torch.float32
    assert torch.equal(dictionary.to(torch.device("cpu")).encode(acts()), latents)


@pytest.mark.parametrize("activation", ["topk", "groupmax"])
def test_a_sparsify_folder_does_what_is_done_by_hand(tmp_path: Path, activation: str) -> None:
    encoder, bias, decoder, centre = write_sparsify(tmp_path, D_IN, WIDTH, K, activation)
    dictionary = load_dictionary(tmp_path)
    latents = dictionary.encode(acts()).numpy()
    for row, found in zip(acts().numpy(), latents, strict=True):
        before = np.maximum((row - centre) @ encoder.T + bias, 0)
        groups = before.reshape(K, -1)
        if activation == "topk":
            kept = np.argsort(-before)[:K]
        else:
            kept = groups.argmax(axis=1) + np.arange(K) * groups.shape[1]
        expected = np.zeros(WIDTH)
        expected[kept] = before[kept]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    expected_outputs = latents @ decoder + centre
    outputs = dictionary.reconstruct(acts())
    np.testing.assert_allclose(outputs, expected_outputs, rtol=1e-4, atol=1e-4)


def test_groupmax_has_no_file_of_sae_lens() -> None:
    with pytest.raises(ValueError, match="groupmax"):
        config_of(random_dictionary("groupmax"), {})


def test_decoding_normalized_tokens_needs_them() -> None:
    dictionary = replace(random_dictionary("standard"), normalize_activations="layer_norm")
    with pytest.raises(ValueError, match="needs the activations"):
        dictionary.decode(torch.zeros(1, WIDTH))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_configuration_is_what_sae_lens_writes(
    tmp_path: Path, architecture: Architecture
) -> None:
    metadata = {"model_name": "m", "nested": {"a": [1, 2.5]}}
    dictionary = random_dictionary(architecture)
    theirs = loaded_by_lens(saved(tmp_path, dictionary, metadata))
    assert config_of(dictionary, metadata) == theirs.cfg.to_dict()
    assert theirs.cfg.metadata.nested == {"a": [1, 2.5]}
    assert theirs.cfg.metadata.sae_lens_version == version("sae-lens")


@pytest.mark.parametrize("normalization", ["expected_average_only_in", "covariance_whitening"])
def test_statistics_that_are_not_stored_are_refused(tmp_path: Path, normalization: str) -> None:
    config = config_of(random_dictionary("standard"), {})
    arrays = {name: t.numpy() for name, t in random_dictionary("standard").tensors.items()}
    write_sae(tmp_path, arrays, config | {"normalize_activations": normalization})
    with pytest.raises(UserError, match=f"normalize_activations is '{normalization}'") as error:
        load_dictionary(tmp_path)
    assert "\n" not in str(error.value)
