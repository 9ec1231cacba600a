"""The kinds of lens, each a row of one table."""

from typing import Literal, NamedTuple

LensName = Literal["logit", "tuned"]
Need = Literal["nothing", "translators"]


class Kind(NamedTuple):
    """A way to look at a state.

    Attributes:
        name: as tables, files, `lens.h5` and the API have it.
        needs: what must be there beside the model. `translators` go before the final norm.
    """

    name: LensName
    needs: Need


KINDS = (Kind("logit", "nothing"), Kind("tuned", "translators"))  # in the order of every table
NAMES = tuple(kind.name for kind in KINDS)


def lenses_with(*there: Need) -> tuple[LensName, ...]:
    """Through which lenses can be looked.

    Args:
        there: what is there beside the model.
    """
    return tuple(kind.name for kind in KINDS if kind.needs in ("nothing", *there))
