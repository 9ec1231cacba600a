"""Data sets in the hub's layout: read from folders, from a hub, and from the cache without one."""

import gzip
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
import zstandard

from sdlms.errors import UserError
from sdlms.storage.datasets import DataSplit, open_split
from tests.storage.hub_layout import serving, write_configs, write_data, write_parquet

QUESTIONS = [{"question": f"{number} + 1?", "answer": str(number + 1)} for number in range(2500)]
PACKED = gzip.compress(b'{"text": "a"}\n', mtime=0)  # else its name would tell the time
OLD, NEW = "a" * 40, "b" * 40

# Opens the splits that its argument lists; a line for each: what was read, or what is wrong.
PROGRAM = """
import json, sys
from sdlms.errors import UserError
from sdlms.storage.datasets import open_split

for source, config, split, revision in json.loads(sys.argv[1]):
    try:
        opened = open_split("here", source, config, split, revision)
        (_, row), = opened.read(["question"], 1)
        print(json.dumps([opened.config, opened.commit, row["question"]]))
    except UserError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, as an `HF_HOME` would give that is set before the start."""
    folder = tmp_path / "hf"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "DOWNLOADED_DATASETS_PATH", folder / "downloads")
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", folder / "extracted")
    return folder


@pytest.fixture
def gsm8k(tmp_path: Path) -> Path:
    """A repository of two configs, one with two splits."""
    splits = {"train": QUESTIONS[:3], "test": QUESTIONS}
    return write_configs(tmp_path / "gsm8k", {"main": splits, "socratic": {"test": QUESTIONS[:1]}})


def opened(
    source: Path | str, split: str = "train", config: str | None = None, revision: Any = None
) -> DataSplit:
    return open_split("m.jsonl:1: data set d", source, config, split, revision)


def refusal(source: Path | str, *words: Any) -> str:
    with pytest.raises(UserError) as error:
        list(opened(source, *words).read(["text"], None))
    prefix, _, message = str(error.value).partition("data set d")
    assert prefix == "m.jsonl:1: " and "\n" not in message
    return message.lstrip(":, ")


