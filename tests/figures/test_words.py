"""Words around a token: taken from runs with the same tokenizer, from no other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdlms.figures.words import Context, words_of
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.activations import Header, create_activations
from sdlms.storage.rows import Rows
from tests.figures.sae_runs import TOKENIZER, sae_run
from tests.lens.lens_files import rows_of, write_lens

VOCABULARY = (" a", "b", "\n", "$x", "ü")
CAPTURED = Rows(
    ids=np.array([0, 1, 2, 3, 4, 1, 1], dtype=np.int32),
    mask=np.ones(7, np.uint8),
    offsets=np.array([0, 5, 7]),
    document_ids=["one", "two"],
    document_tasks=["qa", "math"],
)


def other_run(artifacts: Path, stage: str, **resolved: Any) -> Run:
    """A capture of `CAPTURED`, or a logit-lens run of other documents."""
    with RunWriter(stage, {}, RunOptions(artifacts=artifacts)) as out:
        out.start({"model": {"tokenizer": TOKENIZER}, "control": "none"} | resolved, {})
        if stage == "capture":
            header = Header("m", "", {("mlp_act", 0): 2}, {"mlp_act": "float16"}, "gelu", False)
            create_activations(out.path / "activations.h5", header, CAPTURED)
            out.output("activations.h5")
        else:
            write_lens(out.path / "lens.h5", rows_of([3, 4], ["qa", "qa"]), vocabulary=VOCABULARY)
            out.output("lens.h5")
    return Run(out.path)


def test_words_are_joined_from_both_runs(tmp_path: Path) -> None:
    beside = [other_run(tmp_path, "capture"), other_run(tmp_path, "logit-lens")]
    words = words_of(sae_run(tmp_path), beside)
    assert words.around([("one", 2), ("one", 0), ("two", 1)]) == [
        Context(" ab", "\n", "$xü"),
        Context("", " a", "b\n$xü"),
        Context("b", "b", ""),
    ]
    assert words.around([("one", 5), ("three", 0)]) == [None, None]
    ids = rows_of([3, 4], ["qa", "qa"]).ids
    (found,) = words.around([("0000000000000001", 1)])  # a document of the lens run itself
    assert found == Context(
        *(VOCABULARY[i] for i in ids[3:5]), "".join(VOCABULARY[i] for i in ids[5:])
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": {"tokenizer": {"tokenizer.json": "other"}}},
        {"model": {}},
        {"control": "permute-tokens"},
    ],
)
def test_other_tokens_are_not_taken(tmp_path: Path, wrong: dict[str, Any]) -> None:
    run = sae_run(tmp_path)
    right = other_run(tmp_path, "capture"), other_run(tmp_path, "logit-lens")
    capture, lens = (
        other_run(tmp_path, "capture", **wrong),
        other_run(tmp_path, "logit-lens", **wrong),
    )
    for beside in ([capture, right[1]], [right[0], lens], [right[0]], []):
        assert words_of(run, beside).around([("one", 2)]) == [None]
    assert words_of(run, [capture, lens, *right]).around([("one", 2)]) != [None]


def test_a_damaged_file_is_passed_over(tmp_path: Path) -> None:
    with RunWriter("capture", {}, RunOptions(artifacts=tmp_path)) as out:
        out.start({"model": {"tokenizer": TOKENIZER}}, {})
        (out.path / "activations.h5").write_bytes(b"no HDF5")
        out.output("activations.h5")
    beside = [Run(out.path), other_run(tmp_path, "capture"), other_run(tmp_path, "logit-lens")]
    (found,) = words_of(sae_run(tmp_path), beside).around([("two", 0)])
    assert found == Context("", "b", "b")
