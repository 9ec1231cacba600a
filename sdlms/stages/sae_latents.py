"""Encode every captured token with trained sparse autoencoders.

Writes sparse_acts.h5 (every token's active latents, one autoencoder per layer) and sae_latents.csv
(one row per layer: how sparse they are, and what they explain).
"""

from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from sdlms.command import DeviceConfig
from sdlms.errors import UserError
from sdlms.models.layers import check_layers
from sdlms.progress import LOGGER, Progress
from sdlms.runs.reading import Run, find_run
from sdlms.runs.writing import RunWriter

if TYPE_CHECKING:
    from sdlms.acts.file_source import FileSource
    from sdlms.sae.dictionary import Dictionary
    from sdlms.sae.encoding import Tally
    from sdlms.sae.finding import Trained
    from sdlms.storage.rows import Rows
    from sdlms.storage.sparse_acts import SparseHeader

LATENTS = "sparse_acts.h5"
TABLE = "sae_latents.csv"
COLUMNS = ["layer", "member", "width", "tokens", "l0_mean", "fired_fraction", "density"]
COLUMNS += ["fvu_own_mean"]  # about the mean of these tokens; sae.csv's is about the training mean
ALL = "all"
UNKNOWN_L0 = 64.0  # of a single folder, which says nothing of it


@dataclass(frozen=True, kw_only=True)
class Config(DeviceConfig):
    """Settings of the sae-latents stage."""

    sae: Annotated[str, "A sae-train run: path, name or latest; or the folder of one SAE."] = (
        "latest"
    )
    acts: Annotated[
        str | None, "A capture run, or latest; the one the SAEs were trained on by default."
    ] = None
    site: Annotated[str | None, "Which site, where there are several."] = None
    layers: Annotated[tuple[str, ...], "Layers that have an SAE, or all of them."] = (ALL,)
    member: Annotated[
        str | None, "Which SAE of each layer, by name; by default the one that was selected."
    ] = None

    def __post_init__(self) -> None:
        """Check what can be checked before anything is read."""
        super().__post_init__()
        check_layers(self.layers)


@dataclass(frozen=True)
class Plan:
    """Everything that is known before the first token is encoded.

    Attributes:
        acts: the capture run.
        sae: the run of the autoencoders; None where they are a folder's.
        source: the activations.
        trained: one autoencoder per layer.
        dictionaries: these, on the CPU.
        decided: what `auto` means on this machine.
    """

    acts: Run
    sae: Run | None
    source: "FileSource"
    trained: "list[Trained]"
    dictionaries: "list[Dictionary]"
    decided: dict[str, Any]

    @property
    def sae_name(self) -> str:
        """The run, or the folder."""
        return self.trained[0].origin

    @property
    def n_tokens(self) -> int:
        """Of every mask, in one layer."""
        return int(self.source.description.lengths.sum())


def run(config: Config, out: RunWriter) -> None:
    """Write `sparse_acts.h5` and `sae_latents.csv`.

    Raises:
        UserError: a setting or an input is wrong, or the two do not belong together (before
            anything is written); an activation is no number, or the disk is full.
    """
    from sdlms.models.device import set_threads

    plan = _plan(config, out)
    out.check_disk(_predicted_bytes(plan), "Name fewer --layers, or a sparser --member.")
    decided = out.start(_resolved(plan), plan.decided)
    for read in (plan.sae, plan.acts):
        if read is not None:
            out.input(read)
    set_threads(decided["threads"])
    _announce(plan, decided)
    tallies = _encode(plan, decided, out)
    _write(plan, tallies, out)
    out.summary["tokens"] = plan.n_tokens


def _plan(config: Config, out: RunWriter) -> Plan:
    """Check every setting and input; read the autoencoders, and what the capture says of itself."""
    from sdlms.models.device import decisions, device_of
    from sdlms.sae.dictionary import load_dictionary
    from sdlms.sae.finding import is_sae_folder, trained_in_folder, trained_in_run
    from sdlms.sae.pairing import capture_of, check_model, check_sizes, encoded_source

    decided = decisions(device_of(config.device), "float32", config.threads)
    artifacts = out.options.artifacts
    if is_sae_folder(Path(config.sae)):
        if config.acts is None:
            raise UserError(f"--sae {config.sae} is a single SAE: name its activations by --acts.")
        if config.member is not None:
            raise UserError(f"--sae {config.sae} is a single SAE: leave out --member.")
        sae, folder = None, Path(config.sae)
        acts = find_run(artifacts, config.acts, "capture")
        trained = trained_in_folder(folder, config.site, config.layers)
    else:
        sae = find_run(artifacts, config.sae, "sae-train")
        trained = trained_in_run(sae, config.site, config.layers, config.member)
        named = config.acts
        acts = capture_of(sae) if named is None else find_run(artifacts, named, "capture")
        check_model(sae, acts)
    source = encoded_source(acts, trained)
    dictionaries = [load_dictionary(each.folder) for each in trained]
    check_sizes(trained, dictionaries, source.description)
    return Plan(acts, sae, source, trained, dictionaries, decided)


