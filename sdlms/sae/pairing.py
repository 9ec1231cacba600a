"""Whether trained autoencoders and captured activations belong together."""

from collections.abc import Sequence

from sdlms.acts.description import Description
from sdlms.acts.file_source import FileSource, chosen_site, located
from sdlms.errors import UserError
from sdlms.models.layers import named_layers
from sdlms.progress import LOGGER
from sdlms.runs.meta import META
from sdlms.runs.reading import Run, find_run
from sdlms.sae.dictionary import Dictionary
from sdlms.sae.finding import Trained
from sdlms.storage.files import sha256_of
from sdlms.storage.row_file import find_rows


def check_model(sae: Run, acts: Run) -> None:
    """Refuse runs of two models.

    Models are told by their weights. Fresh weights of the same config may stand for the trained
    ones, or the other way round: such runs are controls, made to be compared.

    Raises:
        UserError: naming both.
    """
    one, other = (run.start["resolved"].get("model") or {} for run in (sae, acts))
    if one.get("reinit_seed") != other.get("reinit_seed"):
        key = "config"
    else:
        key = "weights" if one.get("weights") else "name"
    if one.get(key) != other.get(key):
        raise UserError(
            f"{sae.name} is of the model {one.get('name')}, {acts.name} of {other.get('name')}: "
            f"their {key} differ. Choose runs of one model."
        )


def capture_of(sae: Run) -> Run:
    """The capture that a sae-train run was trained on.

    Raises:
        UserError: it was trained without one, or the capture is gone or is another one now.
    """
    read = next(iter(sae.all_of("input")), None)
    if read is None:
        raise UserError(f"{sae.name} was trained without a capture run: name one by --acts.")
    acts = find_run(sae.path.parent, read["run"], "capture")
    if sha256_of(acts.path / META) != read["sha256"]:
        raise UserError(f"{acts.name} is not the run that {sae.name} read. Name one by --acts.")
    LOGGER.info(f"activations: {acts.name}, on which {sae.name} was trained")
    return acts


def encoded_source(acts: Run, trained: Sequence[Trained]) -> FileSource:
    """The activations of a capture run that autoencoders are for.

    Raises:
        UserError: the run lacks their site or one of their layers, or has several sites and
            nobody said which.
    """
    path, digest = located(acts, acts.path.parent)
    file, site, whose = find_rows(path), trained[0].site, trained[0].origin
    if site is not None and site not in file.header.sites:
        raise UserError(
            f"{whose} has SAEs of {site}, {acts.name} holds {', '.join(file.header.sites)}. "
            f"Capture that site: sdlms capture --site {site}"
        )
    source = FileSource(file, chosen_site(file, site), digest)
    held = source.description.layers
    if absent := [each.layer for each in trained if each.layer not in held]:
        raise UserError(
            f"{whose} has an SAE of layer {absent[0]}, {acts.name} holds {named_layers(held)}. "
            "Name some of these by --layers, or capture that one."
        )
    return source


def check_sizes(
    trained: Sequence[Trained], dictionaries: Sequence[Dictionary], acts: Description
) -> None:
    """Refuse autoencoders of other activations, and several widths: a file has rows of one.

    Raises:
        UserError: naming what differs.
    """
    first, width = trained[0], dictionaries[0].width
    for each, dictionary in zip(trained, dictionaries, strict=True):
        check_units(each, dictionary, acts.site, acts.n_units)
        if dictionary.width != width:
            raise UserError(
                f"{first.member} of layer {first.layer} has {width} latents, {each.member} of "
                f"layer {each.layer} has {dictionary.width}; one run holds one width. Name fewer "
                "--layers."
            )


def check_units(trained: Trained, dictionary: Dictionary, site: str, n_units: int) -> None:
    """Refuse an autoencoder of other activations.

    Raises:
        UserError: naming both sizes.
    """
    if dictionary.d_in != n_units:
        raise UserError(
            f"{trained.member} of {trained.origin} takes {dictionary.d_in} units, the activations "
            f"({site}) have {n_units}. They do not belong together."
        )
