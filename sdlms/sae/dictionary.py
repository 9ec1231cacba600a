"""A sparse autoencoder as it is used: activations to latents and back, in the model's own units."""

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from sdlms.errors import UserError
from sdlms.sae.folding import folded
from sdlms.sae.recipe import Kind, Recipe
from sdlms.storage.sae_files import CONFIG, read_sae

# `groupmax` is sparsify's: of each of k equal groups of neighbouring latents the largest stays.
Architecture = Literal["standard", "topk", "jumprelu", "gated", "groupmax"]
Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]
# As what each kind is saved and used: a threshold needs no other tokens, a batch's top k does.
SAVED_AS: dict[Kind, Architecture] = {
    "standard": "standard",
    "topk": "topk",
    "batchtopk": "jumprelu",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "matryoshka": "jumprelu",
}
LAYER_NORM_EPSILON = 1e-5  # as sae-lens has it: on the way in, not on the way out


@dataclass(frozen=True, kw_only=True, eq=False)
class Dictionary:
    """A trained sparse autoencoder, float32.

    Attributes:
        architecture: how latents come from activations.
        tensors: by sae-lens' names: `W_enc [unit, latent]`, `W_dec [latent, unit]`,
            `b_dec [unit]`, and `b_enc [latent]`, with `threshold [latent]` for jumprelu; for gated
            `b_gate`, `b_mag` and `r_mag` in the place of `b_enc`.
        k: latents that are kept per token (topk, groupmax); 0 for others.
        apply_b_dec_to_input: whether `b_dec` is taken from the input.
        rescale_acts_by_decoder_norm: whether topk compares, and gives, activations times the norm
            of their decoder row.
        normalize_activations: what is done to each token first, and undone in the end.
    """

    architecture: Architecture
    tensors: dict[str, Tensor]
    k: int = 0
    apply_b_dec_to_input: bool = True
    rescale_acts_by_decoder_norm: bool = False
    normalize_activations: Normalization = "none"

    @property
    def d_in(self) -> int:
        """Units of the activations."""
        return self.decoder.shape[1]

    @property
    def width(self) -> int:
        """Latents."""
        return self.decoder.shape[0]

    @property
    def decoder(self) -> Tensor:
        """`[latent, unit]`: what a latent adds per unit of its activation."""
        return self.tensors["W_dec"]

    @property
    def bias(self) -> Tensor:
        """`[unit]`: the reconstruction where no latent is active."""
        return self.tensors["b_dec"]

    def to(self, device: torch.device) -> "Dictionary":
        """The same on another device."""
        tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return replace(self, tensors=tensors)

    def encode(self, acts: Tensor) -> Tensor:
        """Latents of activations.

        Args:
            acts: `[row, unit]`, any float dtype, on the dictionary's device.

        Returns:
            `[row, latent]` float32, >= 0.
        """
        inputs = self._normalized(acts.float())
        if self.apply_b_dec_to_input:
            inputs = inputs - self.bias
        if self.architecture == "gated":
            return self._gated(inputs)
        before = inputs @ self.tensors["W_enc"] + self.tensors["b_enc"]
        match self.architecture:
            case "topk":
                if self.rescale_acts_by_decoder_norm:
                    before = before * self.decoder.norm(dim=-1)
                return _largest(before, self.k)
            case "groupmax":
                return _largest_of_groups(before, self.k)
            case "jumprelu":
                return before.relu() * (before > self.tensors["threshold"])
        return before.relu()

    def decode(self, latents: Tensor, acts: Tensor | None = None) -> Tensor:
        """The reconstruction from latents.

        Args:
            latents: `[row, latent]` float32.
            acts: `[row, unit]`, what they were encoded from: needed where tokens are normalized,
                since mean and scale come from there; not looked at otherwise.

        Returns:
            `[row, unit]` float32.

        Raises:
            ValueError: tokens are normalized and `acts` is not given.
        """
        if self.rescale_acts_by_decoder_norm:
            latents = latents * (1 / self.decoder.norm(dim=-1))
        outputs = latents @ self.decoder + self.bias
        if self.normalize_activations == "none":
            return outputs
        if acts is None:
            raise ValueError(f"decoding with {self.normalize_activations} needs the activations")
        acts = acts.float()
        if self.normalize_activations == "constant_norm_rescale":
            return outputs / self._to_constant_norm(acts)
        mean, deviation = _mean_and_deviation(acts)
        return outputs * deviation + mean

    def reconstruct(self, acts: Tensor) -> Tensor:
        """`[row, unit]` float32: activations, encoded and decoded."""
        return self.decode(self.encode(acts), acts)

    def _gated(self, inputs: Tensor) -> Tensor:
        """Latents that pass their gate, at their magnitude."""
        encoder, gains = self.tensors["W_enc"], self.tensors["r_mag"].exp()
        magnitudes = inputs @ (encoder * gains) + self.tensors["b_mag"]
        return (inputs @ encoder + self.tensors["b_gate"] > 0) * magnitudes.relu()

    def _normalized(self, acts: Tensor) -> Tensor:
        match self.normalize_activations:
            case "constant_norm_rescale":
                return acts * self._to_constant_norm(acts)
            case "layer_norm":
                mean, deviation = _mean_and_deviation(acts)
                return (acts - mean) / (deviation + LAYER_NORM_EPSILON)
        return acts

    def _to_constant_norm(self, acts: Tensor) -> Tensor:
        """`[row, 1]`: what makes the squared norm of each row `d_in`."""
        factors: Tensor = self.d_in**0.5 / acts.norm(dim=-1, keepdim=True)
        return factors


