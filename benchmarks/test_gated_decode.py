"""Decoding one text with a gated model: whole models of Pythia's shapes, dense and sparse in turn.

Equality of sparse and masked logits is asserted inside `measure_speed`, before anything is timed.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from benchmarks.test_memory import peak_megabytes
from benchmarks.timing import Report
from benchmarks.workload import Size, build_model, neox_config
from sdlms.dynamic.decoding import Text
from sdlms.dynamic.gains import DENSE, FORCED, SpeedSummary, summary_of, token_seconds
from sdlms.dynamic.limits import Savings, decode_savings
from sdlms.dynamic.speed import SpeedSettings, measure_speed
from sdlms.models.device import set_threads
from sdlms.models.gated import Learned, learn
from sdlms.models.gating.backends import BackendName
from sdlms.models.gating.costs import ModelCosts, costs_of
from sdlms.models.gating.rules import rule_of

KEEPS = (0.5, 0.3, 0.1)
N_PROMPT, N_DECODED = 32, 16
CALIBRATION = (1, 64)  # windows and tokens: thresholds that keep about what they should
SHAPES = {
    "full": {
        "410m": Size("full", 0, 5, 1024, 16, 50_304, n_layers=24),
        "70m": Size("full", 0, 5, 512, 8, 50_304),
        "1.4b": Size("full", 0, 5, 2048, 16, 50_304, n_layers=24),
    },
    "smoke": {
        "410m": Size("smoke", 0, 2, 64, 2, 8_192, n_layers=3),
        "70m": Size("smoke", 0, 2, 64, 2, 8_192, n_layers=2),
        "1.4b": Size("smoke", 0, 2, 64, 2, 8_192, n_layers=3),
    },
}
CASES: list[tuple[str, BackendName]] = [
    ("post-norm", "torch"),
    ("post-norm", "compiled"),
    ("input", "compiled"),
]
TARGETS = {
    ("410m", torch.float32, "post-norm", "torch"): ">= 1.15",
    ("410m", torch.float32, "post-norm", "compiled"): ">= 1.5",
    ("410m", torch.float32, "input", "compiled"): ">= 1.65",
    ("410m", torch.bfloat16, "post-norm", "compiled"): ">= 1.25",
}

# Loads a model, decodes, and leaves; the peak is taken from outside.
DECODE = """
import sys
from contextlib import nullcontext
from pathlib import Path
from benchmarks.timing import set_environment
set_environment()
import torch
from benchmarks.test_gated_decode import random_text
from sdlms.dynamic.decoding import decode
from sdlms.models.gated import How, gated
from sdlms.models.loading import ModelSource, load_causal_model
folder, rule, backend = sys.argv[1:]
model = load_causal_model(ModelSource("random", Path(folder)), torch.float32, torch.device("cpu"))
with gated(model, rule, 0.3, how=How(backend=backend)) if rule else nullcontext():
    for logits in decode(model, random_text(model)):
        assert torch.isfinite(logits).all()
"""


@dataclass(frozen=True)
class Subject:
    """A model with random weights."""

    shape: str
    model: PreTrainedModel
    costs: ModelCosts

    def learned(self, rule: str) -> Learned | None:
        """What a rule must know; the sample is random tokens."""
        if rule_of(rule).needs == "nothing":
            return None
        generator = torch.Generator().manual_seed(2)
        ids = torch.randint(1, self.model.config.vocab_size, CALIBRATION, generator=generator)
        return learn(self.model, ids)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Of the weights."""
    chosen: torch.dtype = request.param
    return chosen


@pytest.fixture(scope="module", params=["410m", "70m"])
def subject(request: pytest.FixtureRequest, size: Size, dtype: torch.dtype) -> Subject:
    """On the CPU with all its cores."""
    set_threads(0)
    return build_subject(request.param, size, dtype, torch.device("cpu"))


def build_subject(shape: str, size: Size, dtype: torch.dtype, device: torch.device) -> Subject:
    """Weights as the family draws them."""
    config = neox_config(SHAPES[size.name][shape])
    torch.manual_seed(0)
    with device:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
    return Subject(shape, model, costs_of(config))


