from sdlms.explorer.cache.arrears import Arrears
from sdlms.explorer.cache.writer import Job


def job(kind: str, first: int = 0) -> Job:
    return Job("c", lambda: None, kind, first)


def test_rows_that_were_not_written_make_those_of_the_disk_old_from_there_on() -> None:
    arrears = Arrears(["logit"])
    for first in (7, 3, 5):
        arrears.note(job("logit", first))
    assert list(arrears.is_current("c", [2, 3, 9])) == [True, False, False]
    assert arrears.is_current("d", [9]).all()
    assert arrears.missing == {"c": 3} and arrears.has_rows("c")
    arrears.note(job("all", 0))
    assert not arrears.has_rows("c") and arrears.has_rows("d")


def test_records_and_marks_say_nothing_of_rows() -> None:
    arrears = Arrears(["logit"])
    for kind in ("record", "persisted", "again"):
        arrears.note(job(kind))
    assert not arrears.old and not arrears.missing


def test_of_removed_files_nothing_is_owed() -> None:
    arrears = Arrears(["logit"])
    arrears.note(job("logit", 2))
    arrears.delete("c")
    assert not arrears.has_rows("c") and not arrears.missing
    arrears.forget("c")
    assert arrears.has_rows("c") and arrears.is_current("c", [9]).all()


def test_what_came_after_the_deletion_is_still_missing_when_the_files_are_gone() -> None:
    arrears = Arrears(["logit"])
    arrears.delete("c")
    arrears.note(job("logit", 2))
    arrears.forget("c")
    assert arrears.missing == {"c": 2} and arrears.is_current("c", [9]).all()
