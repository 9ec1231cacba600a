import json
from pathlib import Path
from typing import Any

import pytest

from sdlms.storage.conversations import (
    DamagedFileError,
    checked_id,
    decode_record,
    encode_record,
    quarantine,
    read_conversation,
    write_conversation,
)

RECORD = {"title": "Été 🙂 \ud83d", "tokens": [1, 2, 3], "nested": {"p": 0.1, "none": None}}


@pytest.mark.parametrize("name", ["a", "A-b_9", "x" * 64, "key"])
def test_ids_that_are_file_names_pass(name: str) -> None:
    assert checked_id(name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * 65, "..", "a/b", "a\\b", "a.json", "a\0", "a\n", "ä", "a b", "/etc"]
)
def test_other_ids_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no conversation"):
        checked_id(name)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_conversation(path, "c", encode_record(RECORD))
    assert decode_record(read_conversation(path, "c")) == RECORD


def test_the_file_is_json_that_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_conversation(path, "c", encode_record(RECORD))
    whole = json.loads(path.read_text())
    assert (whole["version"], whole["id"], whole["record"]) == (1, "c", RECORD)


@pytest.mark.parametrize("record", [{"x": float("nan")}, {"x": float("inf")}, {"x": b""}])
def test_what_is_not_json_is_refused(record: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        encode_record(record)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_record_is_damaged(content: bytes) -> None:
    with pytest.raises(DamagedFileError):
        decode_record(content)


def test_every_flipped_bit_and_every_cut_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_conversation(path, "c", encode_record({"tokens": [17, 4]}))
    whole = path.read_bytes()
    for i in range(len(whole)):
        for bit in (1, 128):
            path.write_bytes(whole[:i] + bytes([whole[i] ^ bit]) + whole[i + 1 :])
            with pytest.raises(DamagedFileError):
                read_conversation(path, "c")
        path.write_bytes(whole[:i])
        with pytest.raises(DamagedFileError):
            read_conversation(path, "c")
    path.write_bytes(whole + b" ")
    with pytest.raises(DamagedFileError):
        read_conversation(path, "c")


def test_the_record_of_another_conversation_is_not_taken(tmp_path: Path) -> None:
    write_conversation(tmp_path / "c.json", "c", encode_record(RECORD))
    with pytest.raises(DamagedFileError):
        read_conversation(tmp_path / "c.json", "d")


def test_a_missing_file_is_missing_and_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_conversation(tmp_path / "c.json", "c")


def test_damaged_files_are_numbered(tmp_path: Path) -> None:
    for content in ("one", "two"):
        (tmp_path / "c.json").write_text(content)
        quarantine(tmp_path / "c.json")
    assert (tmp_path / "c.json.damaged-1").read_text() == "one"
    assert (tmp_path / "c.json.damaged-2").read_text() == "two"
    assert not (tmp_path / "c.json").exists()


def test_a_number_that_a_link_to_nowhere_has_is_taken(tmp_path: Path) -> None:
    (tmp_path / "c.json.damaged-1").symlink_to("nowhere")
    (tmp_path / "c.json").mkdir()
    assert quarantine(tmp_path / "c.json").name == "c.json.damaged-2"
    assert (tmp_path / "c.json.damaged-2").is_dir()