def _mean_and_deviation(acts: Tensor) -> tuple[Tensor, Tensor]:
    """`[row, 1]` each: mean and standard deviation over the units of a row."""
    mean = acts.mean(dim=-1, keepdim=True)
    return mean, (acts - mean).std(dim=-1, keepdim=True)


def _largest(before: Tensor, k: int) -> Tensor:
    """The k largest of each row where they are positive, 0 elsewhere."""
    values, latents = before.topk(k, dim=-1, sorted=False)
    return torch.zeros_like(before).scatter_(-1, latents, values.relu())


def _largest_of_groups(before: Tensor, k: int) -> Tensor:
    """The largest of each of k equal groups of neighbours where it is positive, 0 elsewhere."""
    groups = before.reshape(len(before), k, before.shape[1] // k)
    values, places = groups.max(dim=-1, keepdim=True)
    return torch.zeros_like(groups).scatter_(-1, places, values.relu()).flatten(-2)


def dictionary_of(recipe: Recipe, weights: dict[str, Tensor], scale: float) -> Dictionary:
    """What a learner has learned, on raw activations and with decoder rows of norm 1.

    Args:
        recipe: what it was trained with.
        weights: `Learner.weights()`.
        scale: what activations were multiplied by before the learner saw them.

    Returns:
        New tensors on the CPU.
    """
    return Dictionary(
        architecture=SAVED_AS[recipe.kind],
        tensors=folded(recipe.kind, weights, scale),
        k=int(recipe.coefficient) if recipe.kind == "topk" else 0,
    )


def config_of(dictionary: Dictionary, metadata: dict[str, Any]) -> dict[str, Any]:
    """`cfg.json` as sae-lens 6 writes it for a dictionary.

    sae-lens drops all metadata of a file that does not say that version 6 wrote it; so the version
    stands there, without sae-lens being imported (it takes seconds).

    Args:
        dictionary: what will lie beside it.
        metadata: where it comes from, JSON values by name.

    Raises:
        ValueError: sae-lens has no such architecture (groupmax).
    """
    if dictionary.architecture == "groupmax":
        raise ValueError("sae-lens knows no groupmax")
    lens_version = version("sae-lens")
    versions = {"sae_lens_version": lens_version, "sae_lens_training_version": lens_version}
    config: dict[str, Any] = {
        "architecture": dictionary.architecture,
        "d_in": dictionary.d_in,
        "d_sae": dictionary.width,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": dictionary.apply_b_dec_to_input,
        "normalize_activations": dictionary.normalize_activations,
        "reshape_activations": "none",
        "metadata": {**versions, **metadata},
    }
    if dictionary.architecture == "topk":
        config["k"] = dictionary.k
        config["rescale_acts_by_decoder_norm"] = dictionary.rescale_acts_by_decoder_norm
    return config


def load_dictionary(folder: Path) -> Dictionary:
    """An SAE on disk, in sae-lens' or EleutherAI sparsify's format, on the CPU.

    Raises:
        UserError: as `read_sae`; or it needs activations prepared in a way that is not stored.
    """
    arrays, config, form = read_sae(folder)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if (
        form == "sparsify"
    ):  # which always takes b_dec from its input, and has ReLU before its choice
        architecture = cast(Architecture, config["activation"])
        return Dictionary(architecture=architecture, tensors=tensors, k=config["k"])
    normalization = config["normalize_activations"]
    if normalization not in get_args(Normalization):
        raise UserError(
            f"{folder / CONFIG}: normalize_activations is '{normalization}', whose statistics are "
            f"not in the file. Known: {', '.join(get_args(Normalization))}; fold it in and save."
        )
    return Dictionary(
        architecture=config["architecture"],
        tensors=tensors,
        k=config["k"] if config["architecture"] == "topk" else 0,
        apply_b_dec_to_input=bool(config["apply_b_dec_to_input"]),
        rescale_acts_by_decoder_norm=bool(config.get("rescale_acts_by_decoder_norm", False)),
        normalize_activations=normalization,
    )
