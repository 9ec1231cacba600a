import errno
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.explorer.cache import outage as outages
from sdlms.explorer.cache.disk import DiskLevel
from sdlms.explorer.cache.notices import Notices
from sdlms.explorer.cache.outage import WORKS_AGAIN, Outage, is_full, reason
from sdlms.storage.files import write_errors
from tests.explorer.cached_rows import KEY, SMALL


def opened(folder: Path) -> tuple[DiskLevel, Outage, list[str], Notices]:
    said: list[str] = []
    notices = Notices(said.append)
    disk = DiskLevel(folder, KEY, SMALL, notices.say)
    return disk, Outage(disk, notices), said, notices


def test_it_ends_when_the_folder_can_be_written_and_may_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outages, "RETRY_SECONDS", 0.0)
    disk, outage, said, notices = opened(tmp_path)
    away = tmp_path / "away"
    for _ in range(2):
        disk.folder.rename(away)
        assert not outage.works()
        outage.begin(OSError(errno.ENOENT, "gone"))
        assert outage.is_on and not outage.has_ended() and outage.is_on
        assert len(notices.texts()) == 1 and "memory only" in notices.texts()[0]
        away.rename(disk.folder)
        assert outage.works() and outage.has_ended() and not outage.is_on
        assert notices.texts() == [WORKS_AGAIN]
    assert len(said) == 4
    assert {path.name for path in disk.folder.iterdir()} == {".key.json", ".lock"}
    disk.close()


def test_it_is_not_looked_for_all_the_time(tmp_path: Path) -> None:
    disk, outage, _, _ = opened(tmp_path)
    outage.begin(OSError(errno.ENOSPC, "full"))
    assert not outage.has_ended()
    outage.hurry()
    assert outage.has_ended()
    disk.close()


@pytest.mark.parametrize(
    ("number", "full"), [(errno.ENOSPC, True), (errno.EROFS, True), (errno.EIO, False)]
)
def test_a_full_disk_is_told_from_a_bad_file(number: int, full: bool) -> None:
    assert is_full(OSError(number, "no")) == full
    with pytest.raises(UserError) as caught, write_errors(Path("c.json")):
        raise OSError(number, "no")
    assert is_full(caught.value) == full
    assert not is_full(UserError("no"))


def test_a_reason_is_one_line() -> None:
    assert reason(OSError("a\nb")) == "a"
    assert reason(UserError("cannot write x: full.")) == "cannot write x: full"
    assert "(c.h5): No space left" in reason(OSError(errno.ENOSPC, "?", "c.h5"))