class TestFolders:
    def test_rows_come_in_order_with_the_columns_that_fields_need(self, gsm8k: Path) -> None:
        split = opened(gsm8k, "test", "main")
        assert (split.config, split.commit) == ("main", None)
        found = list(split.read(["answer"], None))
        assert found == [(n, {"answer": row["answer"]}) for n, row in enumerate(QUESTIONS, start=1)]
        (last,) = list(split.read(["question", "answer"], None))[-1:]
        assert last == (2500, QUESTIONS[-1])

    @pytest.mark.parametrize("most", [1, 999, 1000, 1001, 2500, 9999])
    def test_only_the_first_rows_are_read_where_a_number_is_given(
        self, gsm8k: Path, most: int
    ) -> None:
        numbers = [number for number, _ in opened(gsm8k, "test", "main").read(["answer"], most)]
        assert numbers == list(range(1, min(most, 2500) + 1))

    def test_splits_are_found_by_the_names_of_files_where_nothing_names_configs(
        self, tmp_path: Path
    ) -> None:
        rows = [{"dialog": ["Hi.", "Hello."], "choices": {"text": ["x"], "label": ["A"]}}]
        folder = write_data(tmp_path / "dialog", {"train": rows * 2, "validation": rows})
        split = opened(folder, "validation")
        assert split.config == "default"
        assert list(split.read(["dialog", "choices.text"], None)) == [(1, rows[0])]

    @pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "jsonl.zst"])
    def test_json_lines_are_read_compressed_or_not(self, tmp_path: Path, suffix: str) -> None:
        content = b'{"text": "a"}\n{"text": "b"}\n'
        packed = {"gz": gzip.compress, "zst": zstandard.compress}.get(suffix[6:], bytes)(content)
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / f"train.{suffix}").write_bytes(packed)
        assert [row["text"] for _, row in opened(tmp_path / "d").read(["text"], None)] == ["a", "b"]

    def test_values_are_what_was_written_where_types_mix(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "train.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
        values = [row["text"] for _, row in opened(tmp_path / "d").read(["text"], None)]
        assert values == ["a", 3]

    def test_a_changed_folder_is_read_anew(self, tmp_path: Path) -> None:
        folder = write_data(tmp_path / "d", {"train": [{"text": "old"}]})
        assert list(opened(folder).read(["text"], None)) == [(1, {"text": "old"})]
        (file,) = folder.rglob("*.parquet")
        write_data(folder, {"train": [{"text": "new"}]})
        os.utime(file, (1, 1))
        assert list(opened(folder).read(["text"], None)) == [(1, {"text": "new"})]

    def test_nothing_is_written_but_in_the_cache(
        self, tmp_path: Path, gsm8k: Path, cache: Path
    ) -> None:
        before = sorted(gsm8k.rglob("*"))
        list(opened(gsm8k, "test", "main").read(["answer"], None))
        assert sorted(gsm8k.rglob("*")) == before
        assert sorted(path.name for path in tmp_path.iterdir()) == ["gsm8k", "hf"]
        assert list(cache.rglob("*.arrow"))

    def test_it_works_in_silence_and_leaves_the_log_level(
        self, gsm8k: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        logs = (datasets.logging, huggingface_hub.logging)
        levels = [log.get_verbosity() for log in logs]
        list(opened(gsm8k, "test", "main").read(["answer"], None))
        broken = write_data(tmp_path / "broken", {"train": [{"text": "a"}]})
        (file,) = broken.rglob("*.parquet")
        file.write_bytes(file.read_bytes()[:-5])
        refusal(broken)
        assert [log.get_verbosity() for log in logs] == levels
        assert capfd.readouterr() == ("", "")


class TestRefusals:
    @pytest.mark.parametrize(
        ("config", "split", "message"),
        [
            ("mian", "test", "no config 'mian'. Did you mean 'main'?"),
            (None, "test", "needs 'config'. Known: main, socratic."),
            ("main", "tset", "no split 'tset'. Did you mean 'test'?"),
            ("main", "test[:3]", "no split 'test[:3]'. Did you mean 'test'?"),
            ("socratic", "train", "no split 'train'. Known: test."),
            ("main", "test", "no field 'text'. Known: question, answer."),
        ],
    )
    def test_what_a_data_set_lacks_is_named_with_what_it_has(
        self, gsm8k: Path, config: str | None, split: str, message: str
    ) -> None:
        assert refusal(gsm8k, split, config) == message

    def test_a_folder_that_is_none_or_holds_none(self, tmp_path: Path) -> None:
        assert refusal(tmp_path / "none") == "no such folder."
        file = write_parquet(tmp_path / "a.parquet", [{"text": "a"}])
        assert refusal(file) == "a file; name it as 'file'."
        (tmp_path / "empty").mkdir()
        assert "doesn't contain any data files" in refusal(tmp_path / "empty")

    def test_code_that_comes_with_a_data_set_is_never_run(self, tmp_path: Path) -> None:
        folder = write_data(tmp_path / "old", {"train": [{"text": "a"}]})
        (folder / "old.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        assert "made by a script, and scripts are never run" in refusal(folder)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("kind", [datasets.Dataset, datasets.DatasetDict])
    def test_the_layout_of_save_to_disk(self, tmp_path: Path, kind: type) -> None:
        rows = datasets.Dataset.from_list([{"text": "a"}])
        (rows if kind is datasets.Dataset else kind({"train": rows})).save_to_disk(tmp_path / "d")
        assert refusal(tmp_path / "d").startswith("written by save_to_disk")

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("train.parquet", b"PAR1 is not all", "Parquet"),
            ("train.jsonl", b'{"text": "a"}\n{"text":\n', "JSON parse error"),
            ("train.jsonl.gz", PACKED[:-9], "Compressed file ended"),
            ("README.md", b"---\nconfigs: [\n---\n", "while parsing"),
            ("README.md", b"---\nconfigs: 3\n---\n", "Expected configs to be a list"),
        ],
    )
    def test_a_damaged_file(self, tmp_path: Path, name: str, content: bytes, message: str) -> None:
        folder = tmp_path / "d"
        folder.mkdir()
        (folder / name).write_bytes(content)
        found = refusal(folder)
        assert found.startswith("cannot be read: ") and message in found

    @pytest.mark.parametrize(
        "name", ["gsm8k", "json", "a/b/c", "https://hub/a", "", "a b/c", "é/c"]
    )
    def test_a_word_that_is_neither_folder_nor_hub_id(self, name: str) -> None:
        assert refusal(name) == "neither a folder that exists nor a hub id (owner/name)."

    def test_a_missing_library_is_named_with_the_command(
        self, gsm8k: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)  # what find_spec takes for missing
        assert refusal(gsm8k) == (
            "needs the library 'datasets'. Install it: pip install 'sdlms[datasets]'"
        )

    def test_without_a_network_the_next_step_is_said(self) -> None:
        assert refusal("openai/nothing") == (
            "the hub cannot be reached and the cache under HF_HOME does not hold it. "
            "Run once with a network, or give a local folder."
        )


def in_a_process(
    home: Path, address: str, *wanted: Any, offline: bool = False, program: str = PROGRAM
) -> list[Any]:
    """What a process of its own reads: these libraries take their settings when imported."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": address}
    environment |= {"HF_HUB_OFFLINE": str(int(offline)), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(wanted)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_hub_gives_revisions_and_its_cache_no_other(tmp_path: Path) -> None:
    repository = tmp_path / "hub/openai/gsm8k"
    for commit, question in ((OLD, "old?"), (NEW, "new?")):
        splits = {"train": QUESTIONS[:2], "test": [{"question": question}]}
        write_configs(repository / commit, {"main": splits, "other": splits})
    refs = {"main": NEW, "v1": OLD, "refs/convert/parquet": OLD}
    (repository / "refs.json").write_text(json.dumps(refs))
    (tmp_path / "openai/gsm8k").mkdir(parents=True)  # no folder stands in for a hub id
    script = tmp_path / "hub/old/set"
    write_configs(script / OLD, {"main": {"test": [{"question": "never"}]}})
    (script / OLD / "set.py").write_text("raise SystemExit(1)")
    (script / "refs.json").write_text(json.dumps({"main": OLD}))
    home = tmp_path / "home"

    def gsm8k(*words: Any) -> list[Any]:
        return ["openai/gsm8k", *words]

    with serving(tmp_path / "hub") as address:
        found = in_a_process(
            home,
            address,
            gsm8k("main", "test", None),
            gsm8k("main", "test", "refs/convert/parquet"),
            gsm8k("main", "test", "v1"),
            gsm8k("main", "test", "v2"),
            gsm8k("mian", "test", None),
            gsm8k("main", "tset", None),
            ["old/set", "main", "test", None],
            ["no/such", None, "test", None],
        )
    assert found[:3] == [["main", NEW, "new?"], ["main", OLD, "old?"], ["main", OLD, "old?"]]
    assert "Revision 'v2' doesn't exist" in found[3]
    assert "no config 'mian'. Did you mean 'main'?" in found[4]
    assert "no split 'tset'. Did you mean 'test'?" in found[5]
    assert "scripts are never run" in found[6]
    assert "doesn't exist on the Hub or cannot be accessed" in found[7]

    found = in_a_process(
        home,
        address,
        gsm8k("main", "test", "v1"),
        gsm8k("main", "test", OLD),
        gsm8k("main", "test", None),
        gsm8k("main", "test", NEW),
        gsm8k("main", "test", "v2"),
        gsm8k("other", "test", None),
        gsm8k("main", "tset", None),
        offline=True,
    )
    assert found[:2] == [["main", OLD, "old?"]] * 2  # the newest that is in the cache
    for message in found[2:5]:
        assert f"holds is commit {OLD}, not " in message
    assert "does not hold config 'other'" in found[5]
    assert "no split 'tset'. Did you mean 'test'?" in found[6]


def test_the_retries_of_a_hub_that_does_not_answer_are_silent(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound and never listening: every connection is refused
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        hurried = f"import time\ntime.sleep = lambda _: None  # 20 s of retries\n{PROGRAM}"
        wanted = ["openai/gsm8k", None, "test", None]
        (message,) = in_a_process(tmp_path / "home", address, wanted, program=hurried)
    assert message.startswith("here: the hub cannot be reached and the cache under HF_HOME does")
