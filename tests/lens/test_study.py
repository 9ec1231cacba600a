"""What is known of a study before its model is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdlms.lens.study import Study
from sdlms.lens.tuned import Tuned
from sdlms.lens.tuned_files import write_tuned
from sdlms.lens.tuned_source import Saved, TrainingText
from sdlms.models.token_texts import token_text
from sdlms.storage.lens_file import LensReader, create_lens
from tests.lens.studies import ROWS, small_study


@pytest.fixture
def study() -> Study:
    return small_study()


def test_the_header_says_what_the_file_will_hold(study: Study) -> None:
    header = study.header("float32", "bfloat16", [" a"])
    assert header.states == (("resid_pre", 0), ("resid_post", 1), ("resid_post", 2))
    assert (header.n_layers, header.n_top, header.lenses) == (3, 10, ("logit",))
    assert header.targets == ((7, " x"),)
    assert replace(study, top_k=9999).n_top == study.d_vocab == 3072


def test_a_lens_to_be_trained_is_looked_through_and_takes_room(
    study: Study, tmp_path: Path
) -> None:
    both = replace(study, training=TrainingText(ROWS, 0, []))
    assert both.lenses == ("logit", "tuned")
    path = tmp_path / "lens.h5"
    create_lens(path, both.header("", ""), ROWS)
    translators = 3 * 4 * study.d_model * (study.d_model + 1)
    assert both.predicted_bytes(2) > path.stat().st_size - 20_000 + 3 * translators
    assert both.predicted_bytes(2) > 2 * study.predicted_bytes(2)


def test_documents_that_a_saved_lens_was_trained_on_are_counted(
    study: Study, tmp_path: Path
) -> None:
    assert study.n_trained_on is None
    tuned = Tuned(torch.zeros(3, 48, 48), torch.zeros(3, 48))
    for documents, n_known in ((None, None), (["f" * 16], 0), ([ROWS.document_ids[1]], 1)):
        folder = tmp_path / str(n_known)
        write_tuned(folder, tuned, {"name": "m", "revision": None, "weights": {}}, documents)
        saved = replace(study, saved=(Saved(folder, None), tuned))
        assert saved.n_trained_on == n_known
        assert saved.record_of_inputs()["tuned_lens"]["n_trained_on"] == n_known


def test_a_file_that_is_there_stays(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "lens.h5"
    study.create_file(path, "float32", "float32")
    with LensReader(path) as reader:
        assert reader.texts([0, 300]) == [token_text(study.tokenizer, n) for n in (0, 300)]
    path.write_bytes(b"begun")
    study.create_file(path, "float32", "float32")
    assert path.read_bytes() == b"begun"


def test_what_is_recorded_tells_studies_apart(study: Study) -> None:
    record = study.record_of_inputs()
    assert record["states"] == ["embedding", "block 1", "block 2"]
    assert record["targets"] == [{"token_id": 7, "text": " x"}]
    assert (record["tuned_lens"], record["tuned_text"], record["n_top"]) == (None, None, 10)
    assert replace(study, targets=[]).record_of_inputs() != record
