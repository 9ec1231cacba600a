"""Train one model of the family, on one thread, resumable from a checkpoint."""

import argparse
import hashlib
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from chunked_attention import CHUNKED
from corpus.tasks import SEED
from family import CONTEXT, MODELS, ROOT, SIZES, Size, config_of, load_tokenizer, training_ids
from model_card import write_card
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPTNeoXForCausalLM

Loss = Callable[[Tensor], Tensor]
BATCH = 4
FLOOR = 0.05
N_WARMUP = 200


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained, for how long, and where it is kept meanwhile."""

    name: str
    n_tokens: int
    seed: int
    checkpoints: Path
    checkpoint_every: int

    @property
    def n_steps(self) -> int:
        """Steps of `BATCH` full windows."""
        return self.n_tokens // (BATCH * CONTEXT)

    def checkpoint(self, ids: Tensor) -> Path:
        """The checkpoint of this plan on this text; other text never resumes it."""
        text = hashlib.sha256(ids.numpy().tobytes()).hexdigest()[:8]
        return self.checkpoints / f"{self.name}-{self.n_tokens}-{self.seed}-{text}.pt"


def rate_share(step: int, n_steps: int) -> float:
    """The share of the peak rate: linear warm-up, then a cosine down to `FLOOR`."""
    if step < N_WARMUP:
        return (step + 1) / N_WARMUP
    done = (step - N_WARMUP) / max(1, n_steps - N_WARMUP)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done))


def window_order(n_windows: int, n_needed: int, seed: int) -> Tensor:
    """Window numbers, shuffled anew in each pass over the text."""
    generator = torch.Generator().manual_seed(seed)
    n_passes = -(-n_needed // n_windows)
    order = [torch.randperm(n_windows, generator=generator) for _ in range(n_passes)]
    return torch.cat(order)[:n_needed]


def precision() -> AbstractContextManager[Any]:
    """Autocast to bfloat16 where the processor computes in it."""
    if torch.cpu.get_capabilities().get("avx512_bf16"):
        return torch.autocast("cpu", dtype=torch.bfloat16)
    return nullcontext()


class Optimizers:
    """Muon for the matrices within blocks, AdamW for embeddings, biases and norms."""

    def __init__(self, model: GPTNeoXForCausalLM, size: Size) -> None:
        """Sort the parameters; vectors are not decayed."""
        inner = dict(model.gpt_neox.layers.named_parameters())
        within = {id(weight) for weight in inner.values() if weight.ndim == 2}
        matrices = [weight for weight in model.parameters() if id(weight) in within]
        tables = [w for w in model.parameters() if w.ndim == 2 and id(w) not in within]
        vectors = [weight for weight in model.parameters() if weight.ndim < 2]
        muon = torch.optim.Muon(
            matrices, lr=size.matrix_rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"
        )
        groups = [{"params": tables}, {"params": vectors, "weight_decay": 0.0}]
        adam = torch.optim.AdamW(groups, lr=size.table_rate, betas=(0.9, 0.97), weight_decay=0.05)
        self.all = {"muon": (muon, size.matrix_rate), "adam": (adam, size.table_rate)}

    def step(self, share: float) -> None:
        """One update at `share` of the peak rates, then no gradients."""
        for optimizer, peak in self.all.values():
            for group in optimizer.param_groups:
                group["lr"] = share * peak
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {name: optimizer.state_dict() for name, (optimizer, _) in self.all.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        for name, (optimizer, _) in self.all.items():
            optimizer.load_state_dict(state[name])


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def loss_of(model: GPTNeoXForCausalLM) -> Loss:
    """The loss per token of a batch of windows, compiled to few passes over memory."""
    model.set_attn_implementation(CHUNKED)

    def loss(batch: Tensor) -> Tensor:
        states = model.gpt_neox(input_ids=batch, use_cache=False).last_hidden_state[:, :-1]
        logits = model.get_output_embeddings()(states)
        return cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())

    return torch.compile(loss)


def train(plan: Plan, ids: Tensor, d_vocab: int) -> GPTNeoXForCausalLM:
    """Train from the checkpoint if there is one, from the seed if not."""
    torch.manual_seed(plan.seed)
    model = GPTNeoXForCausalLM(config_of(plan.name, d_vocab))
    optimizers = Optimizers(model, SIZES[plan.name])
    checkpoint, first = plan.checkpoint(ids), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizers.load_state_dict(state["optimizers"])
        first = state["step"]
    windows = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    order = window_order(len(windows), plan.n_steps * BATCH, plan.seed)
    start, mean, loss_on = time.process_time(), 0.0, loss_of(model)
    for step in range(first, plan.n_steps):
        batch = windows[order[step * BATCH : (step + 1) * BATCH]].long()
        with precision():
            loss = loss_on(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(rate_share(step, plan.n_steps))
        mean = loss.item() if step == first else 0.95 * mean + 0.05 * loss.item()
        if step % 25 == 0:
            seconds = time.process_time() - start
            rate = (step - first + 1) * BATCH * CONTEXT / seconds
            print(f"step {step}/{plan.n_steps} loss {mean:.3f} {rate:,.0f} tokens/s", flush=True)
        if (step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.n_steps:
            state = {"model": model.state_dict(), "optimizers": optimizers.state_dict()}
            save_checkpoint(checkpoint, state | {"step": step + 1})
    return model.eval()


def read_plan() -> tuple[Plan, Path]:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(SIZES), default="sdlms-medium")
    parser.add_argument("--tokens", type=int, default=14_000_000)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--training", type=Path, default=ROOT / "build/corpus/training")
    parser.add_argument("--checkpoint-every", type=int, default=200, help="steps")
    config = parser.parse_args()
    plan = Plan(
        name=config.model,
        n_tokens=config.tokens,
        seed=config.seed,
        checkpoints=ROOT / "build/checkpoints",
        checkpoint_every=config.checkpoint_every,
    )
    return plan, config.training


def main() -> None:
    """Train, save as fp16 and write the card."""
    plan, training = read_plan()
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(plan.name)
    ids = training_ids(tokenizer, training)
    print(f"{len(ids):,} training tokens; {plan.n_steps} steps", flush=True)
    model = train(plan, ids, len(tokenizer))
    folder = MODELS / plan.name
    model.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_card(plan.name, plan.n_steps * BATCH * CONTEXT, plan.seed)
    print(folder)


if __name__ == "__main__":
    main()
