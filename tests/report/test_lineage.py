import shutil
from pathlib import Path

from sdlms.report.lineage import lineage_of
from sdlms.runs.meta import META
from sdlms.runs.reading import Run
from sdlms.storage.files import sha256_of
from tests.runs.small_runs import make_run


def chain(artifacts: Path) -> list[Run]:
    """A base, two runs that read it, and one that reads both and the base."""
    base = make_run(artifacts, label="base")
    left = make_run(artifacts, label="left", inputs=(base,))
    right = make_run(artifacts, label="right", inputs=(base,))
    return [base, left, right, make_run(artifacts, label="top", inputs=(right, left, base))]


def test_inputs_are_followed_and_stand_before_what_reads_them(tmp_path: Path) -> None:
    runs = chain(tmp_path)
    lineage = lineage_of([runs[3]])
    assert list(lineage.runs.values()) == runs
    assert list(lineage.runs) == [sha256_of(run.path / META) for run in runs]
    assert [lineage.runs[digest] for digest in lineage.named] == [runs[3]]
    assert [lineage.runs[digest] for digest in lineage.last] == [runs[3]]
    *_, top = lineage.runs
    assert [each.name for each in lineage.inputs[top]] == [runs[n].name for n in (2, 1, 0)]
    assert [lineage.place(digest) for digest in lineage.runs] == [f"run-{n}" for n in (1, 2, 3, 4)]
    assert not lineage.absent


def test_the_order_in_which_runs_are_named_does_not_matter(tmp_path: Path) -> None:
    runs = chain(tmp_path)
    assert lineage_of(runs) == lineage_of([runs[3], *runs[:3], runs[1]])
    assert lineage_of(runs[:2]).last == lineage_of([runs[1]]).last


def test_an_input_that_is_not_at_hand_is_told(tmp_path: Path) -> None:
    runs = chain(tmp_path / "runs")
    digest = sha256_of(runs[1].path / META)
    runs[1].path.rename(tmp_path / "elsewhere")
    lineage = lineage_of([runs[3]])
    assert [tuple(each) for each in lineage.absent] == [(runs[1].name, digest)]
    assert list(lineage.runs.values()) == [runs[0], *runs[2:]]


def test_a_renamed_input_is_found_by_its_content(tmp_path: Path) -> None:
    runs = chain(tmp_path)
    renamed = tmp_path / "another name"
    runs[1].path.rename(renamed)
    lineage = lineage_of([runs[3]])
    assert renamed in [run.path for run in lineage.runs.values()]
    assert not lineage.absent


def test_the_same_run_in_two_places_is_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    shutil.copytree(run.path, tmp_path / "b" / run.name)
    assert len(lineage_of([run, Run(tmp_path / "b" / run.name)]).runs) == 1
