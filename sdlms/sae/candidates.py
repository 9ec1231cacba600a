"""Which autoencoders are to be measured, whoever trained them, and what is known of each."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from sdlms.errors import UserError
from sdlms.models.layers import ALL
from sdlms.progress import LOGGER
from sdlms.runs.folder import has_meta
from sdlms.runs.reading import Run, find_run
from sdlms.sae.dictionary import Dictionary
from sdlms.sae.finding import (
    Trained,
    is_sae_folder,
    layers_held,
    rows_of_site,
    trained_in_folder,
    trained_of,
)
from sdlms.sae.measuring import Row, Saved
from sdlms.sae.members import partner_of
from sdlms.sae.saving import HOOKS
from sdlms.storage.sae_files import read_sae_config

HOOK = re.compile(r"blocks\.([0-9]{1,4})\.(.+)")
SITE_OF_HOOK = {HOOK.sub(r"\2", hook.format(layer=0)): site for site, hook in HOOKS.items()}
LAYER_KEYS = ("hook_layer", "layer", "hook_point_layer")


class Declared(NamedTuple):
    """What a `cfg.json` says of an SAE's origin; empty or None where it does not.

    Attributes:
        model: its name, as whoever trained the SAE spells it.
        hook: TransformerLens' name of the place.
        site: the same by our name.
        layer: from 0.
    """

    model: str
    hook: str
    site: str | None
    layer: int | None


@dataclass(frozen=True, eq=False)
class Candidate:
    """One autoencoder that is to be measured.

    Attributes:
        trained: where it lies, and what it is for.
        declared: what its file says.
        facts: `coefficient`, `seed`, `steps`, `best_step` and `ended`, where its run knows them.
        partner: the member that differs in nothing but its seed; empty where there is none.
    """

    trained: Trained
    declared: Declared
    facts: Row = field(default_factory=dict)
    partner: str = ""


def declared_in(config: Mapping[str, Any]) -> Declared:
    """Read a `cfg.json`: sae-lens says it in `metadata`, before version 6 beside the rest."""
    metadata = config.get("metadata")
    said = {**config, **(metadata if isinstance(metadata, dict) else {})}
    hook = str(said.get("hook_name") or said.get("hook_point") or "")
    match = HOOK.fullmatch(hook)
    layers = [said[key] for key in LAYER_KEYS if type(said.get(key)) is int]
    return Declared(
        model=str(said.get("model_name") or ""),
        hook=hook,
        site=SITE_OF_HOOK.get(match[2]) if match else None,
        layer=next(iter(layers), int(match[1]) if match else None),
    )


def run_named(artifacts: Path, name: str) -> Run | None:
    """The sae-train run that is meant; None where the name is a folder's or the hub's.

    Raises:
        UserError: it can only be a run, and is none, or not complete, or another stage's.
    """
    path = Path(name).expanduser()
    if path.is_dir() and not has_meta(path) and not has_meta(artifacts / name):
        return None
    is_run = has_meta(path) or "/" not in name or path.parent.resolve() == artifacts.resolve()
    return find_run(artifacts, name, "sae-train") if is_run and not is_sae_folder(path) else None


def candidates_in_run(
    run: Run, site: str | None, layers: tuple[str, ...] | None, member: str | None
) -> list[Candidate]:
    """The members of a sae-train run that were not given up early, layers ascending.

    Args:
        run: complete.
        site: may be left out where the run has only one.
        layers: as `--layers` has them; None takes all.
        member: one of them, by name; None takes all.

    Raises:
        UserError: there is no such site, layer or member.
    """
    rows = rows_of_site(run, site)
    held = layers_held(run, rows, layers or ALL)
    here = [row for layer in held for row in rows if int(row["layer"]) == layer]
    whole = [row for row in here if row["screened"] != "1"]
    chosen = [row for row in whole if member in (None, row["member"])]
    if not chosen:
        names = ", ".join(dict.fromkeys(row["member"] for row in whole))
        raise UserError(f"--member: {run.name} has no member '{member}' there, but {names}.")
    return [_of_row(run, row, here) for row in chosen]


def _of_row(run: Run, row: dict[str, str], rows: Sequence[dict[str, str]]) -> Candidate:
    """A member, with what its run knows of it."""
    trained = trained_of(run, row)
    facts: Row = {
        "coefficient": float(row["coefficient"]),
        "seed": int(row["seed"]),
        "steps": int(row["steps"]),
        "best_step": int(row["best_step"]) if row["best_step"] else None,
        "ended": row["ended"],
    }
    alike = [
        other["member"]
        for other in rows
        if (other["layer"], other["coefficient"]) == (row["layer"], row["coefficient"])
    ]
    partner = partner_of(row["member"], alike)
    return Candidate(trained, declared_in(read_sae_config(trained.folder)), facts, partner)


def candidate_in_folder(
    name: str, folder: Path, site: str | None, layers: tuple[str, ...] | None
) -> Candidate:
    """The one autoencoder of a folder.

    Args:
        name: as the user has it: a path, or a hub name.
        folder: that holds it.
        site: of the activations; None takes the one that its `cfg.json` names, if it does.
        layers: one index; None takes the layer that its `cfg.json` names.

    Raises:
        UserError: nobody says which layer it is for, or its `cfg.json` cannot be read.
    """
    declared = declared_in(read_sae_config(folder))
    words = layers or (() if declared.layer is None else (str(declared.layer),))
    (trained,) = trained_in_folder(Path(name), site or declared.site, words)
    member = Path(name).resolve().name
    return Candidate(replace(trained, origin=name, folder=folder, member=member), declared)


def one_site(candidates: Sequence[Candidate]) -> str | None:
    """The site that all of them are for; None where none says so.

    Raises:
        UserError: there are several.
    """
    sites = {each.trained.site: each for each in candidates if each.trained.site is not None}
    if len(sites) > 1:
        said = ", ".join(f"{each.trained.origin} of {site}" for site, each in sites.items())
        raise UserError(f"--sae: one table is about one site, but these are several: {said}.")
    return next(iter(sites), None)


def numbered(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same under names that are unique in each layer: what clashes gets a number behind it.

    Raises:
        UserError: one of them is there twice.
    """
    taken: set[tuple[int, str]] = set()
    names: dict[tuple[str, int, str], str] = {}
    for each in candidates:
        old = each.trained
        if (old.origin, old.layer, old.member) in names:
            raise UserError(f"--sae names {old.origin} twice.")
        name, number = old.member, 1
        while (old.layer, name) in taken:
            number += 1
            name = f"{old.member}_{number}"
        taken.add((old.layer, name))
        names[old.origin, old.layer, old.member] = name
    return [
        replace(each, trained=replace(old, member=name), partner=partner)
        for each in candidates
        for old in [each.trained]
        for name in [names[old.origin, old.layer, old.member]]
        for partner in [names.get((old.origin, old.layer, each.partner), "")]
    ]


