import math
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.runs.parts import Part, Parts


def never() -> Part:
    raise AssertionError("worked out again")


def test_a_part_is_worked_out_once(tmp_path: Path) -> None:
    part = {"Q": 0.1 + 0.2, "labels": [1, -1], "none": None, "reason": "", "z": math.nan}
    parts = Parts(tmp_path / "parts")
    assert not parts.has("layer_1")
    first = parts.once("layer_1", lambda: part)
    again = Parts(tmp_path / "parts").once("layer_1", never)
    assert parts.has("layer_1")
    for found in (first, again):
        assert math.isnan(found.pop("z"))
        assert found == {"Q": 0.1 + 0.2, "labels": [1, -1], "none": None, "reason": ""}


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    parts = Parts(tmp_path)
    with pytest.raises(AssertionError):
        parts.once("layer_1", never)
    assert not parts.has("layer_1")
    assert not list(tmp_path.iterdir())


def test_a_damaged_part_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "layer_1.json").write_text('{"Q": 0.')
    with pytest.raises(UserError, match=r"layer_1\.json: damaged .*without --resume"):
        Parts(tmp_path).once("layer_1", never)
