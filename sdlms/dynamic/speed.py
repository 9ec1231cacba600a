"""How fast a model runs when a rule skips work: dense and sparse rounds in turn, in one process.

Three figures are kept apart. *Speedup* is dense over sparse. *Kernel gain* is dense over the sparse
execution that keeps everything (`forced`): what another way of multiplying brings by itself.
*Sparsity gain* is forced over sparse: what skipping brings, and what the limits are about.

Each round reads a prompt, decodes a text after it and runs the MLPs alone, in every configuration;
the order rotates from round to round, so that a slow moment of the machine spoils no one
configuration, and ratios are taken round by round.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from sdlms.dynamic.decoding import Clock, Text, decode, time_text
from sdlms.dynamic.gains import DENSE, FORCED
from sdlms.dynamic.mlp_timing import Mlp, mlps_of, time_mlps
from sdlms.models.gated import Gates, How, Learned, gated
from sdlms.models.gating.backends import BackendName, backend_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROUNDS, WARMUPS, MLP_PASSES = 5, 2, 3

# Of the root mean square of what is compared. In 16 bits two ways of adding differ in which of two
# almost equal neurons they keep: little in one MLP, but layers multiply it (24 layers of random
# weights are off by 0.27 at keep 0.1). Wrong logits are off by their own size, 1 to 1.4.
MLP_TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.1, torch.bfloat16: 0.1}
LOGITS_TOLERANCE = {torch.float32: 1e-4, torch.float16: 0.5, torch.bfloat16: 0.5}


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """What is timed how often.

    Attributes:
        text: prompt and decoded tokens, on the model's device.
        rounds: that count.
        warmups: rounds before them that do not.
        mlp_passes: through all MLPs, per round and configuration.
        seed: of the rule `random`.
        layers: that are gated; None for all.
    """

    text: Text
    rounds: int = ROUNDS
    warmups: int = WARMUPS
    mlp_passes: int = MLP_PASSES
    seed: int = 0
    layers: tuple[int, ...] | None = None


@dataclass
class Timings:
    """What was measured of one configuration, one entry per round.

    Attributes:
        keep: the kept fraction asked for.
        prefill: seconds of the prompt.
        decode: seconds of each decoded token.
        mlp: seconds of one token in all MLPs, once per pass.
        kept: the kept fraction reached in decoding; 1 where the model is dense.
    """

    keep: float
    prefill: list[float] = field(default_factory=list)
    decode: list[list[float]] = field(default_factory=list)
    mlp: list[list[float]] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)


def measure_speed(
    model: "PreTrainedModel",
    rule: str,
    keeps: Sequence[float],
    learned: Learned | None,
    backend: BackendName,
    settings: SpeedSettings,
) -> dict[str, Any]:
    """Time the dense model, the forced one and each kept fraction, in rotating rounds.

    First sparse execution is held against masked execution, for the speed of a wrong product is
    none. Both layouts of the MLPs' weights are held: the model takes up to 1 + (the MLPs' share of
    it) of its memory.

    Args:
        model: a causal model in evaluation mode.
        rule: what chooses.
        keeps: kept fractions; 1 is the dense model, which is measured anyway.
        learned: what the rule knows of the model, where it needs to.
        backend: what multiplies.
        settings: what is timed how often.

    Returns:
        What JSON holds: `configurations` (`dense`, `forced` and one per kept fraction below 1, see
        `Timings`), the backend in use and why it is not the one that `auto` prefers, device,
        dtype, threads, tokens of prompt and text. `sdlms.dynamic.gains` makes ratios of it.

    Raises:
        UserError: if the model, rule or backend does not allow it.
        ValueError: if sparse execution gives another product or other logits than masked execution.
    """
    timings = {DENSE: Timings(1.0), FORCED: Timings(1.0)}
    timings.update({f"{keep:g}": Timings(keep) for keep in keeps if keep < 1})
    how = How(
        backend=backend,
        layers=settings.layers,
        force_at_one=True,
        hold_both=True,
        seed=settings.seed,
    )
    least = min(timing.keep for timing in timings.values())
    mlps = mlps_of(model, settings.text)
    dense = _outcome(model, settings.text, mlps)
    with gated(model, rule, least, learned=learned, how=replace(how, execution="masked")):
        masked = _outcome(model, settings.text, mlps)
    with gated(model, rule, least, learned=learned, how=how) as gates:
        _check(masked, _outcome(model, settings.text, mlps), model.dtype, f"{rule} at {least:g}")
        gates.keep = 1.0
        _check(dense, _outcome(model, settings.text, mlps), model.dtype, f"{rule} at 1")
        rounds = _Rounds(model, gates, mlps, settings)
        for number in range(-settings.warmups, settings.rounds):
            for name in rotated(list(timings), number):
                scrap = Timings(timings[name].keep)
                rounds.measure(name, timings[name] if number >= 0 else scrap)
    configurations = {name: asdict(timing) for name, timing in timings.items()}
    return {"configurations": configurations, **_circumstances(model, backend, settings.text)}


def rotated(names: list[str], number: int) -> Iterator[str]:
    """The names in the order of one round: each round begins one further on."""
    first = number % len(names)
    yield from names[first:] + names[:first]


@dataclass(frozen=True)
class _Rounds:
    """One model with its gates, ready to be measured."""

    model: "PreTrainedModel"
    gates: Gates
    mlps: list[Mlp]
    settings: SpeedSettings

    def measure(self, name: str, timings: Timings) -> None:
        """Add one round of one configuration to its timings."""
        clock = Clock(self.model.device)
        with self._set(name, timings.keep):
            # Up to here the gates have counted the prompt, which keeps other neurons.
            text = time_text(self.model, self.settings.text, after_prompt=self.gates.reset)
            timings.kept.append(1.0 if name == DENSE else self.gates.kept_fraction())
            passes = [time_mlps(self.mlps, clock) for _ in range(self.settings.mlp_passes)]
        timings.prefill.append(text.prefill)
        timings.decode.append(text.tokens)
        timings.mlp.append(passes)

    def _set(self, name: str, keep: float) -> AbstractContextManager[None]:
        """Make the model the one that a configuration means."""
        if name == DENSE:
            return self.gates.paused()
        self.gates.keep = keep
        return nullcontext()


class _Outcome(NamedTuple):
    """What a model computes: logits `[token, vocabulary]`, MLPs alone `[layer, d_model]`."""

    logits: Tensor
    products: Tensor


@torch.no_grad()
def _outcome(model: "PreTrainedModel", text: Text, mlps: list[Mlp]) -> _Outcome:
    """After the prompt and each decoded token; then of each MLP alone, all of the same inputs."""
    logits = torch.cat(list(decode(model, text))).float()
    products = [mlp.run(mlp.hidden).view(-1) for mlp in mlps]
    return _Outcome(logits, torch.stack(products).float())


def _check(expected: _Outcome, found: _Outcome, dtype: torch.dtype, what: str) -> None:
    """Refuse another outcome."""
    check_same(expected.products, found.products, MLP_TOLERANCE[dtype], f"MLPs of {what}")
    check_same(expected.logits, found.logits, LOGITS_TOLERANCE[dtype], f"logits of {what}")


def check_same(expected: Tensor, found: Tensor, tolerance: float, what: str) -> None:
    """Refuse results that differ by more than rounding.

    The median over rows is compared: where two neurons are almost equal, rounding may decide which
    of them a token keeps.

    Args:
        expected: `[row, number]` float32, from dense products.
        found: the same from sparse execution.
        tolerance: of the root mean square of a row.
        what: is compared.

    Raises:
        ValueError: if they differ, or are not numbers.
    """
    scale = expected.square().mean(1).sqrt()
    errors = (found - expected).square().mean(1).sqrt() / scale.where(scale > 0, 1)
    error = float(errors.median())
    if not error <= tolerance:
        raise ValueError(f"{what}: sparse execution is off by {error:.2g} of their size")


def _circumstances(model: "PreTrainedModel", backend: BackendName, text: Text) -> dict[str, Any]:
    """What else a time depends on."""
    reasons: list[str] = []
    return {
        "backend": backend_of(backend, model.dtype, model.device, reasons.append).name,
        "fallback": reasons[0] if reasons else None,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "prompt_tokens": text.prompt.shape[1],
        "decoded_tokens": len(text.decoded),
    }
