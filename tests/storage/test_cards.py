"""Cards of embedded models: read as they are, checked against the files, refused when damaged."""

import json
from pathlib import Path
from typing import Any

import pytest

from sdlms.errors import UserError
from sdlms.storage import assets
from sdlms.storage.cards import (
    CARD,
    CONFIG_FILE,
    SHAPE,
    checked_files,
    embedded_models,
    find_card,
    read_card,
)
from sdlms.storage.files import sha256_of

CONFIG_FIELDS = {theirs: number for number, theirs in enumerate(SHAPE.values(), start=2)}


def make_model(folder: Path, **fields: Any) -> Path:
    """A folder with two files and a card that tells the truth about both, `fields` aside."""
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(json.dumps(CONFIG_FIELDS))
    (folder / "model.safetensors").write_bytes(b"weights")
    card = {
        "name": folder.name,
        "parameters": 7,
        "training_tokens": 100,
        "loss_per_token_nats": {"math": 1.0, "qa": 4.0},
        "sha256": {name: sha256_of(folder / name) for name in (CONFIG_FILE, "model.safetensors")},
    }
    (folder / CARD).write_text(json.dumps({**card, **fields}))
    return folder


@pytest.mark.parametrize("model", embedded_models())
def test_each_embedded_model_is_what_its_card_says(model: str) -> None:
    card = find_card(model)
    assert card.fields["name"] == card.name == model
    assert card.parameters > 100_000 and card.training_tokens > 1_000_000
    assert 0 < card.mean_loss_nats < 5
    verdicts = {file.name: file.verdict for file in checked_files(card)}
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= set(verdicts)
    assert set(verdicts.values()) == {"as in the card"}


def test_the_default_model_is_embedded_and_its_size_follows_from_its_shape() -> None:
    card = find_card("sdlms-medium")
    width, hidden = card.shape["d_model"], card.shape["d_mlp"]
    attention = 4 * width * width + 4 * width
    mlp = 2 * width * hidden + width + hidden
    blocks = card.shape["n_layers"] * (attention + mlp + 4 * width)
    assert card.parameters == blocks + 2 * width * card.shape["d_vocab"] + 2 * width


def test_every_field_is_kept_and_the_shape_is_in_our_words(tmp_path: Path) -> None:
    card = read_card(make_model(tmp_path / "m", facts={"n": 3}, seed=5))
    assert card.name == "m"
    assert (card.parameters, card.training_tokens) == (7, 100)
    assert card.loss_per_token_nats == {"math": 1.0, "qa": 4.0}
    assert card.mean_loss_nats == 2.5
    assert card.fields["facts"] == {"n": 3} and card.fields["seed"] == 5
    assert card.shape == {ours: CONFIG_FIELDS[theirs] for ours, theirs in SHAPE.items()}
    assert card.size_bytes == len(b"weights") + (tmp_path / "m" / CONFIG_FILE).stat().st_size


def test_each_file_gets_its_verdict(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    assert {file.verdict for file in checked_files(read_card(folder))} == {"as in the card"}
    (folder / CONFIG_FILE).write_text(json.dumps({**CONFIG_FIELDS, "extra": 1}))
    (folder / "model.safetensors").unlink()
    (folder / "notes.txt").write_text("added")
    found = {file.name: file for file in checked_files(read_card(folder))}
    assert {name: file.verdict for name, file in found.items()} == {
        CONFIG_FILE: "differs from the card",
        "model.safetensors": "missing",
        "notes.txt": "not in the card",
    }
    assert found[CONFIG_FILE].sha256 == sha256_of(folder / CONFIG_FILE)
    assert (found["model.safetensors"].sha256, found["model.safetensors"].size_bytes) == ("", 0)
    assert found["notes.txt"].size_bytes == 5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (CARD, None, "card.json: No such file or directory"),
        (CONFIG_FILE, None, "config.json: No such file or directory"),
        (CARD, b"{", "not valid JSON"),
        (CARD, b"[" * 100_000, "not valid JSON"),
        (CARD, b"\xff", "not valid JSON"),
        (CONFIG_FILE, b"[]", "not a JSON object"),
        (CONFIG_FILE, b"{}", "'num_hidden_layers' is missing"),
    ],
)
def test_damage_is_one_line(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    folder = make_model(tmp_path / "m")
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_card(folder)
    assert "\n" not in str(caught.value) and str(folder / name) in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("parameters", "many"),
        ("training_tokens", None),
        ("loss_per_token_nats", 1.5),
        ("loss_per_token_nats", {}),
        ("loss_per_token_nats", {"math": "low"}),
        ("sha256", []),
    ],
)
def test_a_field_that_cannot_be_is_named(tmp_path: Path, field: str, value: Any) -> None:
    folder = make_model(tmp_path / "m", **{field: value})
    with pytest.raises(UserError, match=f"card.json: '{field}' is missing or malformed"):
        read_card(folder)


def test_models_are_found_by_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "PACKAGE", tmp_path)
    make_model(tmp_path / "assets/models/sdlms-tiny")
    (tmp_path / "assets/models/no-model").mkdir()
    assert embedded_models() == ["sdlms-tiny"]
    assert find_card("sdlms-tiny").folder == tmp_path / "assets/models/sdlms-tiny"
    with pytest.raises(UserError, match="Did you mean 'sdlms-tiny'"):
        find_card("sdlms-tin")
    for name in ("", "../models/sdlms-tiny", "no-model"):
        with pytest.raises(UserError, match="no embedded model"):
            find_card(name)
