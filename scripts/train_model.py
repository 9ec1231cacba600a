"""Train one model of the family, on one thread, resumable from a checkpoint."""

import argparse
import hashlib
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from corpus.tasks import SEED
from family import CONTEXT, MODELS, ROOT, SIZES, config_of, load_tokenizer, training_ids
from model_card import write_card
from torch import Tensor
from transformers import GPTNeoXForCausalLM

BATCH = 8
PEAK_RATE = 3e-3
FLOOR = 0.05
N_WARMUP = 100


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


def learning_rate(step: int, n_steps: int) -> float:
    """Linear warm-up, then a cosine down to `FLOOR` of the peak."""
    if step < N_WARMUP:
        return PEAK_RATE * (step + 1) / N_WARMUP
    done = (step - N_WARMUP) / max(1, n_steps - N_WARMUP)
    return PEAK_RATE * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * done)))


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


def optimizer_of(model: GPTNeoXForCausalLM) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim <= 1]
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.97), weight_decay=0.05)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.replace(path)


def train_step(model: GPTNeoXForCausalLM, optimizer: torch.optim.AdamW, batch: Tensor) -> float:
    """One update; returns the loss per token."""
    with precision():
        loss = model(input_ids=batch, labels=batch).loss
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def train(plan: Plan, ids: Tensor, d_vocab: int) -> GPTNeoXForCausalLM:
    """Train from the checkpoint if there is one, from the seed if not."""
    torch.manual_seed(plan.seed)
    model = GPTNeoXForCausalLM(config_of(plan.name, d_vocab))
    optimizer = optimizer_of(model)
    checkpoint, first = plan.checkpoint(ids), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    windows = ids[: len(ids) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    order = window_order(len(windows), plan.n_steps * BATCH, plan.seed)
    start, mean = time.process_time(), 0.0
    for step in range(first, plan.n_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, plan.n_steps)
        batch = windows[order[step * BATCH : (step + 1) * BATCH]].long()
        loss = train_step(model, optimizer, batch)
        mean = loss if step == first else 0.95 * mean + 0.05 * loss
        if step % 25 == 0:
            seconds = time.process_time() - start
            rate = (step - first + 1) * BATCH * CONTEXT / seconds
            print(f"step {step}/{plan.n_steps} loss {mean:.3f} {rate:,.0f} tokens/s", flush=True)
        if (step + 1) % plan.checkpoint_every == 0 or step + 1 == plan.n_steps:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(checkpoint, state | {"step": step + 1})
    return model.eval()


def read_plan() -> tuple[Plan, Path]:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(SIZES), default="sdlms-medium")
    parser.add_argument("--tokens", type=int, default=7_000_000)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--training", type=Path, default=ROOT / "build/corpus/training")
    parser.add_argument("--checkpoint-every", type=int, default=100, help="steps")
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
