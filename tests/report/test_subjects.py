from pathlib import Path
from typing import Any

from sdlms.report.html import markup_of
from sdlms.report.subjects import data_table, models_table, software
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from tests.report.test_html import HOSTILE, Seen

MODEL = {
    **{"name": "small", "revision": "main", "commit": None, "reinit_seed": None},
    **{"model_type": "gpt_neox", "n_layers": 3, "n_parameters": 379_824},
    **{"config": {"config.json": "c0"}, "weights": {"a.safetensors": "a1", "b.safetensors": "b2"}},
    "tokenizer": {"tokenizer.json": "d3"},
}
TASK = {"task": "math", "sources": {"all.jsonl": "e4", "math.jsonl": "f5"}, "datasets": []}


def run_of(artifacts: Path, **resolved: Any) -> Run:
    with RunWriter("tiny", {}, RunOptions(artifacts=artifacts)) as out:
        out.start(resolved, {})
    return Run(out.path)


def test_every_model_stands_once_with_its_hashes(tmp_path: Path) -> None:
    fresh = {**MODEL, "reinit_seed": 0, "weights": {"state": "g6"}}
    runs = [run_of(tmp_path, model=model) for model in (MODEL, MODEL, fresh)]
    seen = Seen(markup_of(models_table(runs)))
    assert seen.tags.count("tr") == 3
    assert all(digest in seen.text for digest in ("c0", "a1", "b2", "d3", "g6"))
    assert "379,824" in seen.text
    assert seen.text.count("fresh weights of seed 0") == 1


def test_every_source_stands_once_with_its_tasks(tmp_path: Path) -> None:
    other = {**TASK, "task": "qa", "sources": {"all.jsonl": "e4", "qa.jsonl": "h7"}}
    hub = {"dataset": "owner/name", "split": "train", "commit": "i8", "sha256": "j9"}
    runs = [
        run_of(tmp_path, data=[TASK, other]),
        run_of(tmp_path, data=[{**TASK, "datasets": [hub]}]),
        run_of(tmp_path),
    ]
    seen = Seen(markup_of(data_table(runs)))
    assert seen.tags.count("tr") == 1 + 4
    assert "math, qa" in seen.text
    assert all(word in seen.text for word in ("e4", "f5", "h7", "owner/name", "train", "i8", "j9"))


def test_nothing_is_said_to_be_none(tmp_path: Path) -> None:
    runs = [run_of(tmp_path)]
    assert markup_of(models_table(runs)) == markup_of(data_table(runs)) == "none"


def test_names_of_models_and_files_are_text(tmp_path: Path) -> None:
    model = {**MODEL, "name": HOSTILE, "weights": {HOSTILE: "a1"}}
    task = {"task": HOSTILE, "sources": {HOSTILE: HOSTILE}, "datasets": [{HOSTILE: HOSTILE}]}
    runs = [run_of(tmp_path, model=model, data=[task])]
    assert "script" not in Seen(markup_of([models_table(runs), data_table(runs)])).tags


def test_runs_of_one_environment_share_a_column(tmp_path: Path) -> None:
    runs = [run_of(tmp_path), run_of(tmp_path)]
    seen = Seen(markup_of(software(runs)))
    assert seen.tags.count("th") == 2
    assert all(run.name in seen.text for run in runs)
    assert runs[0].start["packages"]["torch"] in seen.text
    runs[1].start["packages"]["torch"] = "0.0"
    assert Seen(markup_of(software(runs))).tags.count("th") == 3
