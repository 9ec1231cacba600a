"""The pictures of a report: drawn stage by stage, and no more of them than a mail can hold."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from sdlms.errors import UserError
from sdlms.figures.images import Picture, own_style, picture_of
from sdlms.report.drawings import Plan
from sdlms.runs.reading import Run

MOST_BYTES = 3_300_000  # of all pictures; in the page they take a third more
NO_ROOM = "left out, as the page has room for {:.1f} MB of pictures"


class Drawn(NamedTuple):
    """What became of a plan.

    Attributes:
        title: what it shows.
        runs: of which runs.
        picture: None where there is none.
        reason: why there is none.
    """

    title: str
    runs: tuple[Run, ...]
    picture: Picture | None
    reason: str

    @property
    def size_bytes(self) -> int:
        """What the picture takes."""
        return len(self.picture.content) if self.picture else 0


def drawn(
    plans: Mapping[str, Sequence[Plan]],
    on_drawn: Callable[[int], None],
    most_bytes: int = MOST_BYTES,
) -> dict[str, list[Drawn]]:
    """Draw every plan; where together they take too much, the last of the largest stages go.

    Args:
        plans: by stage.
        on_drawn: is told how many plans are done.
        most_bytes: that pictures may take.
    """
    pictures: dict[str, list[Drawn]] = {}
    for stage, own in plans.items():
        pictures[stage] = []
        for plan in own:
            pictures[stage].extend(_tried(plan))
            on_drawn(1)
    return _fitted(pictures, most_bytes)


def _tried(plan: Plan) -> Iterator[Drawn]:
    """A plan's picture, or why there is none."""
    try:
        with own_style():
            picture = picture_of(plan.draw())
    except UserError as error:
        yield Drawn(plan.title, plan.runs, None, str(error))
    except KeyError as error:
        reason = f"a table lacks {error}: another version of sdlms made it"
        yield Drawn(plan.title, plan.runs, None, reason)
    else:
        yield Drawn(plan.title, plan.runs, picture, "")


def _fitted(pictures: dict[str, list[Drawn]], most_bytes: int) -> dict[str, list[Drawn]]:
    """Leave out pictures until the others fit."""

    def total(stage: str) -> int:
        return sum(each.size_bytes for each in pictures[stage])

    while sum(map(total, pictures)) > most_bytes:
        own = pictures[max(pictures, key=total)]
        last = max(index for index, each in enumerate(own) if each.picture)
        own[last] = own[last]._replace(picture=None, reason=NO_ROOM.format(most_bytes / 1e6))
    return pictures
