"""Which earlier run is the one that is about to be made: to be given back, or to be continued."""

from collections.abc import Iterator
from pathlib import Path

from sdlms.progress import LOGGER
from sdlms.runs.folder import has_meta, is_partial
from sdlms.runs.meta import META, Record
from sdlms.runs.provenance import mattering
from sdlms.runs.reading import Run, list_runs
from sdlms.runs.verifying import differences_at_a_glance
from sdlms.storage.files import sha256_of

MATCHED = ("stage", "config", "resolved", "version")
DEVICE = ("device", "device_name")  # another one gives other bytes
# Of what `auto` turned out to be, all that changes results, or the times that are results.
DECIDED = (*DEVICE, "dtype", "threads", "backend", "unembed")


def find_complete(artifacts: Path, wanted: Record) -> Run | None:
    """The newest complete run of the same settings, inputs and versions, decided alike.

    One that is damaged, going by the names and sizes of its files, is passed over with a warning;
    one whose inputs are gone or have changed, silently.

    Args:
        artifacts: the artifacts folder.
        wanted: the `start` record that a new run would have.
    """
    for run in reversed(list_runs(artifacts)):
        if not (run.complete and _begun_alike(run, wanted)):
            continue
        # One that was continued where less was decided alike is what its second half asked for too.
        asked_for = [run.start, *run.all_of("resume")]
        if _decided(wanted, DECIDED) not in [_decided(each, DECIDED) for each in asked_for]:
            continue
        if damage := differences_at_a_glance(run):
            LOGGER.warning("%s is damaged and passed over (%s)", run.name, damage[0])
        elif _inputs_unchanged(run, artifacts):
            LOGGER.info(f"{run.name} is reused{_another_code(run, wanted)}")
            return run
    LOGGER.info(f"no complete {wanted['stage']} run has these settings, inputs and versions")
    return None


def find_partial(artifacts: Path, wanted: Record, *, or_anew: bool) -> Run | None:
    """The newest unfinished run of the same settings, inputs and versions.

    Args:
        artifacts: the artifacts folder.
        wanted: the `start` record that a new run would have.
        or_anew: pass over what cannot be continued here: runs begun on another device, or whose
            inputs are gone or have changed. Otherwise taking them up says what is wrong.
    """
    for run in reversed(list_runs(artifacts, partial=True)):
        if not (is_partial(run.path) and _begun_alike(run, wanted)):
            continue
        same_device = _decided(run.start, DEVICE) == _decided(wanted, DEVICE)
        if not or_anew or (same_device and _inputs_unchanged(run, artifacts)):
            return run
    if not or_anew:
        LOGGER.warning(
            f"no unfinished {wanted['stage']} run has these settings, inputs and versions; "
            "starting anew"
        )
    return None


def _begun_alike(run: Run, wanted: Record) -> bool:
    """Whether a run has the same settings, inputs, version and packages."""
    start = run.start
    same = all(start.get(key) == wanted.get(key) for key in MATCHED)
    return same and mattering(start) == mattering(wanted)


def _decided(start: Record, names: tuple[str, ...]) -> list[object]:
    """What `auto` turned out to be."""
    decided = start.get("decided") or {}
    return [decided.get(name) for name in names]


def _inputs_unchanged(run: Run, artifacts: Path) -> bool:
    """Whether all runs that it read are at hand, and are the ones that were read.

    Two folders may hold different runs of one name, so every place where it could be is looked at.
    """
    places = list(dict.fromkeys([artifacts.resolve(), *_named_places(run)]))
    for record in run.all_of("input"):
        metas = [place / record["run"] / META for place in places]
        digests = {sha256_of(meta) for meta in metas if meta.is_file()}
        if digests != {record["sha256"]}:
            return False
    return True


def _named_places(run: Run) -> Iterator[Path]:
    """The folders of the runs that its settings name by their paths."""
    for value in run.start["config"].values():
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and "/" in word and has_meta(Path(word)):
                yield Path(word).resolve().parent


def _another_code(run: Run, wanted: Record) -> str:
    """How the code differs or may differ, which need not change results; empty where it cannot."""
    states = [start.get("git") or {} for start in (run.start, wanted)]
    there, here = (state.get("commit", "") for state in states)
    said = f", made at commit {there[:7]}, not {here[:7]}" if there and here != there else ""
    if any(state.get("dirty") for state in states):
        said += "; the code had or has changes that are not committed"
    return said
