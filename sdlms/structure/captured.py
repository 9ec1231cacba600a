"""What a capture counted, kept by runs without activations too: `sparsity.csv`, `counts.h5`."""

from collections.abc import Sequence

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.runs.verifying import intact
from sdlms.storage.activations import Key, dataset_name
from sdlms.storage.counts import read_counts, shape_of
from sdlms.storage.flat import Array
from sdlms.storage.tables import read_table
from sdlms.structure.threshold_rule import ThresholdRule, rule_named

COUNTS, SPARSITY = "counts.h5", "sparsity.csv"


def captured_rules(run: Run) -> dict[Key, ThresholdRule]:
    """How a capture measured each site and layer, as its table says.

    Raises:
        UserError: the table is damaged, or gone.
    """
    rows = read_table(intact(run, SPARSITY))
    return {(row["site"], int(row["layer"])): rule_named(row["threshold_rule"]) for row in rows}


def site_among(run: Run, captured: dict[Key, ThresholdRule], site: str | None) -> str:
    """The site that is meant; it may be left out where there is only one.

    Raises:
        UserError: there are several, or there is none of that name.
    """
    sites = list(dict.fromkeys(where for where, _ in captured))
    if site is None and len(sites) > 1:
        raise UserError(
            f"{run.name} has the sites {', '.join(sites)}; choose one: --site {sites[0]}"
        )
    if site is not None and site not in sites:
        raise UserError(f"--site {site}: {run.name} has no such site, but {', '.join(sites)}.")
    return site or sites[0]


def read_counts_of(run: Run, name: str) -> Array:
    """A data set of a run's `counts.h5`.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return read_counts(run.path / COUNTS, name)
    except (OSError, KeyError, RuntimeError):
        raise _damaged(run, COUNTS) from None


def check_counts(run: Run, site: str, layers: Sequence[int]) -> None:
    """Make sure that `counts.h5` holds what will be read of it.

    Raises:
        UserError: it does not.
    """
    try:
        path = run.path / COUNTS
        (n_documents,) = shape_of(path, "/documents/n_tokens")
        for name in (dataset_name((site, layer)) for layer in layers):
            (n_units,) = shape_of(path, f"{name}/thresholds")
            if shape_of(path, f"{name}/counts") != (n_documents, n_units):
                raise _damaged(run, COUNTS)
    except (OSError, KeyError, RuntimeError, ValueError):
        raise _damaged(run, COUNTS) from None


def _damaged(run: Run, name: str) -> UserError:
    """What there is to say of a file that cannot be read."""
    return UserError(
        f"cannot read {run.path / name}: damaged, or gone. See: sdlms runs verify {run.name}"
    )
