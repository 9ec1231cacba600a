"""A new conversation begins as another one did: what was measured there holds here too."""

from sdlms.explorer.core import HIDDEN, Core
from sdlms.explorer.shelf import Opened
from sdlms.explorer.spans import spans_of

POSITIONS_AT_ONCE = 256


def copy_rows(core: Core, source: Opened, target: Opened, n_tokens: int) -> None:
    """Copy hidden states and lens rows of the first `n_tokens` positions, where they are stored.

    The lens row of the last of them stays behind: another token follows it in the target. States
    that are not there are none that the target has lost.
    """
    target.uncached = []
    for group in (HIDDEN, *core.lenses):
        n_rows = n_tokens if group == HIDDEN else max(0, n_tokens - 1)
        for start in range(0, n_rows, POSITIONS_AT_ONCE):
            end = min(start + POSITIONS_AT_ONCE, n_rows)
            _copy(core, source, target, group, list(range(start, end)))


def _copy(core: Core, source: Opened, target: Opened, group: str, positions: list[int]) -> None:
    """Copy those rows of a group that are there."""
    found = core.cache.get(source.id, group, positions)
    there = [place for place, present in enumerate(found.present) if present]
    if group == HIDDEN:
        absent = [p for p, present in zip(positions, found.present, strict=True) if not present]
        target.uncached += spans_of(absent)
    for span in spans_of(there):
        rows = {name: rows[span.first : span.end] for name, rows in found.arrays.items()}
        core.store(target, group, positions[span.first], rows)
