"""What a run says about where it was made."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from sdlms.runs.provenance import (
    MATTERING,
    PACKAGES,
    git_state,
    mattering,
    package_version,
    provenance,
)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A checkout with one package in it, as a fresh commit."""
    package = tmp_path / "checkout/package"
    package.mkdir(parents=True)
    (package / "code.py").write_text("x = 1\n")
    (package.parent / ".gitignore").write_text("ignored*\n")
    for words in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
        git(package.parent, *words)
    return package


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder), *words]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return result.stdout.strip()


def test_it_names_versions_host_and_command() -> None:
    made_by = provenance()
    assert made_by["version"] == package_version() == metadata.version("sdlms")
    assert mattering(made_by).keys() == set(MATTERING)
    assert mattering({}) == dict.fromkeys(MATTERING)
    assert mattering(made_by).items() < made_by["packages"].items()
    assert made_by["packages"] == {name: metadata.version(name) for name in PACKAGES}
    assert made_by["argv"] == sys.argv
    assert made_by["host"]
    assert json.loads(json.dumps(made_by)) == made_by


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdlms.runs.provenance.PACKAGES", ("no-such-package-here",))
    assert provenance()["packages"] == {"no-such-package-here": None}


def test_arguments_that_are_not_utf8_are_written_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", [os.fsdecode(b"sdlms"), os.fsdecode(b"--texts=\xff")])
    argv = provenance()["argv"]
    assert argv == ["sdlms", "--texts=\\udcff"]
    json.dumps(argv, ensure_ascii=False).encode()


def test_a_clean_checkout_is_named_by_its_commit(package: Path) -> None:
    (package / "ignored.pyc").touch()
    (package.parent / "notes.txt").touch()  # unknown to git, but no part of the package
    assert git_state(package) == {"commit": git(package, "rev-parse", "HEAD"), "dirty": False}


@pytest.mark.parametrize("name", ["package/code.py", ".gitignore", "package/new.py"])
def test_changed_or_unknown_code_is_dirty(package: Path, name: str) -> None:
    (package.parent / name).write_text("y = 2\n")
    state = git_state(package)
    assert state is not None
    assert state["dirty"] is True


def test_a_hook_of_another_repository_does_not_mislead(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q", "other")
    expected = git_state(package)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    assert git_state(package) == expected


def test_an_installed_package_has_no_commit(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert git_state(tmp_path / "site-packages/package") is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git here
    assert git_state(package) is None


def test_a_checkout_without_commits_has_no_state(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "empty")
    (tmp_path / "empty/package").mkdir()
    assert git_state(tmp_path / "empty/package") is None
