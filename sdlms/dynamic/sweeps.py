"""Every measurement of a study, one after another, with progress."""

from itertools import product

from sdlms.dynamic.study import Study
from sdlms.progress import Progress
from sdlms.runs.writing import RunWriter


def measure_quality(study: Study, out: RunWriter) -> None:
    """Perplexity of the dense model, of every rule and kept fraction, and of single layers."""
    sweeps = list(study.sweeps())
    with out.phase("quality"), Progress("quality", len(sweeps), "sweeps") as progress:
        for sweep in sweeps:
            sweep()
            progress.advance(1)


def measure_speed(study: Study, out: RunWriter) -> None:
    """Tokens per second of every rule, seed by seed."""
    settings = study.settings
    timings = list(product(settings.seeds, settings.rules))
    with out.phase("speed"), Progress("speed", len(timings), "timings") as progress:
        for seed, rule in timings:
            study.speed(seed, rule)
            progress.advance(1)
