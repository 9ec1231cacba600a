"""Which controls are pointed out, and how loudly."""

from dataclasses import replace
from pathlib import Path

import pytest

from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.structure.doubts import announce_controls, newest_of_a_model
from sdlms.structure.subject import Subject, open_subject
from sdlms.structure.threshold_rule import ThresholdRule
from tests.stages.probe_runs import noise, published

Log = pytest.LogCaptureFixture


@pytest.fixture
def subject(tmp_path: Path, caplog: Log) -> Subject:
    caplog.set_level("INFO", "sdlms")
    run = published(tmp_path, noise(6))
    return open_subject(run, None, ("all",), ThresholdRule("quantile", 0.8))


def empty(artifacts: Path, stage: str, control: str) -> Run:
    """A complete run that holds nothing."""
    with RunWriter(stage, {}, RunOptions(artifacts=artifacts)) as out:
        out.start({"control": control}, {})
    return Run(out.path)


def test_the_model_itself_needs_no_word(subject: Subject, caplog: Log) -> None:
    announce_controls(subject, {"reinit": subject, "permute-tokens": subject}, latest=True)
    assert not caplog.records


def test_fresh_weights_without_activations_cannot_be_matched(subject: Subject, caplog: Log) -> None:
    without = replace(subject, source=None)
    announce_controls(subject, {"permute-tokens": without}, latest=False)
    assert not caplog.records
    announce_controls(subject, {"reinit": without}, latest=False)
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert f"{subject.run.name} was captured with --no-save" in record.message


def test_a_control_is_a_warning_where_nobody_named_it(subject: Subject, caplog: Log) -> None:
    artifacts = subject.run.path.parent
    control = replace(subject, run=empty(artifacts, "capture", "reinit"), control="reinit")
    caplog.clear()
    said = f"{control.run.name} is a control, not the model itself: reinit"
    announce_controls(control, {}, latest=False)
    announce_controls(control, {}, latest=True)
    named, unnamed = caplog.records
    assert (named.levelname, named.message) == ("INFO", said)
    assert unnamed.levelname == "WARNING"
    assert unnamed.message == f"{said}; the newest that is: --acts {subject.run.name}"


def test_the_newest_of_a_model_is_a_capture_without_control(tmp_path: Path) -> None:
    reinit = empty(tmp_path, "capture", "reinit")
    empty(tmp_path, "probe", "none")
    assert newest_of_a_model(reinit) is None
    runs = [empty(tmp_path, "capture", "none") for _ in range(2)]
    empty(tmp_path, "capture", "permute-tokens")
    newest = newest_of_a_model(reinit)
    assert newest is not None and newest.path == runs[-1].path
