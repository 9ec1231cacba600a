from pathlib import Path

from sdlms.report.html import markup_of
from sdlms.report.lineage import Lineage, lineage_of
from sdlms.report.one_run import input_links, run_section, subject_of, took
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from tests.report.test_html import HOSTILE, Seen
from tests.runs.small_runs import make_run
from tests.scaling.small_runs import captured


def reading(artifacts: Path, *inputs: Run) -> tuple[Lineage, str]:
    """A run that reads others, and what it is called."""
    run = make_run(artifacts, inputs=inputs)
    lineage = lineage_of([run])
    return lineage, next(digest for digest, each in lineage.runs.items() if each == run)


def test_every_file_stands_with_its_hash(tmp_path: Path) -> None:
    lineage, digest = reading(tmp_path)
    run = lineage.runs[digest]
    seen = Seen(run_section(lineage, digest).markup)
    records = [*run.all_of("output"), *run.all_of("log")]
    assert len(records) == 4
    assert all(record["path"] in seen.text and record["sha256"] in seen.text for record in records)
    assert digest in seen.text  # of meta.jsonl
    assert seen.values["id"] == lineage.place(digest)


def test_settings_and_what_became_of_them_are_shown(tmp_path: Path) -> None:
    config = {"seed": 3, "layers": ["25%"], "title": HOSTILE, "texts": None}
    with RunWriter("tiny", config, RunOptions(artifacts=tmp_path)) as out:
        out.start({"site": "mlp_act"}, {"device": "cpu", "dtype": "float32", "threads": 2})
    lineage = lineage_of([Run(out.path)])
    (digest,) = lineage.runs
    seen = Seen(run_section(lineage, digest).markup)
    for text in ('["25%"]', HOSTILE, "mlp_act", "cpu, float32, 2 threads"):
        assert text in seen.text
    assert "script" not in seen.tags


def test_a_run_without_a_model_is_about_that_of_its_inputs(tmp_path: Path) -> None:
    small = captured(tmp_path, "small", control="reinit")
    medium = captured(tmp_path, "medium")
    lineage, digest = reading(tmp_path / "artifacts", small, medium, small)
    assert subject_of(lineage, digest) == "small, reinit, medium"
    assert subject_of(*reading(tmp_path / "others")) == "none"


def test_inputs_are_links_where_they_are_at_hand(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    base, gone = make_run(runs, label="base"), make_run(runs, label="gone")
    run = make_run(runs, inputs=(base, gone))
    gone.path.rename(tmp_path / "gone")
    lineage = lineage_of([run])
    *_, digest = lineage.runs
    seen = Seen(markup_of(input_links(lineage, digest)))
    assert seen.tags.count("a") == 1
    assert seen.text == f"{base.name}, {gone.name} (not at hand)"


def test_what_it_took(tmp_path: Path) -> None:
    assert took(make_run(tmp_path)) == "0 s"
