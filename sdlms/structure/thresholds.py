"""The threshold of each unit of a layer: recorded, fixed, or estimated from a sample of tokens."""

import numpy as np
from numpy.typing import NDArray

from sdlms.storage.activations import dataset_name
from sdlms.structure.captured import read_counts_of
from sdlms.structure.samples import samples_of
from sdlms.structure.subject import Subject
from sdlms.structure.threshold_rule import AT_ZERO, ThresholdRule

CURVE_QUANTILES = (0.5, 0.9, 0.95, 0.99)
# A latent is 0 on nearly every token: its lower quantiles are 0, which is a threshold already.
LATENT_QUANTILES = (0.99,)
DEVIATIONS = 2
SPREAD = f"mean_plus_{DEVIATIONS}sd"


def thresholds_of(subject: Subject, layer: int) -> NDArray[np.float32]:
    """Above what each unit fires under the subject's rule.

    Returns:
        `[unit]` float32; of a capture under its own rule, what it recorded.

    Raises:
        UserError: the run is damaged.
    """
    if subject.counts is not None:
        name = f"{dataset_name((subject.site, layer))}/thresholds"
        return read_counts_of(subject.run, name).astype(np.float32)
    if subject.rule.kind == "fixed":
        return np.full(subject.n_units, subject.rule.value, dtype=np.float32)
    thresholds = np.empty(subject.n_units, dtype=np.float32)
    for units, sample in samples_of(subject, layer):
        thresholds[units] = sample.quantile(subject.rule.value)
    return thresholds


def matched_thresholds(
    subject: Subject, layer: int, rates: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Above what each unit fires as often as it shall, going by the sample.

    Args:
        subject: with activations by token.
        layer: of its layers.
        rates: `[unit]` shares of tokens; less is reached where many tokens share a value.

    Returns:
        `[unit]` float32; infinite for a rate of 0 (never fires) and of 1 (always).

    Raises:
        UserError: the run is damaged.
        ValueError: it kept no activations.
    """
    thresholds = np.empty(subject.n_units, dtype=np.float32)
    for units, sample in samples_of(subject, layer):
        thresholds[units] = sample.quantiles(1 - rates[units])
    # The sample's ends are not those of all tokens.
    thresholds[rates <= 0], thresholds[rates >= 1] = np.inf, -np.inf
    return thresholds


def curve_thresholds(subject: Subject, layer: int) -> dict[str, NDArray[np.float32]]:
    """The thresholds of a curve: `zero`, quantiles, and mean plus two standard deviations.

    Returns:
        `name -> [unit]` float32, named as rules are; `mean_plus_2sd` last. For latents, whose
        lower quantiles are 0, the 0.99 quantile is the only one.

    Raises:
        UserError: the run is damaged.
        ValueError: it kept no activations.
    """
    fractions = LATENT_QUANTILES if subject.kind == "latent" else CURVE_QUANTILES
    quantiles = {ThresholdRule("quantile", fraction).name: fraction for fraction in fractions}
    names = [AT_ZERO.name, *quantiles, SPREAD]
    curve = {name: np.zeros(subject.n_units, dtype=np.float32) for name in names}
    for units, sample in samples_of(subject, layer):
        mean, deviation = sample.moments()
        curve[SPREAD][units] = mean + DEVIATIONS * deviation
        for name, fraction in quantiles.items():
            curve[name][units] = sample.quantile(fraction)
    return curve