def random_text(model: PreTrainedModel) -> Text:
    """A prompt and tokens after it."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, model.config.vocab_size, (N_PROMPT + N_DECODED,), generator=generator)
    ids = ids.to(model.device)
    return Text(ids[None, :N_PROMPT], ids[N_PROMPT:])


@pytest.mark.parametrize(("rule", "backend"), CASES, ids=["-".join(case) for case in CASES])
def test_whole_model_decode(
    subject: Subject,
    rule: str,
    backend: BackendName,
    size: Size,
    publish: Callable[[Report], None],
) -> None:
    """Speedup of decoding, split into what the kernel brings and what sparsity brings."""
    publish(measure(subject, rule, backend, size))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("rule", ["post-norm", "input", "static"])
def test_decode_on_a_gpu(rule: str, size: Size, publish: Callable[[Report], None]) -> None:
    """The same with torch's own kernels, launched one by one: expected to gain nothing."""
    subject = build_subject("1.4b", size, torch.bfloat16, torch.device("cuda", 0))
    publish(measure(subject, rule, "torch", size))


def measure(subject: Subject, rule: str, backend: BackendName, size: Size) -> Report:
    """All configurations of one rule."""
    model = subject.model
    settings = SpeedSettings(text=random_text(model), rounds=size.rounds)
    measured = measure_speed(model, rule, KEEPS, subject.learned(rule), backend, settings)
    dtype = model.dtype
    report = Report(f"decode, {subject.shape} shape, {measured['dtype']}, {rule}, {backend}", "ms")
    for part in ("decode", "mlp", "prefill"):
        times = token_seconds(measured, part)
        rounds = {name: (1e3 * np.median(each, axis=1)).tolist() for name, each in times.items()}
        for name, milliseconds in rounds.items():
            report.figures[f"{part}: {name}"] = milliseconds
        for name in [FORCED, *(f"{keep:g}" for keep in KEEPS)]:
            target = TARGETS.get((subject.shape, dtype, rule, backend), "")
            wanted = target if (part, name) == ("decode", "0.3") else ""
            report.add_ratio(f"{part}: dense / {name}", rounds[DENSE], rounds[name], wanted)
    report.facts.update(facts(subject, rule, summary_of(measured)))
    report.facts.update({key: measured[key] for key in ("device", "threads", "prompt_tokens")})
    return report


def facts(subject: Subject, rule: str, summaries: dict[str, SpeedSummary]) -> dict[str, object]:
    """Gains beside their limits, and the bytes that a token reads."""
    found: dict[str, object] = {}
    dense_bytes = subject.costs.n_weights * subject.model.dtype.itemsize
    for name, summary in summaries.items():
        kept = summary.kept_fraction
        saved = decode_savings(subject.costs, rule, kept, context=N_PROMPT + N_DECODED)
        read = dense_bytes * (1 - saved.bytes_reduction)
        found[name] = {
            "kept_fraction": round(kept, 4),
            "decode": gains(summary, saved, "decode"),
            "mlp": gains(summary, saved, "mlp"),
            "megabytes_per_token": round(read / 1e6),
            "gigabytes_per_second": round(read * summary.decode.tokens_per_sec / 1e9, 2),
        }
    return found


def gains(summary: SpeedSummary, saved: Savings, part: str) -> dict[str, float]:
    """Speedup = kernel gain x sparsity gain, and the share of the limit that the latter reaches."""
    gain, limit = (
        (summary.decode, saved.limit) if part == "decode" else (summary.mlp, saved.limit_mlp)
    )
    found = {
        "speedup": gain.speedup,
        "kernel_gain": gain.kernel_gain,
        "sparsity_gain": gain.sparsity_gain,
        "limit": limit,
        "limit_share": gain.sparsity_gain / limit,
    }
    return {name: round(value, 3) for name, value in found.items()}


@pytest.mark.parametrize(
    ("rule", "backend"), [("post-norm", "torch"), ("post-norm", "compiled"), ("sequence", "torch")]
)
def test_peak_memory(
    rule: str, backend: str, size: Size, tmp_path: Path, publish: Callable[[Report], None]
) -> None:
    """Loading a model and decoding with it, gated and not, in processes of their own."""
    folder = str(build_model(tmp_path / "model", SHAPES[size.name]["410m"]))
    report = Report(f"memory of decoding, 410m shape, {rule}, {backend}", unit="MB")
    for name, chosen in {"dense": "", "gated": rule}.items():
        command = [sys.executable, "-c", DECODE, folder, chosen, backend]
        report.figures[name] = [peak_megabytes(command)]
    report.add_ratio("gated / dense", report.figures["gated"], report.figures["dense"], "<= 1.1")
    publish(report)
