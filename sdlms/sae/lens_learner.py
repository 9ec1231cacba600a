"""Learners of sae-lens: its own training classes and its `SAETrainer`, batch by batch."""

from typing import Any

import torch
from torch import Tensor

from sdlms.errors import UserError
from sdlms.sae.dictionary import SAVED_AS, Dictionary
from sdlms.sae.folding import RESCALED
from sdlms.sae.learner import Losses, Sums
from sdlms.sae.lens_check import without_traces
from sdlms.sae.recipe import Recipe

# One threshold for all latents, which training follows but does not use.
WITH_BATCH_THRESHOLD = ("batchtopk", "matryoshka")
# The first latents must reconstruct alone: these shares of the width, and all of it.
MATRYOSHKA_DIVISORS = (16, 8, 4, 2, 1)
SPARSITY_LOSS = {"standard": "l1_loss", "gated": "l1_loss", "jumprelu": "l0_loss"}


class LensLearner:
    """A `Learner` that leaves every update to sae-lens.

    Its gradient is clipped to norm 1, so that a jumprelu coefficient far above 1 changes nothing
    any more: all of the step is sparsity then (sae-lens issue 719).

    Attributes:
        recipe: what is trained.
        n_done: updates so far.
    """

    def __init__(
        self,
        recipe: Recipe,
        initial: dict[str, Tensor],
        products: torch.dtype,
        device: torch.device,
    ) -> None:
        """Start from given weights.

        Args:
            recipe: what is trained.
            initial: the parameters by sae-lens' names; they are copied. A batch threshold starts
                at 0 whatever they say.
            products: float32, or bfloat16 by sae-lens' autocast.
            device: where to train.

        Raises:
            UserError: sae-lens cannot train this kind there.
            ValueError: nor with other products.
        """
        if products not in (torch.float32, torch.bfloat16):
            raise ValueError(f"sae-lens multiplies in float32 or bfloat16, not in {products}")
        if device.type == "mps" and recipe.kind in WITH_BATCH_THRESHOLD:
            raise UserError(
                f"--device mps cannot train {recipe.kind}: sae-lens keeps its threshold in "
                "float64. Use --device cpu, or --arch topk."
            )
        self.recipe = recipe
        self.n_done = 0
        self._sae = _training_sae(recipe, device)
        with torch.no_grad():
            for name, parameter in self._sae.named_parameters():
                parameter.copy_(initial[name])
        self._trainer = _trainer(recipe, self._sae, products, device)
        self._last: tuple[Tensor, Tensor, int] | None = None

    def step(self, acts: Tensor) -> None:
        """One update; see `Learner`."""
        trainer = self._trainer
        trainer.act_freq_scores.zero_()  # it sums over steps, and then holds this one only
        with torch.enable_grad():
            output = trainer.step(acts)
        trainer.n_training_steps += 1  # as SAETrainer.fit does
        self.n_done += 1
        mse = output.losses["mse_loss"].detach()
        sparsity = output.losses.get(SPARSITY_LOSS.get(self.recipe.kind), torch.zeros(()))
        self._last = (mse, sparsity.detach(), len(acts))

    def losses(self) -> Losses:
        """Of the last update; see `Learner`.

        Raises:
            ValueError: there was none since it was made.
        """
        if self._last is None:
            raise ValueError("no update yet")
        reconstruction, sparsity, n_tokens = self._last
        n_active = float(self._trainer.act_freq_scores.sum()) / n_tokens
        return Losses(float(reconstruction), float(sparsity), n_active)

    def n_dead(self) -> int:
        """Latents that have not fired for more than `dead_after_steps` updates."""
        return int(self._trainer.dead_neurons.sum())

    @torch.no_grad()
    def evaluate(self, acts: Tensor) -> Sums:
        """The objective on other activations, in float32 and as the saved SAE will do it.

        The sparsity term is that of the training loss by the whole coefficient: standard weighs
        latents, gated its gates, by the norm of their decoder row; jumprelu counts active latents.
        With a batch threshold (batchtopk, matryoshka) latents above it are active, not the batch's
        k largest: see `calibrate`.
        """
        acts = acts.to(self._sae.device)
        dictionary = self._dictionary()
        latents = dictionary.encode(acts)
        errors = dictionary.decode(latents) - acts
        n_active = int(latents.count_nonzero())
        return Sums(
            n_tokens=len(acts),
            squared_error=float(errors.square().sum(dim=1).cpu().double().sum()),
            sparsity=self._sparsity(acts, latents, n_active),
            n_active=n_active,
        )

    def weights(self) -> dict[str, Tensor]:
        """The parameters as they are now; see `Learner`. A batch threshold is a new tensor."""
        weights = {name: value.detach() for name, value in self._sae.named_parameters()}
        if self.recipe.kind in WITH_BATCH_THRESHOLD:
            threshold = self._sae.topk_threshold.float()
            weights["threshold"] = threshold.expand(self.recipe.width).contiguous()
        return weights

    @torch.no_grad()
    def calibrate(self, acts: Tensor) -> None:
        """Set the batch threshold so that k latents per token are active on average.

        sae-lens' own is a slow mean over updates that starts at 0: after a short training far too
        many latents are above it. No update depends on it, so that this may be called whenever the
        weights are to be evaluated or kept. Other kinds have none, and nothing happens.

        Args:
            acts: `[token, unit]` float32, scaled, of training tokens; the more, the closer to k is
                L0 on others: from 4,096 it is some 2 % off.
        """
        if self.recipe.kind not in WITH_BATCH_THRESHOLD:
            return
        weights = self.weights()
        before = (acts.to(self._sae.device) - weights["b_dec"]) @ weights["W_enc"]
        before = (before + weights["b_enc"]) * weights["W_dec"].norm(dim=1)
        threshold = _between_largest(before.flatten(), int(self.recipe.coefficient * len(acts)))
        self._sae.topk_threshold.fill_(threshold)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next update depends on; see `Learner`.

        `sae.*` are weights and the batch threshold, `adam.*.*` the moments and step counts,
        `scheduler` how far each part of the schedule of rates is, `lr` the rate itself.
        """
        trainer = self._trainer
        schedule = trainer.lr_scheduler.state_dict()
        positions = [schedule["last_epoch"], *(s["last_epoch"] for s in schedule["_schedulers"])]
        state = {f"sae.{name}": value.detach() for name, value in self._sae.state_dict().items()}
        for name, parameter in self._sae.named_parameters():
            for moment, value in trainer.optimizer.state[parameter].items():
                state[f"adam.{name}.{moment}"] = value
        state["scheduler"] = torch.tensor(positions)
        state["lr"] = torch.tensor(trainer.optimizer.param_groups[0]["lr"], dtype=torch.float64)
        state["n_forward_passes_since_fired"] = trainer.n_forward_passes_since_fired
        state["n_done"] = torch.tensor(self.n_done)
        return state

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a state, which is copied; see `Learner`."""
        trainer = self._trainer
        names = self._sae.state_dict().keys()
        self._sae.load_state_dict({name: state[f"sae.{name}"] for name in names})
        self._load_adam(state)
        schedule = trainer.lr_scheduler.state_dict()
        schedule["last_epoch"], *positions = (int(value) for value in state["scheduler"])
        for part, position in zip(schedule["_schedulers"], positions, strict=True):
            part["last_epoch"] = position
        trainer.lr_scheduler.load_state_dict(schedule)
        self.n_done = int(state["n_done"])
        for coefficient in trainer.coefficient_schedulers.values():
            coefficient.load_state_dict({"current_step": self.n_done})
        trainer.n_forward_passes_since_fired.copy_(state["n_forward_passes_since_fired"])
        trainer.n_training_steps = self.n_done
        self._last = None

    def _load_adam(self, state: dict[str, Tensor]) -> None:
        optimizer = self._trainer.optimizer
        adam = optimizer.state_dict()
        adam["state"] = {}
        for number, (name, _) in enumerate(self._sae.named_parameters()):
            start = f"adam.{name}."
            moments = {key: state[key].clone() for key in state if key.startswith(start)}
            if moments:  # none before the first update
                adam["state"][number] = {key[len(start) :]: moments[key] for key in moments}
        optimizer.load_state_dict(adam)
        for group in optimizer.param_groups:
            group["lr"] = float(state["lr"])

    def _dictionary(self) -> Dictionary:
        """The weights as they are, as the architecture that they will be saved as."""
        kind = self.recipe.kind
        tensors = self.weights()
        if kind in WITH_BATCH_THRESHOLD:  # it is compared after the norms are multiplied in
            tensors["threshold"] = tensors["threshold"] / tensors["W_dec"].norm(dim=1)
        return Dictionary(
            architecture=SAVED_AS[kind],
            tensors=tensors,
            k=int(self.recipe.coefficient) if kind == "topk" else 0,
            rescale_acts_by_decoder_norm=kind == "topk" and kind in RESCALED,
        )

    def _sparsity(self, acts: Tensor, latents: Tensor, n_active: int) -> float:
        """The training loss' sparsity term, summed over tokens."""
        if self.recipe.kind == "jumprelu":
            return self.recipe.coefficient * n_active
        weights = self.weights()
        if self.recipe.kind == "gated":
            inputs = acts - weights["b_dec"]
            latents = (inputs @ weights["W_enc"] + weights["b_gate"]).relu()
        elif self.recipe.kind != "standard":
            return 0.0
        per_latent = latents.sum(dim=0) * weights["W_dec"].norm(dim=1)
        return self.recipe.coefficient * float(per_latent.cpu().double().sum())


