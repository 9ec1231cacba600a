"""Where the embedded files are, in a wheel and in a checkout."""

from pathlib import Path

import pytest

from sdlms.storage import assets
from sdlms.storage.assets import asset_folder


def test_this_installation_has_the_probe_manifest() -> None:
    assert (asset_folder("data") / "probe.jsonl").is_file()


@pytest.mark.parametrize("kind", ["data", "configs", "models"])
def test_a_wheel_wins_over_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    package = tmp_path / "sdlms"
    monkeypatch.setattr(assets, "PACKAGE", package)
    assert asset_folder(kind) == tmp_path / kind
    (package / "assets" / kind).mkdir(parents=True)
    assert asset_folder(kind) == package / "assets" / kind
