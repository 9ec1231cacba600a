"""Put runs on one page, to send to a colleague: figures, tables, settings, origin and checksums.

Writes report.html, which needs no other file and no network. The runs that the named ones were
made of are shown too. Every file of each run is compared with its sha256 first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

from sdlms.command import StageConfig
from sdlms.errors import UserError
from sdlms.progress import LOGGER, Progress, readable_bytes
from sdlms.runs.reading import Run, find_run, list_runs
from sdlms.runs.verifying import differences
from sdlms.runs.writing import RunWriter
from sdlms.storage.extras import require
from sdlms.storage.files import write_atomically

if TYPE_CHECKING:
    from sdlms.report.lineage import Lineage

STAGE, REPORT = "report", "report.html"
LONGEST_TITLE = 200


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    """Settings of the report stage."""

    runs: Annotated[
        tuple[str, ...],
        "Runs to show, with all that they read: paths, names, or latest, the newest of any stage.",
    ] = ("latest",)
    title: Annotated[str, "Heading of the page."] = "Report"

    def __post_init__(self) -> None:
        """Check what can be checked before anything is read."""
        super().__post_init__()
        if not self.runs:
            raise UserError(
                "--runs names no run. Name them comma-separated (see: sdlms runs list)."
            )
        if not self.title.strip() or len(self.title) > LONGEST_TITLE:
            raise UserError(
                f"--title must have 1 to {LONGEST_TITLE} characters, got {len(self.title)}."
            )


def run(config: Config, out: RunWriter) -> None:
    """Write `report.html`.

    Raises:
        UserError: a run is not there, or not as it was written (before anything is written).
    """
    from sdlms.report.lineage import lineage_of

    require("matplotlib", "figures", "sdlms report")
    lineage = lineage_of(_named(config.runs, out))
    _check(list(lineage.runs.values()))
    _announce(lineage)
    out.start(_resolved(lineage), {})
    for each in lineage.runs.values():
        out.input(each)
    _write(config.title, lineage, out)


def _named(references: Sequence[str], out: RunWriter) -> list[Run]:
    """The runs that are asked for; a report shows no report."""
    artifacts = out.options.artifacts
    found = []
    for reference in references:
        if reference == "latest":
            reference = _newest(out)
        found.append(find_run(artifacts, reference))
        if found[-1].stage == STAGE:
            raise UserError(
                f"{found[-1].name} is a '{STAGE}' run; name the runs that it shows instead."
            )
    return found


def _newest(out: RunWriter) -> str:
    """The newest complete run of any stage but this one."""
    artifacts = out.options.artifacts
    for each in reversed(list_runs(artifacts)):
        if each.complete and each.stage != STAGE:
            LOGGER.info("latest run: %s", each.name)
            return str(each.path)
    raise UserError(f"no completed run under {artifacts}/. Make one: sdlms capture")


def _announce(lineage: "Lineage") -> None:
    """Log what is shown beside what was asked for, and what is missing."""
    others = [run.name for digest, run in lineage.runs.items() if digest not in lineage.named]
    if others:
        LOGGER.info("shown too, as they were read: %s", ", ".join(others))
    for each in lineage.absent:
        LOGGER.warning("%s was read too, but is not at hand; the page lacks it", each.name)


def _check(runs: Sequence[Run]) -> None:
    """Refuse runs that are not as they were written."""
    sizes = [sum(record["bytes"] for record in run.all_of("output")) for run in runs]
    with Progress("checksums", sum(sizes), "bytes") as progress:
        for run, size_bytes in zip(runs, sizes, strict=True):
            if found := differences(run):
                raise UserError(
                    f"{run.path} is damaged ({found[0]}). Restore it, or make it anew: remove it "
                    "and the runs that read it (sdlms runs remove), and give their commands again."
                )
            progress.advance(size_bytes)


def _resolved(lineage: "Lineage") -> dict[str, Any]:
    """What the page is made of, and with: pictures differ between versions of matplotlib."""
    return {
        "runs": {run.name: digest for digest, run in lineage.runs.items()},
        "matplotlib": metadata.version("matplotlib"),
    }


def _write(title: str, lineage: "Lineage", out: RunWriter) -> None:
    """Draw the figures and write the page."""
    from sdlms.report.drawings import plans_of
    from sdlms.report.page import page, stages_of
    from sdlms.report.pictures import drawn

    runs = list(lineage.runs.values())
    plans = {
        stage: plans_of(stage, [run for run in runs if run.stage == stage], runs)
        for stage in stages_of(runs)
    }
    total = sum(map(len, plans.values()))
    with out.phase("figures"), Progress("drawing", total, "figures") as progress:
        pictures = drawn(plans, progress.advance)
    content = page(title, lineage, pictures)
    write_atomically(out.path / REPORT, content)
    out.output(REPORT)
    n_figures = sum(each.picture is not None for stage in pictures.values() for each in stage)
    LOGGER.info(f"runs: {len(runs):,}, figures: {n_figures:,}, {readable_bytes(len(content))}")
