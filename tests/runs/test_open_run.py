"""What is open while a run is written: the log, the hashes, and one seal or one reason."""

import logging
from pathlib import Path

import pytest

from sdlms.progress import LOGGER
from sdlms.runs.folder import hidden_name
from sdlms.runs.meta import META, seal_difference
from sdlms.runs.open_run import LOG, OpenRun
from sdlms.runs.reading import Run
from sdlms.runs.verifying import differences


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / hidden_name("20261120_143022_tiny")
    folder.mkdir()
    (folder / META).touch()
    return folder


def test_the_seal_lists_every_file_and_the_log(folder: Path) -> None:
    run = OpenRun(folder)
    (run.scratch / "checkpoint").touch()
    (folder / "empty").mkdir()
    (folder / "a.bin").write_bytes(b"1")
    run.seal({"tokens": 5})
    run.close()
    assert seal_difference(folder / META) is None
    assert differences(Run(folder)) == []
    records = Run(folder).records
    assert [(r["event"], r.get("path")) for r in records[:-1]] == [
        ("output", "a.bin"),
        ("log", LOG),
    ]
    done = records[-1]
    assert done["tokens"] == 5
    assert done["seconds"] >= 0
    assert done["peak_memory_bytes"] > 1_000_000
    assert not (folder / "empty").exists()


def test_what_is_logged_goes_into_the_run_while_it_is_open(folder: Path) -> None:
    before = list(LOGGER.handlers)
    LOGGER.warning("too early")
    run = OpenRun(folder)
    LOGGER.warning("in time: %s", "ä")
    run.close()
    LOGGER.warning("too late")
    assert LOGGER.handlers == before
    lines = (folder / LOG).read_text(encoding="utf-8").splitlines()
    assert [line.split(" WARNING ")[1] for line in lines] == ["in time: ä"]


def test_the_log_tells_universal_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = OpenRun(folder)
    record = logging.LogRecord("sdlms", logging.WARNING, "", 0, "word", (), None)
    record.created, record.msecs = 0.0, 0.0
    LOGGER.handle(record)
    run.close()
    assert (folder / LOG).read_text().startswith("1970-01-01 00:00:00")


def test_a_resumed_log_goes_on(folder: Path) -> None:
    for word in ("first", "second"):
        run = OpenRun(folder)
        LOGGER.warning(word)
        run.close()
    assert [line.split()[-1] for line in (folder / LOG).read_text().splitlines()] == [
        "first",
        "second",
    ]


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("why"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_the_end_is_noted_by_its_reason(folder: Path, error: BaseException, status: str) -> None:
    run = OpenRun(folder)
    run.note_end(error)
    run.close()
    assert Run(folder).status == status
    assert Run(folder).records[-1].get("error") == (
        "RuntimeError: why" if "f" == status[0] else None
    )


def test_a_seal_that_fails_is_noted_and_seals_nothing(folder: Path) -> None:
    run = OpenRun(folder)
    (folder / "a.bin").write_bytes(b"1")
    run.outputs.declare("a.bin")
    (folder / "a.bin").write_bytes(b"22")
    with pytest.raises(ValueError, match="changed after"):
        run.seal({})
    run.close()
    assert [record["event"] for record in Run(folder).records] == ["failed"]


def test_an_end_that_cannot_be_noted_hides_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    run = OpenRun(folder)
    before = (folder / META).read_bytes()
    monkeypatch.setattr("os.write", full)
    run.note_end(RuntimeError("the one that matters"))  # raises nothing of its own
    monkeypatch.undo()
    run.close()
    assert (folder / META).read_bytes() == before
