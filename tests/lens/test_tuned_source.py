"""The tuned lens of a run: found, trained once, and never on what is measured."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from sdlms.errors import UserError
from sdlms.lens import tuned_source
from sdlms.lens.tuned import Tuned
from sdlms.lens.tuned_files import read_documents, write_tuned
from sdlms.lens.tuned_source import Places, find_tuned, trained, training_text
from sdlms.lens.tuning import TuningSettings
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from tests.lens.lens_files import rows_of
from tests.models.tiny_models import random_model

RECORD = {"name": "tiny", "revision": None, "n_layers": 3, "weights": {"a": "b"}}
TUNED = Tuned(torch.randn(3, 16, 16), torch.randn(3, 16))
ROWS = rows_of([9, 5, 0, 12], ["a"] * 4, masked=0.0)


def run_of(stage: str, artifacts: Path, *, has_lens: bool) -> Run:
    """A finished run."""
    with RunWriter(stage, {}, RunOptions(artifacts=artifacts)) as out:
        out.start({}, {})
        for name in write_tuned(out.path / "tuned_lens", TUNED, RECORD) if has_lens else ():
            out.output(f"tuned_lens/{name}")
    return Run(out.path)


def test_a_folder_is_a_lens(tmp_path: Path) -> None:
    write_tuned(tmp_path / "lens", TUNED, RECORD)
    saved = find_tuned(tmp_path / "artifacts", str(tmp_path / "lens"))
    assert saved.run is None
    assert torch.equal(saved.read(RECORD, 16).weight, TUNED.weight)
    record = saved.record()
    assert (record["run"], record["folder"]) == (None, str(tmp_path / "lens"))
    assert set(record["files"]) == {"config.json", "translators.safetensors"}
    write_tuned(tmp_path / "lens", Tuned(TUNED.weight + 1, TUNED.bias), RECORD)
    assert saved.record()["files"] != record["files"]


def test_what_is_no_folder_is_said_to_be_none(tmp_path: Path) -> None:
    write_tuned(tmp_path / "lens", TUNED, RECORD)
    with pytest.raises(UserError, match=f"is a file. Name the folder of its lens: {tmp_path}/lens"):
        find_tuned(tmp_path, str(tmp_path / "lens/config.json"))
    with pytest.raises(UserError, match=r"--tuned-lens .*/absent: no such folder"):
        find_tuned(tmp_path, str(tmp_path / "absent"))


def test_a_run_that_trained_one_is_a_lens(tmp_path: Path) -> None:
    for has_lens in (False, True):
        run = run_of("logit-lens", tmp_path, has_lens=has_lens)
        if not has_lens:
            with pytest.raises(UserError, match=f"{run.name} trained no lens"):
                find_tuned(tmp_path, run.name)
            continue
        for word in (run.name, str(run.path), f"{run.path}/tuned_lens", "latest"):
            saved = find_tuned(tmp_path, word)
            assert saved.run is not None and saved.run.name == run.name
            assert torch.equal(saved.read(RECORD, 16).bias, TUNED.bias)
            record = saved.record()
            assert (record["run"], record["folder"]) == (run.name, None)  # however it was named
    with pytest.raises(UserError, match="no run 'absent'"):
        find_tuned(tmp_path, "absent")


def test_the_latest_is_the_newest_that_trained_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sdlms")
    message = "--tuned-lens latest: no completed 'logit-lens' run under .* trained a lens"
    run_of("logit-lens", tmp_path, has_lens=False)
    with pytest.raises(UserError, match=message):
        find_tuned(tmp_path, "latest")
    run_of("logit-lens", tmp_path, has_lens=True)
    newest = run_of("logit-lens", tmp_path, has_lens=True)
    run_of("logit-lens", tmp_path, has_lens=False)
    run_of("capture", tmp_path, has_lens=True)
    found = find_tuned(tmp_path, "latest").run
    assert found is not None and found.name == newest.name
    assert f"latest tuned lens: {newest.name}" in caplog.text


def test_documents_that_are_measured_are_left_out() -> None:
    text = training_text(ROWS, [ROWS.document_ids[0], "another"], [{"task": "a"}])
    assert text.rows.document_ids == ROWS.document_ids[1:]
    assert text.record() == {
        "data": [{"task": "a"}], "n_documents": 3, "n_tokens": 17, "n_measured": 1,
    }  # fmt: skip
    with pytest.raises(UserError, match="all 4 documents of --tuned-tasks are measured too"):
        training_text(ROWS, ROWS.document_ids, [])


def test_a_lens_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("gpt_neox-parallel", AutoModelForCausalLM)
    settings = TuningSettings(steps=2, step_tokens=20, seed=0, on_halved=lambda what, left: None)
    text = training_text(ROWS, [], [])
    (tmp_path / "scratch").mkdir()
    places = Places(tmp_path / "tuned_lens", tmp_path / "scratch")
    tuned = trained(model, text, settings, places, RECORD)
    assert read_documents(places.lens) == frozenset(ROWS.document_ids)
    assert (tuned.weight != 0).any()
    monkeypatch.delattr(tuned_source, "train_tuned")
    again = trained(model, text, settings, places, RECORD)
    assert torch.equal(tuned.weight, again.weight) and torch.equal(tuned.bias, again.bias)
