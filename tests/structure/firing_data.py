"""Layers whose co-activation is known, as files of firings."""

from pathlib import Path

import numpy as np

from sdlms.storage.firings import Firings, FiringsWriter, Layout

TASKS = ("code", "dialogue", "math", "prose", "qa", "reasoning")
TASK_DOCUMENTS = (220, 140, 100, 70, 45, 25)
DOCUMENT_TOKENS = 40


def firings_of(folder: Path, firing: np.ndarray, task_documents: tuple[int, ...]) -> Firings:
    """A file of `[token, unit]`: documents of equal length, task by task."""
    n_documents = sum(task_documents)
    layout = Layout(
        units=np.arange(firing.shape[1]) * 2 + 1,
        offsets=np.arange(n_documents + 1) * (len(firing) // max(1, n_documents)),
        task_bounds=np.cumsum([0, *task_documents]),
        task_names=TASKS[: len(task_documents)],
    )
    folder.mkdir(exist_ok=True)
    with FiringsWriter(folder / "layer.firings", layout) as writer:
        writer.append(firing.astype(bool))
    return Firings(folder / "layer.firings")


def topics(generator: np.random.Generator, n_units: int, raised: float) -> np.ndarray:
    """`[document, unit]` by which rates are multiplied: each of ten topics raises some units.

    Units of one topic fire in the same documents, but there at moments of their own.
    """
    of_documents = generator.integers(0, 10, sum(TASK_DOCUMENTS))
    return np.where(of_documents[:, None] == generator.integers(0, 10, n_units), raised, 1.0)


def independent_units(
    seed: int, n_units: int = 160, spread: float = 0.8, burst: float = 0.5, raised: float = 1.0
) -> np.ndarray:
    """`[token, unit]`: each fires in bursts, in some documents and tasks more than in others.

    Its rate in a document depends on nothing but the unit and, where `raised` is not 1, the
    document's topic: at the tokens of a document no two have anything in common.

    Args:
        seed: of the draw.
        n_units: how many.
        spread: standard deviation of a unit's log rate over documents.
        burst: chance to go on as the token before.
        raised: by which a topic multiplies the rates of its units.
    """
    generator = np.random.default_rng(seed)
    n_documents = sum(TASK_DOCUMENTS)
    of_task = generator.normal(0, 0.5, (len(TASK_DOCUMENTS), n_units))
    logs = np.repeat(of_task, TASK_DOCUMENTS, axis=0)
    logs += np.log(generator.uniform(0.05, 0.15, n_units))
    logs += generator.normal(0, spread, (n_documents, n_units))
    rates = np.minimum(
        np.exp(logs) * topics(np.random.default_rng([seed, 1]), n_units, raised), 0.8
    )
    return bursts(generator, rates, burst)


def bursts(generator: np.random.Generator, rates: np.ndarray, burst: float) -> np.ndarray:
    """`[document * token, unit]` of `[document, unit]` rates: a stationary chain of two states."""
    states = [generator.random(rates.shape) < rates]
    for _ in range(DOCUMENT_TOKENS - 1):
        anew = generator.random(rates.shape) < rates
        states.append(np.where(generator.random(rates.shape) < burst, states[-1], anew))
    return np.stack(states, axis=1).reshape(-1, rates.shape[1])


def planted_modules(
    seed: int, size: int = 12, n_noise: int = 64, raised: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Eight modules whose units follow a common signal, each most active in one task.

    Topics of documents multiply by `raised` how often units fire beside; they cut across modules.

    Returns:
        `[token, unit]` firing, and `[unit]` modules, -1 for units that fire on their own.
    """
    generator = np.random.default_rng(seed)
    tasks = np.repeat(np.arange(len(TASK_DOCUMENTS)), TASK_DOCUMENTS)
    own = tasks[:, None] == np.arange(8) % len(TASK_DOCUMENTS)
    signals = bursts(generator, np.where(own, 0.2, 0.02), 0.5)
    factors = topics(np.random.default_rng([seed, 1]), 8 * size + n_noise, raised)
    noise = bursts(generator, 0.08 * factors[:, 8 * size :], 0.5)
    beside = np.repeat(0.02 * factors[:, : 8 * size], DOCUMENT_TOKENS, axis=0)
    modules = np.repeat(np.arange(8), size)
    follows = signals[:, modules] & (generator.random((len(signals), len(modules))) < 0.6)
    firing = np.hstack([follows | (generator.random(follows.shape) < beside), noise])
    order = generator.permutation(firing.shape[1])
    return firing[:, order], np.append(modules, np.full(n_noise, -1))[order]
