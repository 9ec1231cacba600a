"""Settings of a stage that runs a model, checked before anything heavy is imported."""

from collections.abc import Sequence

from sdlms.errors import UserError, did_you_mean
from sdlms.models.architectures import SITES
from sdlms.models.calibration import AUTO, check_free_memory


def check_at_least(name: str, value: int, least: int) -> None:
    """Check a number.

    Raises:
        UserError: it is too small.
    """
    if value < least:
        raise UserError(f"--{name.replace('_', '-')} must be >= {least}, got {value}.")


def check_sites(sites: Sequence[str]) -> None:
    """Check `--site`.

    Raises:
        UserError: it is empty, or names a site that there is not.
    """
    if not sites:
        raise UserError(f"--site is empty. Choose from {', '.join(SITES)}.")
    for site in sites:
        if site not in SITES:
            raise UserError(f"--site: unknown site '{site}'.{did_you_mean(site, SITES)}")


def check_batching(batch_tokens: int, free_memory: str, device_map: str) -> None:
    """Check `--free-memory`, alone and beside `--batch-tokens`.

    Raises:
        UserError: it is misspelt, or has nothing to decide: batches are set, no model is spread.
    """
    check_free_memory(free_memory)
    if batch_tokens and free_memory != AUTO and device_map == "none":
        raise UserError(
            f"--batch-tokens {batch_tokens} and --free-memory {free_memory} both set the size of "
            "a batch. Give one of them."
        )
