"""Settings of a sweep, checked and completed before anything heavy is imported."""

from sdlms.errors import UserError
from sdlms.sae.recipe import COEFFICIENTS, Kind, Recipe

# L1 on activations whose mean squared distance from their mean is their number of units.
COEFFICIENT_DEFAULTS: dict[str, tuple[float, ...]] = {
    "l1": (1.0, 2.0, 4.0),
    "k": (16.0, 32.0, 64.0),
    "l0": (0.03, 0.1, 0.3),
}
DEFAULT_TOKENS = 1_000_000
MOST_DEAD_STEPS = 1000
MOST = {"seeds": 100, "tokens": 10**13, "batch_size": 2**24}


def told(flag: str) -> str:
    """The sweep that a flag has where it is not given, for its help."""
    return f"by default {','.join(f'{value:g}' for value in COEFFICIENT_DEFAULTS[flag])}"


def coefficients_of(kind: Kind, given: dict[str, tuple[float, ...]]) -> tuple[float, ...]:
    """What is swept over, ascending.

    Args:
        kind: `--arch`.
        given: what `--l1`, `--k` and `--l0` say; empty where they are not given.

    Raises:
        UserError: a flag belongs to another architecture, or values are not above 0 or too near to
            each other to give members different names.
    """
    own = COEFFICIENTS[kind]
    for flag, values in given.items():
        if flag != own and values:
            raise UserError(f"--{flag} is not for --arch {kind}; its sweep is over --{own}.")
    values = given[own] or COEFFICIENT_DEFAULTS[own]
    words = [f"{value:g}" for value in values]  # six digits, as in the members' names
    if min(values) <= 0 or len(set(words)) < len(words):
        raise UserError(f"--{own}: values must differ and be above 0, got {', '.join(words)}.")
    return tuple(sorted(map(float, values)))


def check_at_most(name: str, value: int, most: int) -> None:
    """Refuse a slip of the finger.

    Raises:
        UserError: the number is too large.
    """
    if value > most:
        raise UserError(f"--{name.replace('_', '-')} must be <= {most}, got {value}.")


def check_positive(name: str, value: float) -> None:
    """Make sure that a setting is above 0.

    Raises:
        UserError: it is not.
    """
    if not value > 0:
        raise UserError(f"--{name} must be above 0, got {value:g}.")


def width_of(width: int | None, expansion: float, d_model: int) -> int:
    """How many latents there are.

    Args:
        width: `--width`, which says it outright.
        expansion: `--expansion`, otherwise.
        d_model: the model's hidden size, whatever the site.

    Raises:
        UserError: there would be none.
    """
    found = round(expansion * d_model) if width is None else width
    if found < 1:
        raise UserError(
            f"--expansion {expansion:g}: times {d_model}, the model's hidden size, that is no "
            "latent. Take a larger one."
        )
    return found


def check_k(kind: Kind, coefficients: tuple[float, ...], width: int) -> None:
    """Make sure that there are as many latents as are to be active.

    Raises:
        UserError: there are fewer.
    """
    if COEFFICIENTS[kind] == "k" and coefficients[-1] > width:
        raise UserError(
            f"--k {coefficients[-1]:g}: there are {width} latents only. Take a smaller k or a "
            "larger --expansion."
        )


def recipe_of(kind: Kind, sizes: tuple[int, int], batches: tuple[int, int, float]) -> Recipe:
    """What all members share: both rates warm up over 5 % of the steps, Adam's falls over 20 %.

    Coefficient and seed are each member's own.

    Args:
        kind: `--arch`.
        sizes: units and latents.
        batches: updates, tokens in each, and Adam's largest rate.
    """
    n_steps, batch_size, lr = batches
    return Recipe(
        kind=kind,
        d_in=sizes[0],
        width=sizes[1],
        coefficient=1.0,
        seed=0,
        n_steps=n_steps,
        batch_size=batch_size,
        lr=lr,
        lr_warm_up_steps=n_steps // 20,
        lr_decay_steps=n_steps // 5,
        warm_up_steps=n_steps // 20,
        dead_after_steps=min(MOST_DEAD_STEPS, max(1, n_steps // 10)),
    )
