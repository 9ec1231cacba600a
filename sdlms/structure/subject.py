"""What `--acts` names: a run whose units are looked at, and what is known before they are read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sdlms.acts.file_source import ACTIVATIONS, SPARSE_ACTIVATIONS, FileSource, located
from sdlms.acts.sparse_source import source_of
from sdlms.acts.statistics import SAMPLE_TOKENS, rule_of
from sdlms.errors import UserError
from sdlms.models.layers import layers_among
from sdlms.models.tokens import documents_within
from sdlms.runs.reading import Run
from sdlms.storage.activations import Key, dataset_name
from sdlms.storage.sparse_acts import LATENTS
from sdlms.structure.captured import (
    COUNTS,
    SPARSITY,
    captured_rules,
    check_counts,
    read_counts_of,
    site_among,
)
from sdlms.structure.documents import Documents, documents_of
from sdlms.structure.threshold_rule import AT_ZERO, ThresholdRule, rule_named

Kind = Literal["neuron", "unit", "latent"]


@dataclass(frozen=True, eq=False)
class Subject:
    """Units of some layers, and the documents on which they fire.

    Attributes:
        run: a capture or sae-latents run.
        site: as Acts name it.
        layers: ascending.
        n_units: of each layer.
        rule: fixed or quantile, no longer `auto`.
        control: what was done to weights or tokens, `none` otherwise.
        documents: those that count.
        source: activations by token; None where the run kept none.
        counts: the capture's `counts.h5`, where its thresholds are the rule's.
    """

    run: Run
    site: str
    layers: list[int]
    n_units: int
    rule: ThresholdRule
    control: str
    documents: Documents
    source: FileSource | None
    counts: Path | None

    @property
    def model(self) -> dict[str, Any]:
        """As `meta.jsonl` records a model."""
        record: dict[str, Any] = self.run.start["resolved"]["model"]
        return record

    @property
    def kind(self) -> Kind:
        """What a unit is called."""
        named: dict[str, Kind] = {"mlp_act": "neuron", LATENTS: "latent"}
        return named.get(self.site, "unit")

    @property
    def has_firings(self) -> bool:
        """Whether it is known on which tokens units fire, not only how often in a document."""
        return self.source is not None

    @property
    def n_tokens(self) -> int:
        """Tokens of mask 1."""
        return int(self.documents.n_tokens.sum())

    @property
    def sample(self) -> NDArray[np.int64]:
        """`[sampled]` positions in `documents` of those from which thresholds are estimated.

        As many tokens as a capture takes, chosen as it does, by the run's seed.
        """
        seed = int(self.run.start["config"].get("seed", 0))
        n_tokens = self.documents.n_tokens
        return np.array(documents_within(n_tokens, SAMPLE_TOKENS, seed), dtype=np.int64)

    def record(self) -> dict[str, Any]:
        """What `meta.jsonl` says of it."""
        chosen = self.sample
        return {
            "acts": self.run.name,
            "model": self.model,
            "control": self.control,
            "site": self.site,
            "layers": self.layers,
            "threshold": self.rule.name,
            "threshold_sample_documents": len(chosen),
            "threshold_sample_tokens": int(self.documents.n_tokens[chosen].sum()),
        }


def open_subject(
    run: Run, site: str | None, layers: tuple[str, ...], rule: ThresholdRule
) -> Subject:
    """Look at a run, and at what is asked of it; no activation is read.

    Args:
        run: a complete capture or sae-latents run.
        site: which one; may be left out where the run has only one.
        layers: as `--layers` has them; `all` are all of the run's.
        rule: `auto` is the capture's own, and fixed at 0 for latents.

    Raises:
        UserError: the run lacks the site or a layer, holds no activations, or pooled ones; its
            documents have no tasks or no tokens; or the threshold cannot be had.
    """
    recorded = {record["path"] for record in run.all_of("output")}
    captured = captured_rules(run) if {COUNTS, SPARSITY} <= recorded else {}
    source = None
    if recorded & {ACTIVATIONS, SPARSE_ACTIVATIONS} or not captured:
        source = _token_source(run, site)
    site = source.description.site if source else site_among(run, captured, site)
    held = source.description.layers if source else [n for where, n in captured if where == site]
    n_layers = int(run.start["resolved"]["model"]["n_layers"])
    chosen = layers_among(layers, held, n_layers, run.name)
    own = captured.get((site, chosen[0])) or _own_rule(source)
    wanted = own if rule.kind == "auto" else rule
    _check_rule(run, wanted, own, source)
    if captured:
        check_counts(run, site, chosen)
    counted = run.path / COUNTS if captured and wanted == own else None
    return Subject(
        run=run,
        site=site,
        layers=chosen,
        n_units=source.description.n_units if source else _width(run, (site, chosen[0])),
        rule=wanted,
        control=_control(run, source),
        documents=documents_of(run, source),
        source=source,
        counts=counted,
    )


def _token_source(run: Run, site: str | None) -> FileSource:
    """The run's activations, token by token."""
    source = source_of(run, run.path.parent, site)
    known = source.description
    if known.dims != "blsh" or known.header.pools:
        pools = ", ".join(known.header.pools) or f"dims {known.dims}"
        raise UserError(
            f"{located(run, run.path.parent)[0]} holds pooled activations ({pools}); units fire on "
            "tokens. Name the run they were pooled from by --acts."
        )
    return source


def _own_rule(source: FileSource | None) -> ThresholdRule:
    """The rule where no table tells it: of latents, or of the kind of site."""
    assert source is not None
    known = source.description
    if known.site == LATENTS:
        return AT_ZERO
    header = known.header
    return rule_named(rule_of(known.site, header.activation_function, gated=header.gated).name)


def _check_rule(
    run: Run, wanted: ThresholdRule, own: ThresholdRule, source: FileSource | None
) -> None:
    """Refuse a threshold that means nothing for these units, or that needs what was not kept."""
    if source is None and wanted != own:
        raise UserError(
            f"--threshold: {run.name} was captured with --no-save, so that its counts are those "
            f"of {own.name}, not of {wanted.name}. Leave it at auto, or capture without --no-save."
        )
    if source is not None and source.description.site == LATENTS and wanted.value < 0:
        raise UserError(
            f"--threshold fixed:{wanted.value}: latents are 0 where they are silent, so that all "
            "would fire. Use fixed:0 or more."
        )


def _width(run: Run, key: Key) -> int:
    """Units of a site and layer of a run that kept no activations."""
    return len(read_counts_of(run, f"{dataset_name(key)}/thresholds"))


def _control(run: Run, source: FileSource | None) -> str:
    """What was done to weights or tokens; of latents, the file says it."""
    if source is not None and source.description.site == LATENTS:
        return source.description.header.control
    return str(run.start["resolved"].get("control", "none"))
