"""Where the cache folder is."""

from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.storage.cache_folder import VARIABLE, cache_folder


def test_the_folder_is_named_or_the_users_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SDLMS_CACHE", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("SDLMS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/sdlms"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home/.cache/sdlms"


def test_it_does_not_move_with_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable, ending in (("HOME", ".cache/sdlms"), ("XDG_CACHE_HOME", "sdlms"), (VARIABLE, "")):
        for other in ("HOME", "XDG_CACHE_HOME", VARIABLE):
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(variable, "relative")
        monkeypatch.chdir(tmp_path)
        assert cache_folder() == tmp_path / "relative" / ending


def test_an_empty_home_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "")
    with pytest.raises(UserError, match=r"no home folder for the cache\. Set SDLMS_CACHE"):
        cache_folder()
