"""From token ids to every layer's predictions, against the lenses that researchers use today."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from benchmarks.lens_peer import IDS
from benchmarks.lens_sides import SIDES
from benchmarks.sides import Results, column
from benchmarks.timing import Report
from benchmarks.workload import Size
from sdlms.lens.backends import decided_backend
from sdlms.storage.assets import asset_folder

ROOT = Path(__file__).parent.parent
PEER_PYTHON = os.environ.get("SDLMS_BENCH_PEER_PYTHON", "")
PEER = "tuned-lens"
OURS = ("sdlms, bfloat16", "sdlms, float32")
LOGIT_STD = 4.0  # of a state's logits: its most probable token has 0.3
TOLERANCE = 1e-4


def test_gpt2_shape(size: Size, tmp_path: Path, publish: Callable[[Report], None]) -> None:
    """12 layers, d 768, vocabulary 50,257, random weights; one text."""
    full = size.name == "full"
    config = GPT2Config(tie_word_embeddings=False) if full else _small_config()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config)
    torch.nn.init.normal_(model.lm_head.weight, std=LOGIT_STD / config.n_embd**0.5)
    torch.nn.init.uniform_(model.transformer.ln_f.weight, 0.5, 1.5)
    model.save_pretrained(tmp_path)
    n_tokens = 256 if full else 24
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (1, n_tokens))
    np.save(tmp_path / IDS, ids)
    _compare("Logit lens, GPT-2's shape", size, tmp_path, publish)


def test_embedded_model(size: Size, tmp_path: Path, publish: Callable[[Report], None]) -> None:
    """4 layers, d 96, vocabulary 3,072, trained; texts of 256 tokens."""
    source = asset_folder("models") / "sdlms-medium"
    for path in source.iterdir():
        shutil.copy(path, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = (ROOT / "README.md").read_text()
    ids = np.array(tokenizer(text)["input_ids"])
    n_texts = min(len(ids) // 256, 8 if size.name == "full" else 1)
    np.save(tmp_path / IDS, ids[: n_texts * 256].reshape(n_texts, 256))
    _compare("Logit lens, sdlms-medium", size, tmp_path, publish)


def _small_config() -> GPT2Config:
    return GPT2Config(
        vocab_size=5003, n_embd=64, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip


def _compare(name: str, size: Size, folder: Path, publish: Callable[[Report], None]) -> None:
    """Every side in alternating processes; all find the same probabilities."""
    sides = [side for side in SIDES if "Transformer" not in side or find_spec("transformer_lens")]
    sides += [PEER] if PEER_PYTHON else []
    results: Results = {side: [] for side in sides}
    for number in range(size.slow_rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            results[side].append(_run(side, folder))
    expected = np.load(folder / f"{OURS[1]}.npy")
    gaps = {side: float(np.abs(np.load(folder / f"{side}.npy") - expected).max()) for side in sides}
    assert max(gaps.values()) <= TOLERANCE, gaps
    assert expected.mean() > 0.05, "flat distributions compare nothing"
    facts = {
        "tokens": int(np.load(folder / IDS).size),
        "states": expected.shape[-1],
        **decided_backend("bfloat16", torch.float32),
        "largest_gap": gaps,
        "mean_largest_probability": round(float(expected.mean()), 3),
    }
    publish(_report(f"{name}, time", "seconds", "s", results, ">= 3", facts))
    publish(_report(f"{name}, CPU time", "cpu_seconds", "s", results, "", facts))
    publish(_report(f"{name}, memory added", "peak_bytes", "MB", results, ">= 5", facts))


def _run(side: str, folder: Path) -> dict[str, Any]:
    """One side in its own process."""
    command = [sys.executable, "-m", "benchmarks.lens_sides", side, str(folder)]
    if side == PEER:
        command = [PEER_PYTHON, str(ROOT / "benchmarks/lens_peer.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _report(
    name: str, what: str, unit: str, results: Results, target: str, facts: dict[str, Any]
) -> Report:
    """One figure of every side, and the others' over ours."""
    scale = 1e6 if unit == "MB" else 1.0
    report = Report(name, unit=unit, facts=facts)
    for side in results:
        report.figures[side] = [value / scale for value in column(results, side, what)]
    if what == "seconds":
        for side in (*OURS, PEER):
            if side in results:
                report.figures[f"{side}: prepared once"] = column(results, side, "prepare_seconds")
    for side in results:
        if side not in OURS:
            for own in OURS:
                above, below = (column(results, one, what) for one in (side, own))
                report.add_ratio(f"{side} / {own}", above, below, target if own == OURS[0] else "")
    return report


@pytest.mark.skipif(bool(PEER_PYTHON), reason="it is there")
def test_tuned_lens_is_left_out() -> None:
    """Say so where the peer is not compared."""
    pytest.skip(
        "tuned-lens is not compared: set SDLMS_BENCH_PEER_PYTHON to the interpreter of an "
        "environment with torch, transformers and tuned-lens==0.2.0"
    )
