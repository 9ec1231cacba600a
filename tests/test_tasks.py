"""Manifests and text files become documents; what cannot is refused in one line."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.storage import assets
from sdlms.tasks import (
    PARAGRAPH_WORDS,
    Task,
    embedded_manifests,
    load_tasks,
    paragraphs,
    read_manifest,
)

LONG = " ".join(f"word{number}" for number in range(PARAGRAPH_WORDS))
SHORT = "only three words"

# Paragraphs from lines of words, between blank lines that may hold spaces of any kind.
line = st.text(st.sampled_from("abé\u200b.\t 　"), min_size=1, max_size=12).filter(str.strip)
paragraph = st.lists(line, min_size=1, max_size=6).map("\n".join)
blank = st.lists(st.sampled_from(["", " ", "\t", "\u00a0", "\x0b"]), min_size=1, max_size=3)
gap = blank.map(lambda lines: "\n" + "\n".join(lines) + "\n")


@st.composite
def texts(draw: st.DrawFn) -> str:
    pieces = draw(st.lists(paragraph | st.just(LONG) | st.just(SHORT), max_size=8))
    text = "".join(piece + draw(gap) for piece in pieces)
    return draw(st.sampled_from(["", "\n", " \n"])) + text


def documents(text: str) -> list[str]:
    return list(paragraphs(text))


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


class TestParagraphs:
    @given(texts())
    def test_no_word_is_lost_and_order_is_kept(self, text: str) -> None:
        assert " ".join(documents(text)).split() == text.split()

    @given(texts())
    def test_every_document_but_a_lone_one_is_long_enough(self, text: str) -> None:
        sizes = [len(document.split()) for document in documents(text)]
        assert len(sizes) <= 1 or min(sizes) >= PARAGRAPH_WORDS

    @given(texts())
    def test_no_document_is_blank_or_opens_or_ends_with_a_blank_line(self, text: str) -> None:
        for document in documents(text):
            lines = document.split("\n")
            assert lines[0].strip() and lines[-1].strip()

    @given(texts())
    def test_line_ends_do_not_matter(self, text: str) -> None:
        unix = documents(text)
        assert documents(text.replace("\n", "\r\n")) == unix
        assert documents(text.replace("\n", "\r")) == unix

    @given(texts())
    def test_splitting_a_document_again_leaves_it_whole(self, text: str) -> None:
        for document in documents(text):
            if len(document.split()) < 2 * PARAGRAPH_WORDS:
                assert documents(document) == [document]

    def test_long_paragraphs_stand_alone(self) -> None:
        assert documents(f"{LONG}\n\n{LONG} b") == [LONG, f"{LONG} b"]

    def test_short_ones_join_the_next_until_they_are_long_enough(self) -> None:
        assert documents(f"{SHORT}\n \n\n{SHORT}\n\n{LONG}\n\n{LONG}") == [
            f"{SHORT}\n\n{SHORT}\n\n{LONG}",
            LONG,
        ]

    def test_a_short_rest_joins_the_last_document(self) -> None:
        assert documents(f"{LONG}\n\n{SHORT}") == [f"{LONG}\n\n{SHORT}"]

    def test_exactly_the_limit_is_enough_and_one_word_less_is_not(self) -> None:
        less = LONG.rpartition(" ")[0]
        assert len(documents(f"{LONG}\n\n{LONG}")) == 2
        assert len(documents(f"{less}\n\n{LONG}")) == 1

    def test_indentation_stays_and_single_line_breaks_do_not_split(self) -> None:
        code = f"    def f():\n        return 1  # {LONG}"
        assert documents(f"\n \n{code}\n\n") == [code]

    def test_a_text_of_many_short_paragraphs_takes_linear_time(self) -> None:
        assert len(documents("a\n\n" * 200_000)) == 200_000 // PARAGRAPH_WORDS


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
            "n_documents": 2,
            "n_duplicates": 0,
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
            ("a.jsonl", b'{"text": null}', "a.jsonl:1: field 'text' must be a string"),
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

    def test_a_manifest_of_blank_lines_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "m.jsonl").write_text("\n\n")
        with pytest.raises(UserError, match="the manifest names no task"):
            read_manifest(tmp_path / "m.jsonl")


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
            (("n" * 300,), "unknown task"),
            (("none.jsonl",), "--tasks none.jsonl: no such file."),
            (("data/",), "--tasks data/: is a folder"),
        ],
    )
    def test_other_words_are_refused(self, names: tuple[str, ...], message: str) -> None:
        with pytest.raises(UserError) as error:
            load_tasks(names, None, "text")
        assert message in str(error.value)

    def test_an_installation_without_data_says_so(self, tmp_path: Path) -> None:
        (tmp_path / "data" / "probe.jsonl").unlink()
        with pytest.raises(UserError, match="no embedded tasks"):
            load_tasks(("math",), None, "text")


def test_the_embedded_probe_tasks_can_be_read() -> None:
    tasks = load_tasks(("probe",), None, "text")
    assert {"python_code", "math", "qa", "prose", "dialogue", "reasoning"} <= set(ids(tasks))
    assert all(len(task.documents) >= 100 for task in tasks)
