"""What a stage predicts that it will take on disk, noted while it runs."""

import pytest

from sdlms.runs.writing import RunWriter


def noted_predictions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes, one entry for each run; they are checked as ever."""
    predicted: list[int] = []
    check = RunWriter.check_disk

    def noting(self: RunWriter, needed_bytes: int, remedy: str) -> None:
        predicted.append(needed_bytes)
        check(self, needed_bytes, remedy)

    monkeypatch.setattr(RunWriter, "check_disk", noting)
    return predicted
