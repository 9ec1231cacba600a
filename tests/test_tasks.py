"""Manifests, files and data sets become documents; what cannot is refused in one line."""

import errno
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.runs.reading import Run, list_runs
from sdlms.storage import assets
from sdlms.storage.texts import PARAGRAPH_WORDS
from sdlms.tasks import (
    Task,
    check_sources,
    content_hash,
    embedded_manifests,
    load_tasks,
    read_manifest,
)
from tests.storage.hub_layout import write_configs, write_data, write_parquet

LONG = " ".join(f"word{number}" for number in range(PARAGRAPH_WORDS))


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def ids(tasks: list[Task]) -> dict[str, list[str]]:
    return {task.name: [document.id for document in task.documents] for task in tasks}


def refusal(tmp_path: Path, *lines: object) -> str:
    """The message about a manifest, without the folder's name."""
    with pytest.raises(UserError) as error:
        read_manifest(write_lines(tmp_path / "manifest.jsonl", *lines))
    return str(error.value).replace(f"{tmp_path}/", "")


class TestTexts:
    def test_a_text_file_is_one_task_of_paragraphs(self, tmp_path: Path) -> None:
        path = tmp_path / "corpus.txt"
        path.write_bytes(f"\ufeff{LONG}\r\n\r\n{LONG} é".encode())
        (task,) = load_tasks((), path, "text")
        assert task.name == "corpus"
        assert [document.text for document in task.documents] == [LONG, f"{LONG} é"]
        assert task.record() == {
            "task": "corpus",
            "sources": {"corpus.txt": hashlib.sha256(path.read_bytes()).hexdigest()},
            "datasets": [],
            "n_documents": 2,
            "n_duplicates": 0,
            "n_blank": 0,
        }

    def test_an_id_is_the_start_of_the_hash_of_the_text(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "a.jsonl", {"text": "Zoë"})
        (task,) = load_tasks((), path, "text")
        assert task.documents[0].id == hashlib.sha256("Zoë".encode()).hexdigest()[:16]

    def test_json_lines_are_never_joined_split_or_dropped(self, tmp_path: Path) -> None:
        written = ["a", f"{LONG}\n\n{LONG}", " b\r\n"]
        path = write_lines(tmp_path / "a.JSONL", *({"body": text} for text in written))
        (task,) = load_tasks((), path, "body")
        assert [document.text for document in task.documents] == written

    def test_duplicates_are_dropped_and_counted(self, tmp_path: Path) -> None:
        path = write_lines(tmp_path / "a.jsonl", *({"text": text} for text in "abacaa"))
        (task,) = load_tasks((), path, "text")
        assert [document.text for document in task.documents] == list("abc")
        assert task.n_duplicates == task.record()["n_duplicates"] == 3

    @pytest.mark.parametrize(
        ("stem", "name"), [("my corpus (2)", "my_corpus_2_"), ("корпус", "texts"), ("-a", "a")]
    )
    def test_the_task_has_a_name_that_tables_and_shells_can_hold(
        self, tmp_path: Path, stem: str, name: str
    ) -> None:
        (tmp_path / f"{stem}.txt").write_text(LONG)
        assert [task.name for task in load_tasks((), tmp_path / f"{stem}.txt", "text")] == [name]

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.txt", b"", "the file is empty"),
            ("a.txt", b" \n\n", "the file holds no text"),
            ("a.txt", b"\x89PNG\r\n\x1a\n\x00", "is this a binary file"),
            ("a.txt", "é".encode("latin-1"), "is this a binary file"),
            ("a.txt", b"text\0text", "is this a binary file"),
            ("a.jsonl", b"", "the file is empty"),
            ("a.jsonl", b"\n\n", "task 'a' has no documents: its file holds none"),
            ("a.jsonl", b"\xff\xfe", "a.jsonl:1: not UTF-8 text; is this a binary file"),
            ("a.jsonl", b'{"text": "b"}\n{"text": ', "a.jsonl:2: not valid JSON"),
            ("a.jsonl", b'{"texts": "b"}', "a.jsonl:1: no field 'text'. Did you mean 'texts'?"),
            ("a.jsonl", b'{"text": 3}', "a.jsonl:1: field 'text' must be a string"),
            ("a.jsonl", b'{"text": null}', "a.jsonl:1: the text is empty. Take the line out."),
            ("a.jsonl", b'{"text": " "}', "a.jsonl:1: the text is empty"),
            ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl:1: the text holds half of a surrogate"),
            ("a.json", b'[{"text": "b"}]', "write JSON Lines, named .jsonl"),
        ],
    )
    def test_a_file_without_documents_is_refused(
        self, tmp_path: Path, name: str, content: bytes, message: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as error:
            load_tasks((), tmp_path / name, "text")
        assert message in str(error.value) and str(tmp_path / name) in str(error.value)

    @pytest.mark.parametrize(
        ("name", "message"),
        [("none.txt", "no such file"), ("", "is a folder"), ("n" * 300, "File name too long")],
    )
    def test_a_path_that_leads_nowhere_is_refused(
        self, tmp_path: Path, name: str, message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            load_tasks((), tmp_path / name, "text")

    def test_a_pipe_is_refused_without_waiting_for_it(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.txt")
        with pytest.raises(UserError, match="read it twice"):
            load_tasks((), tmp_path / "pipe.txt", "text")

    def test_a_locked_file_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Path, mode: str) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        (tmp_path / "a.txt").write_text(LONG)
        monkeypatch.setattr(Path, "open", refuse)  # root may read every file
        with pytest.raises(UserError, match="Permission denied"):
            load_tasks((), tmp_path / "a.txt", "text")

    @pytest.mark.parametrize("name", ["story.jsonl.gz", "story.parquet"])
    def test_the_task_is_named_after_what_the_file_holds(self, tmp_path: Path, name: str) -> None:
        path = write_parquet(tmp_path / name, [{"body": "a"}, {"body": ""}, {"body": "a"}])
        if name.endswith("gz"):
            path.write_bytes(gzip.compress(b'{"body": "a"}\n{"body": "a"}\n'))
        (task,) = load_tasks((), path, "body")
        assert task.name == "story"
        assert [document.text for document in task.documents] == ["a"]
        assert task.sources == {name: hashlib.sha256(path.read_bytes()).hexdigest()}
        assert (task.n_duplicates, task.n_blank) == (1, int(name.endswith("parquet")))

    @pytest.mark.parametrize("name", ["a.jsonl", "a.JSONL", "a.jsonl.zst", "a.parquet"])
    def test_a_field_may_be_named_where_there_are_records(self, name: str) -> None:
        check_sources(("probe",), Path(name), "body")

    @pytest.mark.parametrize("name", ["a.txt", "a.gz", "jsonl", None])
    def test_a_field_of_anything_else_is_refused(self, name: str | None) -> None:
        texts = Path(name) if name else None
        check_sources(("probe",), texts, "text")
        with pytest.raises(UserError) as error:
            check_sources(("probe",), texts, "body")
        assert str(error.value) == "--field body is for --texts FILE.jsonl or FILE.parquet."


class TestManifest:
    def test_lines_with_texts_and_files_of_both_kinds_mix(self, tmp_path: Path) -> None:
        write_lines(tmp_path / "a.jsonl", {"q": "x y"})
        (tmp_path / "b.txt").write_text(f"{LONG}\n\n{LONG} b")
        path = write_lines(
            tmp_path / "manifest.jsonl",
            {"task": "one", "text": "a record"},
            {"task": "two", "file": "a.jsonl", "field": "q"},
            {"task": "one", "file": "b.txt"},
        )
        one, two = read_manifest(path)
        assert [document.text for document in one.documents] == ["a record", LONG, f"{LONG} b"]
        assert [document.text for document in two.documents] == ["x y"]
        assert list(one.sources) == ["manifest.jsonl", "b.txt"]
        assert list(two.sources) == ["manifest.jsonl", "a.jsonl"]

    def test_a_text_belongs_to_the_first_task_that_has_it(self, tmp_path: Path) -> None:
        lines = [{"task": task, "text": text} for task, text in ("1a", "2c", "2b", "2d", "1c")]
        first, second = read_manifest(write_lines(tmp_path / "m.jsonl", *lines))
        assert [document.text for document in first.documents] == ["a", "c"]
        assert [document.text for document in second.documents] == ["b", "d"]
        assert (first.n_duplicates, second.n_duplicates) == (0, 1)

    def test_a_task_whose_texts_all_stand_earlier_is_refused(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, {"task": "one", "text": "a"}, {"task": "two", "text": "a"})
        assert message == (
            "manifest.jsonl: task 'two' has no documents: all its texts are in earlier tasks."
        )

    @pytest.mark.parametrize(
        ("record", "message"),
        [
            ({"task": "b", "txt": "x"}, "unknown key 'txt'. Did you mean 'text'?"),
            ({"task": "b"}, "needs either 'text' or 'file'"),
            ({"task": "b", "text": "x", "file": "y"}, "needs either 'text' or 'file'"),
            ({"task": "b", "text": 1}, "'text' must be a string, got 1"),
            ({"task": 1, "text": "x"}, "'task' must be a string, got 1"),
            ({"text": "x"}, "'task' must be a name of letters"),
            ({"task": "a/b", "text": "x"}, "got 'a/b'"),
            ({"task": "b", "text": ""}, "the text is empty"),
            ({"task": "b", "text": "\ud800"}, "half of a surrogate pair"),
            ({"task": "b", "file": "none.txt"}, "none.txt: no such file"),
            ({"task": "b", "file": "nul\0.txt"}, "no such file"),
            ({"task": "b", "file": "."}, "is a folder"),
            ([], "expected a JSON object"),
        ],
    )
    def test_a_malformed_line_is_named_by_its_number(
        self, tmp_path: Path, record: object, message: str
    ) -> None:
        found = refusal(tmp_path, {"task": "a", "text": "fine"}, record)
        assert found.startswith("manifest.jsonl:2: ") and message in found

    def test_a_file_of_a_line_is_named_with_the_line(self, tmp_path: Path) -> None:
        (tmp_path / "empty.txt").touch()
        found = refusal(tmp_path, {"task": "a", "file": "empty.txt"})
        assert found == "manifest.jsonl:1: empty.txt: the file is empty."

    @pytest.mark.parametrize(
        ("record", "message"),
        [
            ({"task": "b", "txt": "x"}, "unknown key 'txt'. Did you mean 'text'?"),
            ({"task": "b", "text": " "}, "the text is empty. Take the line out."),
            ({"task": "b", "file": "none.txt"}, "none.txt: no such file."),
        ],
    )
    def test_a_later_line_is_refused_before_a_data_set_is_fetched(
        self, tmp_path: Path, record: object, message: str
    ) -> None:
        data = {"task": "a", "dataset": "./none", "split": "train"}
        assert refusal(tmp_path, data, record) == f"manifest.jsonl:2: {message}"

    def test_a_manifest_of_blank_lines_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "m.jsonl").write_text("\n\n")
        with pytest.raises(UserError, match="the manifest names no task"):
            read_manifest(tmp_path / "m.jsonl")


class TestDatasets:
    """Local folders in the hub's layout; `tests/storage/test_datasets.py` asks a hub as well."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty cache, as an `HF_HOME` would give that is set before the start."""
        import datasets

        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")

    def test_a_data_set_is_recorded_with_all_that_decides_its_documents(
        self, tmp_path: Path
    ) -> None:
        rows = [{"q": f"{n}?", "a": str(n)} for n in range(9)]
        write_configs(tmp_path / "sums", {"easy": {"test": rows}, "hard": {"test": rows[:1]}})
        line = {"task": "math", "dataset": "sums", "config": "easy", "split": "test"}
        path = write_lines(tmp_path / "m.jsonl", {**line, "fields": ["q", "a"], "rows": 5})
        (task,) = read_manifest(path)
        texts = [f"{n}?\n{n}" for n in range(5)]
        assert [document.text for document in task.documents] == texts
        assert task.record() == {
            "task": "math",
            "sources": {"m.jsonl": hashlib.sha256(path.read_bytes()).hexdigest()},
            "datasets": [
                {
                    "dataset": "sums",
                    "config": "easy",
                    "split": "test",
                    "revision": None,
                    "commit": None,
                    "fields": ["q", "a"],
                    "as": "documents",
                    "rows": 5,
                    "n_rows": 5,
                    "sha256": content_hash(texts),
                }
            ],
            "n_documents": 5,
            "n_duplicates": 0,
            "n_blank": 0,
        }
        assert json.loads(json.dumps(task.record())) == read_manifest(path)[0].record()

    def test_blank_rows_are_dropped_and_counted_beside_duplicates(self, tmp_path: Path) -> None:
        rows = [{"text": text} for text in ("a", "", "b", " \n", "a", None)]
        write_data(tmp_path / "d", {"train": rows})
        line = {"task": "t", "dataset": "./d", "split": "train"}
        (task,) = read_manifest(write_lines(tmp_path / "m.jsonl", line))
        assert [document.text for document in task.documents] == ["a", "b"]
        assert (task.n_blank, task.n_duplicates) == (3, 1)
        (record,) = task.datasets
        assert (record["n_rows"], record["sha256"]) == (6, content_hash(["a", "b", "a"]))

    def test_sources_of_all_kinds_mix_in_one_task(self, tmp_path: Path) -> None:
        write_data(tmp_path / "d", {"train": [{"text": "from a data set"}]})
        write_parquet(tmp_path / "a.parquet", [{"text": "from parquet"}])
        path = write_lines(
            tmp_path / "m.jsonl",
            {"task": "t", "text": "from the manifest"},
            {"task": "t", "dataset": str(tmp_path / "d"), "split": "train"},
            {"task": "t", "file": "a.parquet"},
        )
        (task,) = read_manifest(path)
        found = [document.text for document in task.documents]
        assert found == ["from the manifest", "from a data set", "from parquet"]
        assert list(task.sources) == ["m.jsonl", "a.parquet"]

    def test_a_folder_beside_the_manifest_wins_over_the_hub(self, tmp_path: Path) -> None:
        line = {"task": "t", "dataset": "owner/name", "split": "train"}
        path = write_lines(tmp_path / "m.jsonl", line)
        with pytest.raises(UserError, match="data set owner/name: the hub cannot be reached"):
            read_manifest(path)
        write_data(tmp_path / "owner/name", {"train": [{"text": "a"}]})
        assert len(read_manifest(path)[0].documents) == 1

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ({"dataset": "./none"}, "m.jsonl:1: data set ./none: no such folder."),
            ({"dataset": "nul\0"}, "neither a folder that exists nor a hub id"),
            ({"dataset": "d", "revision": "v1"}, "'revision' is for hub data sets"),
            ({"dataset": "d", "split": "test"}, "data set d: no split 'test'. Known: train."),
            ({"dataset": "d", "field": "txt"}, "no field 'txt'. Did you mean 'text'?"),
            ({"dataset": "d", "field": "n"}, "data set d, row 1: field 'n' must be a string"),
            ({"dataset": "d", "field": "none"}, "has no documents: all its 2 rows are blank."),
            ({"dataset": "d", "field": "none", "as": "lines"}, "its data set holds none."),
            ({"dataset": "empty"}, 'data set empty: cannot be read: Instruction "train" corres'),
        ],
    )
    def test_what_is_wrong_is_said_in_one_line(
        self, tmp_path: Path, line: dict[str, str], message: str
    ) -> None:
        write_data(tmp_path / "d", {"train": [{"text": "a", "n": 1, "none": ""}] * 2})
        empty = write_data(tmp_path / "empty", {"train": [{"text": "a"}]})
        (empty / "data/train-00000-of-00001.parquet").unlink()
        (empty / "train.csv").write_text("text\n")
        found = refusal(tmp_path, {"task": "t", "split": "train", **line}).replace("manifest", "m")
        assert message in found and "\n" not in found

    def test_the_pythia_suite_reads_the_layouts_of_its_six_data_sets(self, tmp_path: Path) -> None:
        manifest = assets.asset_folder("configs") / "tasks/pythia.jsonl"
        shutil.copy(manifest, tmp_path)
        humaneval = [
            {"task_id": "0", "prompt": "def f():\n", "canonical_solution": "    return 1\n"}
        ]
        gsm8k = [{"question": "1 + 1?", "answer": "It is 2.\n#### 2"}]
        squad = [{"id": "0", "title": "T", "context": "A is B.", "question": "What is A?"}]
        wikitext = [{"text": text} for text in ("", " = Title = \n", "", " A paragraph . \n")]
        dialog = [{"dialog": ["Hi .", " Hello ."], "act": [1, 2], "emotion": [0, 0]}]
        choices = {"text": ["this", "that"], "label": ["A", "B"]}
        arc = [{"id": "0", "question": "Which?", "choices": choices, "answerKey": "A"}]
        write_configs(
            tmp_path / "openai/openai_humaneval", {"openai_humaneval": {"test": humaneval}}
        )
        configs = {name: {"train": gsm8k * 3, "test": gsm8k} for name in ("main", "socratic")}
        write_configs(tmp_path / "openai/gsm8k", configs)
        write_configs(
            tmp_path / "rajpurkar/squad", {"plain_text": {"train": squad * 2, "validation": squad}}
        )
        splits = {"test": wikitext, "train": wikitext * 2, "validation": wikitext}
        names = [f"wikitext-{size}-{kind}v1" for size in ("103", "2") for kind in ("raw-", "")]
        write_configs(tmp_path / "Salesforce/wikitext", dict.fromkeys(names, splits))
        splits = dict.fromkeys(("train", "validation", "test"), dialog)
        write_data(tmp_path / "OpenRL/daily_dialog", splits)
        splits = dict.fromkeys(("train", "test", "validation"), arc)
        configs = dict.fromkeys(("ARC-Challenge", "ARC-Easy"), splits)
        write_configs(tmp_path / "allenai/ai2_arc", configs)
        tasks = read_manifest(tmp_path / "pythia.jsonl")
        assert {task.name: [document.text for document in task.documents] for task in tasks} == {
            "python_code": ["def f():\n    return 1\n"],
            "math": ["1 + 1?\nIt is 2.\n#### 2"],
            "qa": ["A is B.\nWhat is A?"],
            "prose": [" = Title = \n\n A paragraph . "],
            "dialogue": ["Hi .\n Hello ."],
            "reasoning": ["Which?\nthis\nthat"],
        }
        configs_read = [task.datasets[0]["config"] for task in tasks]
        assert configs_read == [
            "openai_humaneval", "main", "plain_text", "wikitext-2-raw-v1", "default",
            "ARC-Challenge",
        ]  # fmt: skip

    def test_wikitext_is_paragraphs_of_its_test_split(self, tmp_path: Path) -> None:
        shutil.copy(assets.asset_folder("configs") / "tasks/wikitext.jsonl", tmp_path)
        lines = ["", " = Title = \n", "", f" {LONG} . \n", "", f" {LONG} , too . \n", ""]
        splits = {"test": lines, "train": ["x"], "validation": ["y"]}
        rows = {split: [{"text": line} for line in own] for split, own in splits.items()}
        others = {"test": [{"text": "other"}]}
        configs = {"wikitext-103-raw-v1": rows, "wikitext-103-v1": others}
        write_configs(tmp_path / "Salesforce/wikitext", configs)
        (task,) = read_manifest(tmp_path / "wikitext.jsonl")
        assert task.name == "wikitext"
        assert [document.text for document in task.documents] == [
            f" = Title = \n\n {LONG} . ",
            f" {LONG} , too . ",
        ]
        assert task.datasets[0]["config"] == "wikitext-103-raw-v1"

    def test_the_command_line_records_the_data_set_and_resumes_on_it(
        self, tmp_path: Path, cli: Callable[..., int], tiny_model: Path
    ) -> None:
        rows = [{"text": f"Number {n} comes before number {n + 1} ."} for n in range(9)]
        write_data(tmp_path / "numbers", {"train": rows})
        line = {"task": "counting", "dataset": "numbers", "split": "train"}
        write_lines(tmp_path / "m.jsonl", line)
        words = ["--model", tiny_model, "--tasks", "m.jsonl", "--quiet", "--dtype", "float32"]
        assert cli("capture", *words) == 0
        assert cli("capture", *words) == 0
        first, second = (Run(run.path).start["resolved"] for run in list_runs(Path("artifacts")))
        assert first == second
        (data,) = first["data"]
        assert data["datasets"][0]["sha256"] == content_hash(row["text"] for row in rows)
        assert data["n_captured"] == 9


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_only_the_same_texts_in_the_same_order_share_a_hash(
    texts: list[str], others: list[str]
) -> None:
    assert (content_hash(texts) == content_hash(others)) == (texts == others)
    assert content_hash([*texts, *others]) != content_hash(["".join(texts), *others, "x"])


