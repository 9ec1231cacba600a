import shutil
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.scaling.documents import TaskDocument, documents_of, texts_of
from tests.scaling.gated_runs import gated
from tests.scaling.small_runs import captured, modular, trained

FOUR = {TaskDocument(task, f"{i:016x}") for i, task in enumerate(["qa", "math", "qa", "math"])}


def test_a_capture_and_a_training_list_their_documents(tmp_path: Path) -> None:
    assert documents_of(captured(tmp_path, "small", n_documents=4)) == FOUR
    assert documents_of(trained(tmp_path, "small", n_documents=4)) == FOUR


def test_a_run_rests_on_what_it_read(tmp_path: Path) -> None:
    acts = captured(tmp_path, "small", n_documents=4)
    assert documents_of(modular(tmp_path, "small", acts)) == FOUR


def test_a_capture_that_is_gone_is_not_known(tmp_path: Path) -> None:
    acts = captured(tmp_path, "small")
    run = modular(tmp_path, "small", acts)
    moved = tmp_path / "elsewhere" / run.name
    shutil.copytree(run.path, moved)
    assert documents_of(Run(moved)) is None


def test_a_damaged_list_is_refused(tmp_path: Path) -> None:
    run = captured(tmp_path, "small")
    run.path.chmod(0o755)
    (run.path / "counts.h5").unlink()
    (run.path / "counts.h5").write_bytes(b"no such format")
    with pytest.raises(UserError, match=r"counts\.h5 is damaged\. See: sdlms runs verify"):
        documents_of(Run(run.path))
    run = trained(tmp_path, "small")
    path = run.path / "documents.csv"
    path.chmod(0o644)
    path.write_text(path.read_text().replace("document_id", "name"))
    with pytest.raises(UserError, match=r"documents\.csv is damaged"):
        documents_of(Run(run.path))


def test_texts_are_known_where_no_document_is_listed(tmp_path: Path) -> None:
    read = [{"sha256": "d0", "split": "test"}]
    task = {"task": "prose", "sources": {"a.jsonl": "a0", "b.txt": "b0"}, "datasets": read}
    run = gated(tmp_path, "small", resolved={"data": [task]})
    assert texts_of(run) == {"prose": {"a0", "b0", "d0"}}
    acts = captured(tmp_path, "small")
    for other in (acts, modular(tmp_path, "small", acts), trained(tmp_path, "small")):
        assert texts_of(other) is None