def warn_of_origin(candidate: Candidate, site: str, model: str) -> None:
    """Log where an autoencoder's file names another model or place than it is measured on.

    Names are spelled differently everywhere; so this is no error. Of models the last part of the
    path is compared.
    """
    trained, declared = candidate.trained, candidate.declared
    name = f"{trained.member} of {trained.origin}"
    if declared.model and _last(declared.model) != _last(model):
        LOGGER.warning(f"{name} says that its model is {declared.model}; the activations: {model}")
    place = HOOKS[site].format(layer=trained.layer)
    if declared.hook and declared.hook != place:
        LOGGER.warning(f"{name} says that it is for {declared.hook}; it is measured on {place}")


def _last(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2].casefold()


def saved_of(candidate: Candidate, dictionary: Dictionary, site: str, d_model: int) -> Saved:
    """What is measured, with what is known of it without measuring.

    Args:
        candidate: which one.
        dictionary: the same, loaded.
        site: that it is measured on.
        d_model: the model's hidden size.
    """
    trained = candidate.trained
    facts: Row = {
        "site": site,
        "layer": trained.layer,
        "member": trained.member,
        "selected": 0,
        "screened": 0,
        "architecture": dictionary.architecture,
        "coefficient": float(dictionary.k) if dictionary.k else None,
        "seed": None,
        "d_in": dictionary.d_in,
        "width": dictionary.width,
        "expansion": dictionary.width / d_model,
        "steps": None,
        "best_step": None,
        "ended": "",
        **candidate.facts,
    }
    return Saved(trained.layer, trained.member, trained.folder, facts, candidate.partner)
