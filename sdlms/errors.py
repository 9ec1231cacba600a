"""The exception meant for the user, and the hints that its messages end with."""

import difflib
from collections.abc import Iterable

# What to do where something that was kept between two tries cannot be read.
ANEW = (
    "Start anew: the same command without --resume; in a pipeline remove the run first "
    "(sdlms runs remove)."
)


class UserError(Exception):
    """Something the user can mend; shown as one line, exit code 2.

    The message says what is wrong, the value, the rule and the next step.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a notebook, in the place of a traceback."""
        return [f"sdlms: {self}"]


class AbsentError(UserError):
    """A named file is not there; in a pipeline an earlier step may be going to write it."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or the known words when none is close; nothing where none is known."""
    words = list(known)
    if not words:
        return ""
    for spelling in (word, word.replace("-", "_"), word.lower()):
        if close := difflib.get_close_matches(spelling, words, n=1, cutoff=0.6):
            return f" Did you mean '{close[0]}'?"
    return f" Known: {', '.join(words)}."
