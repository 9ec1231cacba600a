"""What a run of dynamic-k measures, one part after another: each is kept until the run is done."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from sdlms.dynamic.decoding import Text
from sdlms.dynamic.quality import Gate, measure_layer, measure_quality
from sdlms.dynamic.speed import SpeedSettings, measure_speed
from sdlms.dynamic.windows import Drawn
from sdlms.models.gated import How, Learned, learn
from sdlms.models.gating.backends import BackendName
from sdlms.models.gating.rules import DEFAULT_RULE, rule_of
from sdlms.models.spreading import input_device
from sdlms.runs.parts import Part, Parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DECODED = 16
"""Tokens that are decoded after a prompt; both come from a seed's first window."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What is measured.

    Attributes:
        rules: names, in order.
        keeps: nominal kept fractions, ascending.
        layers: that are also gated alone, ascending.
        seeds: of windows and calibration.
        backend: what skips the work, decided.
        rounds: of timing.
        budget: tokens in a batch.
        force_at_one: whether keep 1 is the sparse product of everything.
    """

    rules: tuple[str, ...]
    keeps: tuple[float, ...]
    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    backend: BackendName
    rounds: int
    budget: int
    force_at_one: bool


@dataclass(frozen=True, eq=False)
class Study:
    """The model, its text, and what is known of them so far.

    Attributes:
        model: a causal model in evaluation mode.
        drawn: what each seed reads.
        blocks: layer -> `[neuron]` block, -1 for none; None where no rule needs them.
        settings: what is measured.
        parts: where finished parts lie.
        on_halved: told the new budget each time memory runs out.
    """

    model: "PreTrainedModel"
    drawn: Mapping[int, Drawn]
    blocks: Mapping[int, NDArray[np.int64]] | None
    settings: StudySettings
    parts: Parts
    on_halved: Callable[[int], None]
    _learned: dict[int, Learned] = field(default_factory=dict, init=False, repr=False)

    def sweeps(self) -> Iterator[Callable[[], object]]:
        """Everything of which perplexity is measured, seed by seed."""
        settings = self.settings
        for seed in settings.seeds:
            yield partial(self.dense, seed)
            for rule in settings.rules:
                for keep in settings.keeps:
                    if keep < 1 or settings.force_at_one:
                        yield partial(self.quality, seed, rule, keep)
                for layer in self.single_layers(rule):
                    yield partial(self.layer, seed, rule, layer)

    def dense(self, seed: int) -> Part:
        """Losses of the model as it is."""
        gate = Gate(DEFAULT_RULE, 1.0)
        return self.parts.once(f"{seed}_dense", lambda: self._measured(seed, gate))

    def quality(self, seed: int, rule: str, keep: float) -> Part:
        """Losses of the gated model; at keep 1 those of the dense one, unless it is forced."""
        if keep == 1 and not self.settings.force_at_one:
            return self.dense(seed)
        return self.parts.once(
            f"{seed}_{rule}_{keep:g}", lambda: self._measured(seed, self.gate(seed, rule, keep))
        )

    def layer(self, seed: int, rule: str, layer: int) -> dict[float, Part]:
        """Losses of the model with one gated layer, by kept fraction below 1."""
        keeps = [keep for keep in self.settings.keeps if keep < 1]

        def measured() -> Part:
            gate = self.gate(seed, rule, 1.0)
            gate = gate._replace(how=replace(gate.how, layers=(layer,), force_at_one=False))
            windows, settings = self.drawn[seed].windows, self.settings
            found = measure_layer(self.model, gate, keeps, windows, settings.budget, self.on_halved)
            return {f"{keep:g}": part for keep, part in zip(keeps, found, strict=True)}

        part = self.parts.once(f"{seed}_{rule}_layer_{layer}", measured)
        return {keep: part[f"{keep:g}"] for keep in keeps}

    def speed(self, seed: int, rule: str) -> Part:
        """Times of the dense model, of the kernel alone, and of each kept fraction."""
        return self.parts.once(f"{seed}_{rule}_speed", lambda: self._timed(seed, rule))

    def gate(self, seed: int, rule: str, keep: float) -> Gate:
        """How the model is gated."""
        how = How(
            backend=self.settings.backend,
            layers=self.gated_layers(rule),
            force_at_one=self.settings.force_at_one,
            seed=seed,
        )
        learned = None if rule_of(rule).needs == "nothing" else self.learned(seed)
        return Gate(rule, keep, learned, how)

    def gated_layers(self, rule: str) -> tuple[int, ...] | None:
        """Layers that a rule gates: all, or those whose blocks are known."""
        if rule_of(rule).needs != "blocks" or self.blocks is None:
            return None
        return tuple(sorted(self.blocks))

    def single_layers(self, rule: str) -> list[int]:
        """Layers that are also gated alone under a rule."""
        gated, below = self.gated_layers(rule), any(keep < 1 for keep in self.settings.keeps)
        return [n for n in self.settings.layers if below and (gated is None or n in gated)]

    def learned(self, seed: int) -> Learned:
        """What rules learn from a seed's calibration sample."""
        if seed not in self._learned:
            ids = torch.from_numpy(self.drawn[seed].calibration).to(input_device(self.model))
            rules, budget = self.settings.rules, self.settings.budget
            self._learned[seed] = learn(
                self.model, ids, blocks=self.blocks, rules=rules, budget=budget
            )
        return self._learned[seed]

    def _measured(self, seed: int, gate: Gate) -> Part:
        """Losses of one gate."""
        windows = self.drawn[seed].windows
        return measure_quality(self.model, gate, windows, self.settings.budget, self.on_halved)

    def _timed(self, seed: int, rule: str) -> Part:
        """Times of one rule."""
        settings, gate = self.settings, self.gate(seed, rule, 1.0)
        ids = torch.from_numpy(self.drawn[seed].windows.ids[0]).to(input_device(self.model))
        n_decoded = min(DECODED, len(ids) // 2)
        timing = SpeedSettings(
            text=Text(ids[None, :-n_decoded], ids[-n_decoded:]),
            rounds=settings.rounds,
            seed=seed,
            layers=self.gated_layers(rule),
        )
        keeps = [keep for keep in settings.keeps if keep < 1]
        return measure_speed(self.model, rule, keeps, gate.learned, settings.backend, timing)
