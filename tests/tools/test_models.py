"""`sdlms models`: what it prints and the codes it exits with."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sdlms.cli import main
from sdlms.progress import readable_bytes
from sdlms.storage import assets
from sdlms.storage.cards import CARD, find_card
from sdlms.storage.files import sha256_of

MEDIUM = assets.asset_folder("models") / "sdlms-medium"


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that holds a copy of `sdlms-medium`, and a smaller model by its card."""
    folder = tmp_path / "assets/models"
    medium, small = folder / "sdlms-medium", folder / "sdlms-small"
    shutil.copytree(MEDIUM, medium)
    edit_card(medium, sha256={p.name: sha256_of(p) for p in medium.iterdir() if p.name != CARD})
    shutil.copytree(medium, small)
    monkeypatch.setattr(assets, "PACKAGE", tmp_path)
    losses = {"math": 2, "qa": 3.5}
    edit_card(small, parameters=200_000, training_tokens=7_000_000, loss_per_token_nats=losses)
    return folder


def edit_card(folder: Path, **fields: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, **fields}))


def sdlms(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["models", *words])
    return left.value.code if isinstance(left.value.code, int) else -1


def test_list_is_a_table_the_smallest_model_first(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sdlms("list") == 0
    printed = capsys.readouterr()
    head, small, medium = printed.out.splitlines()
    assert printed.err == ""
    size = readable_bytes(find_card("sdlms-small").size_bytes)
    assert small.split() == [
        *("sdlms-small", "200,000", "4", "96", "4", "gelu", "512"),
        *(*size.split(), "7,000,000", "2.7500"),
    ]
    assert medium.startswith(f"sdlms-medium   {find_card('sdlms-medium').parameters:,}")
    ends = [head.index(word) + len(word) for word in ("parameters", "context", "mean loss")]
    assert len({len(line) for line in (head, small, medium)}) == 1
    assert all(line[end - 1] != " " for line in (small, medium) for end in ends)


def test_show_says_everything_and_that_the_files_are_the_cards(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_card(models / "sdlms-medium", facts={"known": {"fraction": 0.5}}, origin="näher")
    assert sdlms("show", "sdlms-medium") == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert printed.err == ""
    assert lines[0] == f"sdlms-medium  ({models / 'sdlms-medium'})"
    card = find_card("sdlms-medium")
    parameters = f"parameters: {card.parameters}"
    for line in ("  n_layers: 4", "  d_mlp: 384", '  activation: "gelu"', parameters):
        assert line in lines
    for task, loss in card.loss_per_token_nats.items():
        assert f"  {task}: {loss}" in lines
    assert f"  mean: {card.mean_loss_nats:.4f}" in lines
    section = lines.index("facts:")
    assert lines[section : section + 3] == ["facts:", "  known:", "    fraction: 0.5"]
    assert 'origin: "näher"' in lines
    (weights,) = [line for line in lines if "model.safetensors" in line]
    assert weights.endswith(f" MB  sha256 {card.sha256['model.safetensors']}  as in the card")


@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_show_exits_3_and_names_the_file(
    models: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    path = models / "sdlms-medium" / "tokenizer.json"
    content = path.read_bytes()
    path.unlink()
    if how == "flipped":
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert sdlms("show", "sdlms-medium") == 3
    (line,) = [one for one in capsys.readouterr().out.splitlines() if "tokenizer.json" in one]
    assert line.endswith("  missing" if how == "missing" else "  differs from the card")
    assert sdlms("show", "sdlms-small") == 0


def test_a_mistake_gets_one_line(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sdlms("show", "sdlms-medum") == 2
    (models / "sdlms-small" / CARD).write_text("{")
    assert sdlms("show", "sdlms-small") == 2
    assert sdlms("list") == 2
    assert sdlms("show") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    mistaken, damaged, listed, bare = printed.err.splitlines()
    assert "no embedded model 'sdlms-medum'. Did you mean 'sdlms-medium'?" in mistaken
    assert damaged == listed and damaged.endswith("not valid JSON. Install sdlms anew.")
    assert "Missing argument" in bare


@pytest.mark.parametrize("words", [["list"], ["show", "sdlms-medium"]])
def test_nothing_heavy_is_imported(words: list[str]) -> None:
    program = (
        "import sys\n"
        "from sdlms.cli import main\n"
        f"try:\n    main(['models', *{words!r}])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'h5py', 'numpy', 'tokenizers'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sdlms-medium" in done.stdout
