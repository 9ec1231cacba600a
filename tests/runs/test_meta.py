"""`meta.jsonl`: only whole lines count, appending is all or nothing, no byte changes unnoticed."""

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.runs.meta import (
    META,
    MetaWriter,
    as_read_back,
    event_record,
    seal,
    seal_difference,
    whole_lines,
)
from sdlms.storage.jsonl import encode_line

START = {"event": "start", "stage": "tiny", "words": ["ä", "\x1b", "\\", "\u2028"]}


@pytest.fixture
def meta(tmp_path: Path) -> Path:
    path = tmp_path / META
    path.touch()
    return path


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sealed") / META
    path.write_bytes(encode_line(START))
    writer = MetaWriter(path)
    writer.event("note", {"text": "a b"})
    writer.finish([event_record("output", {"path": "a.csv"})], event_record("done", {"seconds": 1}))
    writer.close()
    return path


def events(path: Path) -> list[str]:
    return [record["event"] for record, _ in whole_lines(path.read_bytes())]


def test_a_record_is_as_it_will_be_read(meta: Path) -> None:
    record = {"layers": (1, 2), "share": 0.1, "none": None, "nested": {"names": ("a",)}}
    writer = MetaWriter(meta)
    writer.event("note", record)
    writer.close()
    ((read, _),) = whole_lines(meta.read_bytes())
    assert as_read_back(record) == {key: read[key] for key in record}


def test_what_was_sealed_is_unchanged(sealed: Path) -> None:
    assert seal_difference(sealed) is None
    assert events(sealed) == ["start", "note", "output", "done"]


@given(st.data())
def test_no_byte_can_be_replaced(sealed: Path, data: st.DataObject) -> None:
    content = sealed.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != content[position]))
    changed = sealed.with_name("changed.jsonl")
    changed.write_bytes(content[:position] + bytes([byte]) + content[position + 1 :])
    assert seal_difference(changed) is not None


@pytest.mark.parametrize("change", ["cut", "newline", "space", "spaced", "line", "double", "empty"])
def test_no_byte_can_be_added_or_dropped(sealed: Path, change: str) -> None:
    content = sealed.read_bytes()
    changed = sealed.with_name("changed.jsonl")
    changed.write_bytes(
        {
            "cut": content[:-1],
            "newline": content + b"\n",
            "space": content[:-1] + b" \n",
            "spaced": content[:-2] + b" }\n",
            "line": content + encode_line({"event": "note"}),
            "double": content + content,
            "empty": b"",
        }[change]
    )
    assert seal_difference(changed) is not None


def test_half_a_surrogate_pair_in_the_last_line_is_a_change(meta: Path) -> None:
    done = seal(b"", {"event": "done", "word": "x"})
    meta.write_bytes(encode_line(done).replace(b'"x"', b'"\\ud800"'))
    assert seal_difference(meta) is not None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert seal_difference(tmp_path / META) == "missing"


@pytest.mark.parametrize(
    "tail",
    [
        b'{"event": "no',
        b'{"event": "note"}',  # whole but for its newline, so perhaps not its end
        b"\xff\xfe\x00\n",
        b"[1]\n",
        b'{"no": "event"}\n',
        b'{"event": 1}\n',
        b"[" * 100_000 + b"\n",
        b"\n",
    ],
)
def test_reading_ends_at_a_damaged_line_and_a_writer_cuts_it_off(meta: Path, tail: bytes) -> None:
    whole = encode_line(START) + encode_line({"event": "note"})
    meta.write_bytes(whole + tail)
    assert events(meta) == ["start", "note"]
    writer = MetaWriter(meta)
    assert meta.read_bytes() == whole
    writer.event("resume", {})
    writer.close()
    assert events(meta) == ["start", "note", "resume"]


@given(st.integers(0, 10_000))
def test_any_beginning_of_a_sealed_file_is_cut_to_whole_work(sealed: Path, length: int) -> None:
    content = sealed.read_bytes()[:length]
    torn = sealed.with_name("torn.jsonl")
    torn.write_bytes(content)
    MetaWriter(torn).close()
    kept = torn.read_bytes()
    assert content.startswith(kept)
    assert events(torn) == ["start", "note"][: kept.count(b"\n")]
    assert kept.count(b"\n") == min(content.count(b"\n"), 2)


def test_a_failed_write_leaves_no_part_of_a_line(
    meta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def full_disk(descriptor: int, content: bytes) -> int:
        if len(content) < 20:
            raise OSError(28, "No space left on device")
        return write(descriptor, content[:20])

    writer = MetaWriter(meta)
    writer.event("note", {})
    before = meta.read_bytes()
    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(OSError, match="No space"):
        writer.event("note", {"text": "x" * 90})
    monkeypatch.undo()
    assert meta.read_bytes() == before
    writer.event("later", {})
    writer.close()
    assert events(meta) == ["note", "later"]


def test_threads_append_whole_lines(meta: Path) -> None:
    writer = MetaWriter(meta)
    threads = [
        threading.Thread(
            target=lambda who=who: [writer.event("note", {"who": who}) for _ in range(20)]
        )
        for who in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    lines = [json.loads(line) for line in meta.read_bytes().splitlines()]
    assert sorted(line["who"] for line in lines) == sorted(list(range(8)) * 20)


def test_a_closed_writer_writes_nothing(meta: Path) -> None:
    writer = MetaWriter(meta)
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="finished"):
        writer.event("note", {})
