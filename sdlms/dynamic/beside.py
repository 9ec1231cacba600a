"""What other runs say of the gated model's units: specialized neurons, communities, latents."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sdlms.dynamic import latent_rows, specialist_rows
from sdlms.dynamic.latents import Autoencoders, Latents, autoencoders_of
from sdlms.dynamic.specialists import (
    Specialists,
    Specialized,
    blocks_of,
    check_neurons,
    specialized_of,
)
from sdlms.dynamic.study import Study
from sdlms.dynamic.windows import Windows, head
from sdlms.errors import UserError
from sdlms.models.gating.rules import rule_of
from sdlms.progress import LOGGER
from sdlms.runs.parts import Part
from sdlms.runs.reading import Run
from sdlms.storage.tables import Cell

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MOST_TOKENS = 1500
"""Scored tokens per task, of the first seed: each question costs many forwards over them."""


@dataclass(frozen=True, eq=False)
class Beside:
    """What `--si` and `--sae` name, read.

    Attributes:
        runs: those.
        specialized: neurons of the si-modularity run; None where there is no run, or it is read for
            its communities alone.
        blocks: layer -> `[neuron]` community; None where no rule needs them.
        autoencoders: of the sae-train run; None where there is none.
    """

    runs: list[Run]
    specialized: Specialized | None
    blocks: dict[int, NDArray[np.int64]] | None
    autoencoders: Autoencoders | None


def read_si(
    run: Run, record: Mapping[str, Any], rules: Sequence[str], tasks: Sequence[str]
) -> tuple[Specialized | None, dict[int, NDArray[np.int64]] | None]:
    """Specialized neurons, and communities where a rule keeps them.

    Args:
        run: complete, of the stage si-modularity.
        record: of the model that is gated.
        rules: names.
        tasks: on which the gated model is evaluated.

    Raises:
        UserError: the run is of something else, or damaged; or it is of other tasks, and no rule
            keeps communities.
    """
    check_neurons(run, record)
    blocks = blocks_of(run) if any(rule_of(rule).needs == "blocks" for rule in rules) else None
    try:
        return specialized_of(run, tasks), blocks
    except UserError as error:
        if blocks is None:
            raise
        LOGGER.warning(f"no specialized_units.csv: {error}")
        return None, blocks


def read_beside(
    runs: Mapping[str, Run],
    record: Mapping[str, Any],
    config: "PreTrainedConfig",
    rules: Sequence[str],
    tasks: Sequence[str],
) -> Beside:
    """Everything that the named runs say.

    Args:
        runs: by their stage.
        record: of the model that is gated.
        config: of that model.
        rules: names.
        tasks: on which the gated model is evaluated.

    Raises:
        UserError: a run is of another model, or of something that is not gated, or damaged.
    """
    si, sae = runs.get("si-modularity"), runs.get("sae-train")
    specialized, blocks = read_si(si, record, rules, tasks) if si else (None, None)
    found = autoencoders_of(sae, record, config) if sae else None
    return Beside(list(runs.values()), specialized, blocks, found)


class Question:
    """One of the tables that are written beside, and how a rule and a kept fraction answer it."""

    def __init__(
        self, file: str, columns: list[str], ask: Callable[..., Part], rows: Callable[..., Any]
    ) -> None:
        """Args are what the attributes of the same names are."""
        self.file, self.columns = file, columns
        self._ask, self._rows = ask, rows

    def measure(self, study: Study, rule: str, keep: float) -> Part:
        """The answer of one rule and kept fraction, in the first seed's windows."""
        seed = study.settings.seeds[0]
        gate = study.gate(seed, rule, keep)
        which = "dense" if keep == 1 else f"{rule}_{keep:g}"  # at 1 all rules are the model itself
        name = f"{seed}_{which}_{self.file.removesuffix('.csv')}"
        return {**study.parts.once(name, lambda: self._ask(gate)), "rule": rule}

    def rows(self, parts: Sequence[Part], seed: int) -> Iterator[dict[str, Cell]]:
        """Rows of all answers."""
        yield from self._rows(parts, seed)


def questions_of(beside: Beside, study: Study, seed: int) -> list[Question]:
    """What is asked of the model: one question for each table."""
    windows: Windows = head(study.drawn[study.settings.seeds[0]].windows, MOST_TOKENS)
    model, budget, on_halved = study.model, study.settings.budget, study.on_halved
    found = []
    if beside.specialized is not None:
        units = Specialists(model, beside.specialized, windows, seed, budget, on_halved)
        file, columns = "specialized_units.csv", specialist_rows.COLUMNS
        found.append(Question(file, columns, units.measure, specialist_rows.rows_of))
    if beside.autoencoders is not None:
        latents = Latents(model, beside.autoencoders, windows, budget, on_halved)
        file, columns = "latents.csv", latent_rows.COLUMNS
        found.append(Question(file, columns, latents.measure, latent_rows.rows_of))
    return found