def _between_largest(values: Tensor, count: int) -> float:
    """Half way between the `count` largest positive values and the next; 0 where there are less."""
    if count >= len(values):
        return 0.0
    last, following = values.relu().topk(count + 1).values[-2:].tolist()
    return (last + following) / 2 if last > 0 else 0.0


def _training_sae(recipe: Recipe, device: torch.device) -> Any:
    """sae-lens' training class with weights that are yet to be set; the random state stays."""
    with without_traces():
        import sae_lens

    sizes = {"d_in": recipe.d_in, "d_sae": recipe.width, "device": str(device)}
    sizes |= {"decoder_init_norm": None}
    coefficient, warm_up = recipe.coefficient, recipe.warm_up_steps
    match recipe.kind:
        case "standard":
            config = sae_lens.StandardTrainingSAEConfig(
                **sizes, l1_coefficient=coefficient, l1_warm_up_steps=warm_up
            )
        case "gated":
            config = sae_lens.GatedTrainingSAEConfig(
                **sizes, l1_coefficient=coefficient, l1_warm_up_steps=warm_up
            )
        case "jumprelu":
            config = sae_lens.JumpReLUTrainingSAEConfig(
                **sizes, l0_coefficient=coefficient, l0_warm_up_steps=warm_up
            )
        case "topk":
            config = sae_lens.TopKTrainingSAEConfig(**sizes, k=int(coefficient))
        case "batchtopk":
            config = sae_lens.BatchTopKTrainingSAEConfig(**sizes, k=coefficient)
        case "matryoshka":
            config = sae_lens.MatryoshkaBatchTopKTrainingSAEConfig(
                **sizes, k=coefficient, matryoshka_widths=matryoshka_widths(recipe.width)
            )
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda), without_traces():
        return sae_lens.TrainingSAE.from_dict(config.to_dict())


def matryoshka_widths(width: int) -> list[int]:
    """The nested dictionaries: a 16th, an 8th, a quarter, a half of the latents, and all."""
    return sorted({width // divisor for divisor in MATRYOSHKA_DIVISORS} - {0})


def _trainer(recipe: Recipe, sae: Any, products: torch.dtype, device: torch.device) -> Any:
    """sae-lens' trainer without data, files or wandb."""
    with without_traces():
        from sae_lens import LoggingConfig, SAETrainer
        from sae_lens.config import SAETrainerConfig

        config = SAETrainerConfig(
            total_training_samples=recipe.n_steps * recipe.batch_size,
            train_batch_size_samples=recipe.batch_size,
            lr=recipe.lr,
            lr_end=recipe.lr,  # required, and of no effect with constant rates
            lr_warm_up_steps=recipe.lr_warm_up_steps,
            lr_decay_steps=recipe.lr_decay_steps,
            device=str(device),
            autocast=products == torch.bfloat16,
            dead_feature_window=recipe.dead_after_steps,
            logger=LoggingConfig(log_to_wandb=False),
        )
        return SAETrainer(config, sae, iter(()))