def test_the_hash_is_made_as_it_is_documented() -> None:
    hashed = (2).to_bytes(8, "big") + "é".encode() + (0).to_bytes(8, "big")
    assert content_hash(["é", ""]) == hashlib.sha256(hashed).hexdigest()


class TestChoice:
    @pytest.fixture(autouse=True)
    def embedded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An installation with two manifests; `probe` is the default one."""
        monkeypatch.setattr(assets, "PACKAGE", tmp_path / "sdlms")
        monkeypatch.chdir(tmp_path)
        (tmp_path / "data").mkdir()
        lines = [{"task": name, "text": name} for name in ("math", "qa", "prose")]
        write_lines(tmp_path / "data" / "probe.jsonl", *lines)
        write_lines(tmp_path / "data" / "training.jsonl", {"task": "all", "text": "x"})

    def test_a_manifest_goes_by_embedded_name_or_path(self, tmp_path: Path) -> None:
        assert embedded_manifests() == ["probe", "training"]
        assert list(ids(load_tasks(("probe",), None, "text"))) == ["math", "qa", "prose"]
        assert list(ids(load_tasks("training", None, "text"))) == ["all"]
        write_lines(tmp_path / "mine.jsonl", {"task": "own", "text": "y"})
        assert list(ids(load_tasks(("mine.jsonl",), None, "text"))) == ["own"]
        assert list(ids(load_tasks(("./mine.jsonl",), None, "text"))) == ["own"]

    def test_a_study_of_the_configs_goes_by_its_name_and_data_wins(self, tmp_path: Path) -> None:
        tasks = tmp_path / "configs/tasks"
        tasks.mkdir(parents=True)
        write_lines(tasks / "pythia.jsonl", {"task": "code", "text": "x"})
        write_lines(tasks / "probe.jsonl", {"task": "hidden", "text": "y"})
        assert embedded_manifests() == ["probe", "pythia", "training"]
        assert list(ids(load_tasks(("pythia",), None, "text"))) == ["code"]
        assert list(ids(load_tasks(("probe",), None, "text"))) == ["math", "qa", "prose"]

    def test_tasks_are_chosen_by_name_in_the_order_of_the_manifest(self) -> None:
        chosen = load_tasks(("prose", "math", "prose"), None, "text")
        assert [task.name for task in chosen] == ["math", "prose"]

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ((), "--tasks is empty"),
            (("maths",), "unknown task 'maths'. Did you mean 'math'?"),
            (("trainin",), "unknown task 'trainin'. Did you mean 'training'?"),
            (("zzz",), "Known: math, qa, prose, probe, training."),
            (("math", "zzz"), "unknown task 'zzz'. Known: math, qa, prose."),
            *(
                (
                    names,
                    f"--tasks {','.join(names)}: name one manifest alone, or tasks of the "
                    "default one.",
                )
                for names in (("probe", "training"), ("math", "training"))
            ),
            (("n" * 300,), "unknown task"),
            (("none.jsonl",), "--tasks none.jsonl: no such file."),
            (("data/",), "--tasks data/: is a folder"),
        ],
    )
    def test_other_words_are_refused(self, names: tuple[str, ...], message: str) -> None:
        with pytest.raises(UserError) as error:
            load_tasks(names, None, "text")
        assert message in str(error.value)

    @pytest.mark.parametrize("names", [(), ("zzz",), ("math", "training"), ("none.jsonl",)])
    def test_messages_name_the_flag(self, names: tuple[str, ...]) -> None:
        with pytest.raises(UserError, match=r"^--tuned-tasks") as error:
            load_tasks(names, None, "text", "--tuned-tasks")
        assert "--tasks" not in str(error.value)

    def test_an_installation_without_data_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "data" / "probe.jsonl").unlink()
        with pytest.raises(UserError, match="no embedded tasks"):
            load_tasks(("math",), None, "text")


def test_the_embedded_probe_tasks_can_be_read() -> None:
    tasks = load_tasks(("probe",), None, "text")
    assert {"python_code", "math", "qa", "prose", "dialogue", "reasoning"} <= set(ids(tasks))
    assert all(len(task.documents) >= 100 for task in tasks)


def test_the_studies_of_the_configs_are_named_beside_the_embedded_tasks() -> None:
    assert {"probe", "pythia", "wikitext"} <= set(embedded_manifests())


def test_neither_import_nor_plain_files_load_the_heavy_libraries(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n'))
    program = (
        "import sys\nfrom pathlib import Path\nfrom sdlms.tasks import load_tasks\n"
        "load_tasks((), Path('a.jsonl.gz'), 'text')\n"
        "heavy = {'datasets', 'pyarrow', 'zstandard', 'pandas', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