def _predicted_bytes(plan: Plan) -> int:
    """What the run will take on disk, scratch files among it.

    An estimate: the latents that are active on these tokens are taken to be as many as on the
    documents that were held out of the training.
    """
    from sdlms.storage.sparse_acts import predicted_bytes

    total = 0
    for each, dictionary in zip(plan.trained, plan.dictionaries, strict=True):
        l0 = (dictionary.k or UNKNOWN_L0) if isnan(each.l0) else each.l0
        total += predicted_bytes(plan.n_tokens, round(l0 * plan.n_tokens))
    return total


def _resolved(plan: Plan) -> dict[str, Any]:
    """What the inputs turned out to be."""
    return {
        "sae": plan.sae_name,
        "acts": plan.acts.name,
        "model": plan.acts.start["resolved"]["model"],
        "control": plan.source.description.header.control,
        "site": plan.source.description.site,
        "members": [each.record() for each in plan.trained],
    }


def _announce(plan: Plan, decided: dict[str, Any]) -> None:
    """Log what is encoded, and by what."""
    description = plan.source.description
    LOGGER.info(
        f"{plan.acts.name}: {description.site}, {plan.n_tokens:,} tokens in "
        f"{description.n_documents:,} documents; device {decided['device']}, "
        f"{decided['threads']} threads"
    )
    for each, dictionary in zip(plan.trained, plan.dictionaries, strict=True):
        LOGGER.info(f"layer {each.layer}: {each.member}, {dictionary.width} latents")
    if (control := description.header.control) != "none":
        LOGGER.info(f"activations of a control, not of the model itself: {control}")


def _encode(plan: Plan, decided: dict[str, Any], out: RunWriter) -> "list[Tally]":
    """Every layer's rows, in plain files."""
    from sdlms.models.device import device_of
    from sdlms.sae.encoding import encode_layer, read_tally

    device = device_of(decided["device"])
    both = list(zip(plan.trained, plan.dictionaries, strict=True))
    done = sum(read_tally(out.scratch, each.layer, d).n_rows for each, d in both)
    total = plan.n_tokens * len(both)
    with out.phase("encode"), Progress("latents", total, "tokens", done=done) as progress:
        return [
            encode_layer(plan.source, each.layer, d.to(device), out.scratch, progress.advance)
            for each, d in both
        ]


def _write(plan: Plan, tallies: "list[Tally]", out: RunWriter) -> None:
    """Assemble the file, and write the table."""
    from sdlms.storage.activations import ActivationsReader
    from sdlms.storage.sparse_acts import assemble
    from sdlms.storage.tables import write_table

    with out.phase("assemble"):
        with ActivationsReader(plan.source.file.path) as reader:
            rows: Rows = reader.rows()
        assemble(out.path / LATENTS, _header(plan), rows, out.scratch)
    out.output(LATENTS)
    write_table(out.path / TABLE, COLUMNS, _rows(plan, tallies))
    out.output(TABLE, columns=COLUMNS)


def _header(plan: Plan) -> "SparseHeader":
    """What the latents are of."""
    from sdlms.storage.sparse_acts import SparseHeader

    activations = plan.source.description.header
    return SparseHeader(
        model=activations.model,
        revision=activations.revision,
        site=plan.source.description.site,
        width=plan.dictionaries[0].width,
        members={each.layer: each.member for each in plan.trained},
        sae=plan.sae_name,
        control=activations.control,
    )


def _rows(plan: Plan, tallies: "list[Tally]") -> list[dict[str, str | int | float | None]]:
    """One row per layer, of tokens of mask 1."""
    return [
        {
            "layer": each.layer,
            "member": each.member,
            "width": len(tally.fired),
            "tokens": tally.n_tokens,
            "l0_mean": tally.l0,
            "fired_fraction": float(tally.fired.mean()),
            "density": tally.l0 / len(tally.fired),
            "fvu_own_mean": tally.fvu_own_mean,
        }
        for each, tally in zip(plan.trained, tallies, strict=True)
    ]
