"""A top-k SAE trained by sae-lens on one layer, and how much of the loss it recovers.

The trainer is sae-lens' own, fed with our activations; what is measured is the SAE as it loads from
disk, because that is what a user gets.
"""

import importlib.util
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from corpus.splits import Split
from corpus.tasks import SEED
from family import load_tokenizer
from model_card import load_model
from torch import Tensor
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from evaluation.embedded_text import documents_of
from evaluation.losses import batches
from evaluation.report import Criterion, Section
from evaluation.splicing import Edit, losses_under, principal_projection, recovered, residuals

K = 32
WIDTH = 8
BATCH = 2_048
N_PASSES = 3
RATE = 1e-3
MIN_RECOVERED = 0.9
MAX_L0 = 32


@dataclass(frozen=True)
class Measured:
    """An SAE on held-out documents.

    Attributes:
        losses: Nats per token with the residual stream `clean`, replaced by the `sae`, by its first
            `K` principal components (`pca`), by its training `mean`, and by `zero`.
        fvu: Fraction of variance unexplained, about the mean of the training tokens.
        l0: Mean number of latents above zero.
        max_l0: The most on any token.
        dead_fraction: Share of latents that never fire.
        n_tokens: How many tokens.
    """

    losses: dict[str, float]
    fvu: float
    l0: float
    max_l0: int
    dead_fraction: float
    n_tokens: int

    def recovered(self, replacement: str, ablation: str = "zero") -> float:
        """The share of what the ablation costs that the replacement saves."""
        losses = self.losses
        return recovered(losses["clean"], losses[replacement], losses[ablation])


def require_sae_lens() -> None:
    """Stop where sae-lens is not installed, before anything is computed."""
    if importlib.util.find_spec("sae_lens") is None:
        sys.exit("--sae needs sae-lens. Install it: .venv/bin/pip install -e '.[bench]'")


def shuffled(acts: Tensor, seed: int = SEED) -> Iterator[Tensor]:
    """Batches of tokens `[BATCH, d_model]` without end, in a new order each pass."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(len(acts), generator=generator)
        for start in range(0, len(acts) - BATCH + 1, BATCH):
            yield acts[order[start : start + BATCH]]


def trained_sae(acts: Tensor, folder: Path) -> Any:
    """A top-k SAE of sae-lens on `acts [token, d_model]`, saved and loaded anew."""
    from sae_lens import SAE, LoggingConfig, SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig

    torch.manual_seed(SEED)
    d_model = acts.shape[1]
    n_steps = N_PASSES * len(acts) // BATCH
    # The scale makes the rate mean the same for every model; fit() folds it into the weights.
    sae = TopKTrainingSAE(
        TopKTrainingSAEConfig(
            d_in=d_model,
            d_sae=WIDTH * d_model,
            k=K,
            normalize_activations="expected_average_only_in",
        )
    )
    config = SAETrainerConfig(
        total_training_samples=n_steps * BATCH,
        train_batch_size_samples=BATCH,
        lr=RATE,
        lr_end=RATE / 10,  # has no default that works
        lr_decay_steps=n_steps // 5,
        n_batches_for_norm_estimate=20,
        logger=LoggingConfig(log_to_wandb=False),
    )
    SAETrainer(config, sae, shuffled(acts)).fit().save_inference_model(folder)
    return SAE.load_from_disk(folder).eval()


@torch.no_grad()
def measure(
    sae: Any, model: GPTNeoXForCausalLM, layer: int, ids: list[Tensor], training: Tensor
) -> Measured:
    """Measure a loaded SAE on documents; `training [token, d_model]` is what it was trained on."""
    mean = training.mean(0)
    edits: dict[str, Edit] = {
        "clean": lambda resid: resid,
        "sae": sae,
        "pca": principal_projection(training, K),
        "mean": lambda resid: mean.expand_as(resid),
        "zero": torch.zeros_like,
    }
    acts = torch.cat([residuals(model, layer, one) for one in ids])
    fires = torch.cat([sae.encode(some) > 0 for some in acts.split(BATCH)])
    error = sum(float((some - sae(some)).double().square().sum()) for some in acts.split(BATCH))
    active = fires.sum(1)
    return Measured(
        losses=losses_under(model, layer, ids, edits),
        fvu=error / float((acts - mean).double().square().sum()),
        l0=float(active.double().mean()),
        max_l0=int(active.max()),
        dead_fraction=float((~fires.any(0)).double().mean()),
        n_tokens=len(acts),
    )


def ids_of(tokenizer: PreTrainedTokenizerFast, split: Split) -> list[Tensor]:
    """All documents of a split in batches of like length."""
    texts = [text for some in documents_of(split).values() for text in some]
    return [ids for _, ids in batches(tokenizer, texts)]


def sae_section(name: str) -> Section:
    """Train an SAE on the middle layer of a model, and measure it."""
    tokenizer, model = load_tokenizer(name), load_model(name)
    layer = model.config.num_hidden_layers // 2
    acts = torch.cat([residuals(model, layer, ids) for ids in ids_of(tokenizer, "training")])
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        sae = trained_sae(acts, Path(folder))
    minutes = (time.process_time() - start) / 60
    found = measure(sae, model, layer, ids_of(tokenizer, "heldout"), acts)
    section = Section("A sparse autoencoder")
    section.table(
        f"A top-k SAE (k = {K}, {sae.cfg.d_sae} latents) on the residual stream after layer "
        f"{layer} of {name} (layers count from 0), trained by sae-lens' SAETrainer on {N_PASSES} "
        f"passes over the {len(acts):,} tokens of `data/training` in {minutes:.1f} CPU minutes, "
        f"seed {SEED}; measured as loaded from disk on the {found.n_tokens:,} tokens of "
        "`data/heldout`, end-of-text tokens left alone.",
        ("figure", "value"),
        _rows(found),
    )
    score = found.recovered("sae")
    section.criteria += [
        Criterion(
            f"{name}: cross-entropy recovered by the SAE",
            f"{score:.3f}",
            f">= {MIN_RECOVERED}",
            score >= MIN_RECOVERED,
        ),
        Criterion(f"{name}: L0 of the SAE", f"{found.l0:.2f}", f"<= {MAX_L0}", found.l0 <= MAX_L0),
    ]
    return section


def _rows(found: Measured) -> list[tuple[str, object]]:
    losses = found.losses
    return [
        ("loss, clean", losses["clean"]),
        ("loss, reconstruction spliced in", losses["sae"]),
        (f"loss, first {K} principal components spliced in", losses["pca"]),
        ("loss, residual stream at its training mean", losses["mean"]),
        ("loss, residual stream zero", losses["zero"]),
        ("cross-entropy recovered, against zero", found.recovered("sae")),
        ("cross-entropy recovered, against the mean", found.recovered("sae", "mean")),
        ("the same by the principal components, against zero", found.recovered("pca")),
        ("the same by the principal components, against the mean", found.recovered("pca", "mean")),
        ("L0, mean", found.l0),
        ("L0, most on one token", found.max_l0),
        ("fraction of variance unexplained", found.fvu),
        ("latents that never fire", found.dead_fraction),
    ]
