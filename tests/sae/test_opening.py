import subprocess
import sys
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.sae.opening import find_sae
from sdlms.storage.sae_files import read_sae
from tests.storage.sparsify_folders import write_sparsify

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The snapshot of `someone/saes` in a hub cache: an SAE itself, and two in folders."""
    cache = tmp_path / "cache"
    repository = cache / "models--someone--saes"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (snapshot / "layers.0.mlp", snapshot / "deep" / "layers.1"):
        write_sparsify(folder, 4, 8, 2)
    (repository / "refs").mkdir()
    for reference in ("main", "v2"):
        (repository / "refs" / reference).write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    return snapshot


def error_of(name: str, revision: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        find_sae(name, revision)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_on_this_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sparsify(tmp_path / "someone" / "sae", 4, 8, 2)
    assert find_sae(str(tmp_path / "someone" / "sae"), None) == tmp_path / "someone" / "sae"
    monkeypatch.chdir(tmp_path)
    assert find_sae("someone/sae", None) == Path("someone/sae")  # before the hub's
    assert "lies on this disk" in error_of("someone/sae", "main")


def test_a_folder_of_several_lists_them(tmp_path: Path) -> None:
    for number in range(14):
        write_sparsify(tmp_path / f"layer_{number:02}" / "sae", 4, 8, 2)
    message = error_of(str(tmp_path))
    assert "holds 14 SAEs, not one. Give one of: " in message
    assert f"{tmp_path}/layer_00/sae, " in message
    assert message.endswith("layer_11/sae, and 2 more.")
    (tmp_path / "empty").mkdir()
    assert "no cfg.json in it or below it" in error_of(str(tmp_path / "empty"))


@pytest.mark.parametrize("revision", [None, "main", "v2", COMMIT])
@pytest.mark.parametrize("folder", ["layers.0.mlp", "deep/layers.1"])
def test_a_folder_of_the_hub_comes_from_its_cache(
    cached: Path, folder: str, revision: str | None
) -> None:
    found = find_sae(f"someone/saes/{folder}", revision)
    assert found == cached / folder
    assert read_sae(found)[2] == "sparsify"


def test_a_repository_that_is_an_sae(cached: Path) -> None:
    write_sparsify(cached, 4, 8, 2)
    assert find_sae("someone/saes", None) == cached
    assert find_sae("someone/saes/", None) == cached


def test_a_repository_of_several_lists_them(cached: Path) -> None:
    message = error_of("someone/saes")
    assert message.endswith(
        "2 SAEs, not one. Give one of: someone/saes/deep/layers.1, someone/saes/layers.0.mlp."
    )
    assert "Give one of: someone/saes/deep/layers.1." in error_of("someone/saes/deep")
    assert "no cfg.json in it or below it" in error_of("someone/saes/layers.7")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("someone/absent/layers.3", "--sae someone/absent/layers.3: the hub cannot be reached"),
        ("someone/saes/../other", "is no folder that exists, and no hub name"),
        ("someone//saes", "no hub name"),
        ("saes", "no hub name"),
        ("./nowhere/sae", "no hub name"),
        ("some--one/saes", "the hub refuses"),
    ],
)
def test_what_is_no_sae_is_one_clear_line(cached: Path, name: str, message: str) -> None:
    assert message in error_of(name)


def test_finding_imports_neither_torch_nor_sae_lens() -> None:
    program = (
        "import sys, sdlms.sae.opening\n"
        "sys.exit(str({'torch', 'sae_lens', 'transformers'} & set(sys.modules) or ''))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == ""
