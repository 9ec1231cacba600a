"""Which trained autoencoders are meant: those that a sae-train run selected, or one folder."""

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isinf, nan
from pathlib import Path
from typing import Any

from sdlms.errors import UserError
from sdlms.models.layers import layers_among
from sdlms.runs.reading import Run
from sdlms.sae.saving import folder_of
from sdlms.storage.files import sha256_of
from sdlms.storage.sae_files import CONFIG
from sdlms.storage.tables import read_table

TABLE = "sae.csv"


def _number(cell: str) -> float:
    """A number, which may be NaN, but not infinite."""
    if isinf(number := float(cell)):
        raise ValueError
    return number


# What is read of a row; other columns may be there too.
CELLS: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(("site", "member", "ended"), str),
    **dict.fromkeys(("layer", "selected", "screened", "seed", "steps"), int),
    "coefficient": _number,
    "best_step": lambda cell: int(cell or 0),  # may be empty
    "l0": lambda cell: _number(cell or "nan"),
}


@dataclass(frozen=True)
class Trained:
    """One autoencoder on disk.

    Attributes:
        origin: name of the run, or the folder.
        site: of the activations that it encodes; None where nobody knows.
        layer: of these.
        member: its name.
        folder: where it lies.
        l0: active latents per token on held-out documents; NaN where nobody measured.
    """

    origin: str
    site: str | None
    layer: int
    member: str
    folder: Path
    l0: float

    def record(self) -> dict[str, Any]:
        """What `meta.jsonl` says of it: where it is for, and the hashes of what it is read from."""
        files = [self.folder / CONFIG, *sorted(self.folder.glob("*.safetensors"))]
        hashes = {path.name: sha256_of(path) for path in files}
        return {"layer": self.layer, "member": self.member, "files": hashes}


def is_sae_folder(path: Path) -> bool:
    """Whether a path is the folder of one autoencoder."""
    return (path / CONFIG).is_file()


def trained_in_folder(folder: Path, site: str | None, layers: tuple[str, ...]) -> list[Trained]:
    """The one autoencoder of a folder; it does not say which layer it is for.

    Raises:
        UserError: not exactly one layer is named, by its index.
    """
    if len(layers) != 1 or not layers[0].isdecimal():
        raise UserError(
            f"--sae {folder} is a single SAE: name its one layer by its index, such as --layers 2."
        )
    return [Trained(str(folder), site, int(layers[0]), folder.resolve().name, folder, nan)]


def trained_in_run(
    run: Run, site: str | None, layers: tuple[str, ...], member: str | None
) -> list[Trained]:
    """One autoencoder per layer of a sae-train run, layers ascending.

    Args:
        run: complete.
        site: may be left out where the run has only one.
        layers: as `--layers` has them; `all` are those of the run.
        member: its name, the same in all layers; None is the one that was selected in each.

    Raises:
        UserError: there is no such site, layer or member.
    """
    rows = rows_of_site(run, site)
    return [_of_layer(run, rows, layer, member) for layer in layers_held(run, rows, layers)]


def rows_of_site(run: Run, site: str | None) -> list[dict[str, str]]:
    """The rows of a run's `sae.csv`.

    Args:
        run: complete.
        site: whose; may be left out where the run has only one.

    Raises:
        UserError: there is no table, or it is damaged, or no such site, or several.
    """
    table = _checked_table(run)
    sites = list(dict.fromkeys(row["site"] for row in table))
    if site is None and len(sites) > 1:
        raise UserError(f"{run.name} has SAEs of {', '.join(sites)}; choose one: --site {sites[0]}")
    if site is not None and site not in sites:
        raise UserError(f"--site {site}: {run.name} has SAEs of {', '.join(sites)}.")
    return [row for row in table if row["site"] == (site or sites[0])]


def _checked_table(run: Run) -> list[dict[str, str]]:
    """`sae.csv`, in which every cell that is read here is what it has to be."""
    path = run.path / TABLE
    if not path.is_file():
        raise UserError(f"{run.name} holds no {TABLE}, so nobody knows its SAEs.")
    try:
        table = read_table(path)
        _check_cells(table)
    except (OSError, ValueError, csv.Error) as error:  # ValueError: not UTF-8, too
        why = str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged ({why}); see: sdlms runs verify {run.name}") from None
    return table


def _check_cells(table: Sequence[Mapping[Any, Any]]) -> None:
    """Read every cell once.

    Raises:
        ValueError: one cannot be read, or is not there.
    """
    if not table:
        raise ValueError("it has no rows")
    if absent := [column for column in CELLS if column not in table[0]]:
        raise ValueError(f"it has no column {absent[0]}")
    for row in table:
        if None in row or None in row.values():  # as csv says it
            raise ValueError("a row is too short or too long")
        for column, read in CELLS.items():
            try:
                read(row[column])
            except ValueError:
                raise ValueError(f"{column} is '{row[column]}'") from None


def layers_held(run: Run, rows: list[dict[str, str]], layers: tuple[str, ...]) -> list[int]:
    """The layers that are asked for, all of which have autoencoders, ascending.

    Raises:
        UserError: one of them has none.
    """
    held = sorted({int(row["layer"]) for row in rows})
    return layers_among(layers, held, int(run.start["resolved"]["model"]["n_layers"]), run.name)


def _of_layer(run: Run, rows: list[dict[str, str]], layer: int, member: str | None) -> Trained:
    """The autoencoder of one layer."""
    here = [row for row in rows if int(row["layer"]) == layer]
    key, value = ("selected", "1") if member is None else ("member", member)
    found = next((row for row in here if row[key] == value), None)
    if found is None:
        names = ", ".join(row["member"] for row in here)
        problem = f"no member '{member}'" if member else "no member that was selected"
        raise UserError(f"{run.name} has {problem} at layer {layer}. Name one by --member: {names}")
    return trained_of(run, found)


def trained_of(run: Run, row: dict[str, str]) -> Trained:
    """The autoencoder of a row."""
    site, layer, name = row["site"], int(row["layer"]), row["member"]
    folder = run.path / folder_of(site, layer, name)
    return Trained(run.name, site, layer, name, folder, float(row["l0"] or "nan"))
