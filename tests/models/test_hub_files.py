import json
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.models import hub_files
from sdlms.models.hub_files import WEIGHTS, WEIGHTS_INDEX, fetch, fetch_weights, weight_files


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
