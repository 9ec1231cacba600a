"""What is said before a run begins, and what of it the run keeps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sdlms.lens.announcing import announce
from sdlms.lens.study import Study
from sdlms.lens.tuned import Tuned
from sdlms.lens.tuned_files import write_tuned
from sdlms.lens.tuned_source import Saved, TrainingText
from sdlms.models.device import decisions
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from tests.lens.studies import ROWS, small_study

CPU = torch.device("cpu")
DECIDED = {**decisions(CPU, "float32", 1), "batch_tokens": 9, "unembed": "bfloat16"}
TUNED = Tuned(torch.zeros(3, 48, 48), torch.zeros(3, 48))


def announced(study: Study, artifacts: Path) -> Run:
    """A run of which nothing but the announcement was made."""
    with RunWriter("logit-lens", {}, RunOptions(artifacts=artifacts)) as out:
        out.start({}, {})
        announce(study, DECIDED, out)
    return Run(out.path)


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ({"backend": "compiled", "backend_reason": None}, "in bfloat16 by the compiled kernel"),
        ({"backend": "torch", "backend_reason": "no disk"}, "kernel, torch instead: no disk"),
    ],
)
def test_what_surrounds_the_product_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, backend: dict[str, str | None], said: str
) -> None:
    caplog.set_level("INFO", "sdlms")
    with RunWriter("logit-lens", {}, RunOptions(artifacts=tmp_path)) as out:
        out.start({}, {})
        announce(small_study(), {**DECIDED, **backend}, out)
    assert said in caplog.text


def test_what_is_measured_and_cut_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "sdlms")
    run = announced(replace(small_study(), training=TrainingText(ROWS, 2, [])), tmp_path)
    assert "logit and tuned lens at 3 states; 100 tokens in 2 documents" in caplog.text
    assert "unembedding in bfloat16" in caplog.text
    assert "--tuned: 2 documents are measured too" in caplog.text
    (event,) = run.all_of("document_truncated")
    assert event["tokens_cut"] == {ROWS.document_ids[0]: 7}
    assert run.all_of("tuned_lens_overlap") == []


@pytest.mark.parametrize(
    ("documents", "count", "said"),
    [
        (None, None, "--tuned-lens: it does not say which text it was trained on."),
        (["f" * 16], 0, ""),
        (["f" * 16, ROWS.document_ids[0]], 1, "--tuned-lens: 1 of 2 documents are what it was"),
    ],
)
def test_a_lens_on_its_own_training_text_is_doubted(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    documents: list[str] | None,
    count: int | None,
    said: str,
) -> None:
    record = {"name": "m", "revision": None, "weights": {}}
    write_tuned(tmp_path / "lens", TUNED, record, documents)
    saved = replace(small_study(), saved=(Saved(tmp_path / "lens", None), TUNED))
    (event,) = announced(saved, tmp_path / "artifacts").all_of("tuned_lens_overlap")
    assert (event["count"], event["n_documents"]) == (count, 2)
    assert said in caplog.text and ("--tuned-lens" in caplog.text) == bool(said)
