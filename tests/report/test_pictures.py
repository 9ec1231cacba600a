from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from sdlms.errors import UserError
from sdlms.report.drawings import Plan
from sdlms.report.pictures import drawn
from sdlms.runs.reading import Run

RUN = Run(Path("run"))


def figure() -> Figure:
    made = Figure(figsize=(2, 2))
    made.subplots().plot([1, 2])
    return made


def plan(title: str, draw: Callable[[], Figure] = figure) -> Plan:
    return Plan(title, (RUN,), draw)


def refuses() -> Figure:
    raise UserError("run measured no speed.")


def lacks_a_column() -> Figure:
    return {}["speed"]  # type: ignore[no-any-return]


def ignore(_: int) -> None:
    pass


def test_every_plan_is_drawn_or_says_why_not() -> None:
    counted: list[int] = []
    plans = {"a": [plan("one"), plan("two", refuses)], "b": [plan("three", lacks_a_column)]}
    found = drawn(plans, counted.append)
    assert [each.title for each in found["a"]] == ["one", "two"]
    assert [bool(each.picture) for each in (*found["a"], *found["b"])] == [True, False, False]
    assert found["a"][0].reason == ""
    assert found["a"][1].reason == "run measured no speed."
    assert "'speed'" in found["b"][0].reason
    assert counted == [1, 1, 1]


def test_the_last_pictures_of_the_largest_stage_go_first() -> None:
    size = drawn({"a": [plan("one")]}, ignore)["a"][0].size_bytes
    plans = {"a": [plan("one")], "b": [plan("two"), plan("three"), plan("four")]}
    found = drawn(plans, ignore, most_bytes=2 * size + 10)
    assert found["a"][0].picture
    assert [bool(each.picture) for each in found["b"]] == [True, False, False]
    assert "left out" in found["b"][1].reason
    assert sum(each.size_bytes for stage in found.values() for each in stage) <= 2 * size + 10


def test_no_room_at_all_is_no_picture_at_all() -> None:
    found = drawn({"a": [plan("one")], "b": [plan("two"), plan("three", refuses)]}, ignore, 0)
    assert not any(each.picture for stage in found.values() for each in stage)
    assert found["b"][1].reason == "run measured no speed."
