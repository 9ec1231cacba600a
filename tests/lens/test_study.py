"""What is known of a study before its model is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest

from sdlms.lens.states import states_of
from sdlms.lens.study import Study
from sdlms.lens.targets import Target
from sdlms.lens.translators import TrainingText
from sdlms.models.inputs import Inputs
from sdlms.models.loading import find_model, load_config, load_tokenizer
from sdlms.models.tokens import Tokens
from sdlms.storage.lens_file import create_lens
from tests.lens.lens_files import rows_of

SOURCE = find_model("sdlms-small", None)
ROWS = rows_of([40, 60], ["a", "b"])


@pytest.fixture
def study() -> Study:
    return Study(
        inputs=Inputs(SOURCE, load_config(SOURCE), Tokens(ROWS, {})),
        record={"name": "sdlms-small"},
        tokenizer=load_tokenizer(SOURCE),
        states=states_of(3, [1]),
        top_k=10,
        targets=[Target(7, " x")],
        saved=None,
        training=None,
    )


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


def test_what_is_recorded_tells_studies_apart(study: Study) -> None:
    record = study.record_of_inputs()
    assert record["states"] == ["embedding", "block 1", "block 2"]
    assert record["targets"] == [{"token_id": 7, "text": " x"}]
    assert (record["tuned_lens"], record["tuned_text"], record["n_top"]) == (None, None, 10)
    assert replace(study, targets=[]).record_of_inputs() != record
