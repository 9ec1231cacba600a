import json
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from sdlms.errors import UserError
from sdlms.models import hub_files
from sdlms.models.hub_files import (
    WEIGHTS,
    WEIGHTS_INDEX,
    fetch,
    fetch_sae,
    fetch_sae_folders,
    fetch_weights,
    weight_files,
)


def write_index(folder: Path, *shards: str) -> None:
    weight_map = {f"layer_{i}": shard for i, shard in enumerate(shards)}
    (folder / WEIGHTS_INDEX).write_text(json.dumps({"weight_map": weight_map}))


def test_an_index_names_the_files_but_a_single_file_goes_before_it(tmp_path: Path) -> None:
    (tmp_path / "consolidated.safetensors").touch()
    with pytest.raises(UserError, match=r"no \*\.safetensors weights"):
        weight_files("m", tmp_path)
    write_index(tmp_path, "b.safetensors", "a.safetensors", "b.safetensors")
    assert weight_files("m", tmp_path) == [
        tmp_path / "a.safetensors",
        tmp_path / "b.safetensors",
    ]
    (tmp_path / WEIGHTS).touch()
    assert weight_files("m", tmp_path) == [tmp_path / WEIGHTS]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": 1}'])
def test_a_broken_index_is_one_clear_line(tmp_path: Path, content: str) -> None:
    (tmp_path / WEIGHTS_INDEX).write_text(content)
    with pytest.raises(UserError, match="is no index of weights"):
        weight_files("m", tmp_path)


@pytest.mark.parametrize("sharded", [False, True])
def test_only_what_is_read_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sharded: bool
) -> None:
    asked = []

    def noted(name: str, revision: str | None, patterns: list[str]) -> Path:
        asked.append((name, revision, patterns))
        return tmp_path

    monkeypatch.setattr(hub_files, "fetch", noted)
    if sharded:
        write_index(tmp_path, "model-2.safetensors", "model-1.safetensors")
    else:
        (tmp_path / WEIGHTS).touch()
    fetch_weights("a/b", "commit")
    first = ("a/b", "commit", [WEIGHTS, WEIGHTS_INDEX])
    shards = ("a/b", "commit", ["model-1.safetensors", "model-2.safetensors"])
    assert asked == ([first, shards] if sharded else [first])


def test_what_is_not_cached_is_one_clear_line() -> None:
    with pytest.raises(UserError, match="cannot be reached and the cache does not hold it"):
        fetch("someone/absent", None, [WEIGHTS])


REPOSITORY = [
    *("cfg.json", "sae.safetensors", "README.md"),
    *("a/cfg.json", "a/sae.safetensors", "a/optimizer.safetensors"),
    *("a/b[1]/cfg.json", "a/b[1]/sae.safetensors", "a/b1/cfg.json", "ab/cfg.json"),
]


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty snapshot into which the hub's own filter lets files of REPOSITORY."""

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        for path in filter_repo_objects(REPOSITORY, allow_patterns=allow_patterns):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return tmp_path


def files_in(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("folder", ["", "a", "a/b[1]"])
def test_of_a_folder_only_the_named_files_are_fetched(downloaded: Path, folder: str) -> None:
    assert fetch_sae("o/r", folder, None, ["cfg.json", "sae.safetensors"]) == downloaded / folder
    start = f"{folder}/" if folder else ""
    assert files_in(downloaded) == [f"{start}cfg.json", f"{start}sae.safetensors"]


def test_folders_with_a_file_are_listed_without_the_rest(downloaded: Path) -> None:
    assert fetch_sae_folders("o/r", "a", None, "cfg.json") == ["a/b1", "a/b[1]"]
    assert files_in(downloaded) == ["a/b1/cfg.json", "a/b[1]/cfg.json"]
    assert fetch_sae_folders("o/r", "", None, "cfg.json") == ["a", "a/b1", "a/b[1]", "ab"]
    assert fetch_sae_folders("o/r", "absent", None, "cfg.json") == []


def test_an_sae_that_is_not_cached_is_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"--sae someone/absent/a: the hub cannot be reached"):
        fetch_sae("someone/absent", "a", None, ["cfg.json"])
    with pytest.raises(UserError, match=r"--sae someone/absent: the hub cannot be reached"):
        fetch_sae_folders("someone/absent", "", None, "cfg.json")
