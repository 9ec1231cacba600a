"""Runs beside are read once and checked; each question keeps its answer under its own name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdlms.dynamic import beside as besides
from sdlms.dynamic import latent_rows, specialist_rows
from sdlms.dynamic.beside import MOST_TOKENS, Beside, questions_of, read_beside, read_si
from sdlms.dynamic.latents import Autoencoders
from sdlms.dynamic.specialists import Specialized
from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.tables import write_table
from tests.dynamic.studies import study_of
from tests.stages.sae_runs import random_dictionary

RECORD = {"name": "tiny", "weights": {"model.safetensors": "aa"}, "reinit_seed": None}
COLUMNS = ["layer", "unit", "preferred_task", "q", "SI_adjusted", "dead", "rare", "community"]
NEURONS = np.arange(40)
SPECIALIZED = Specialized(
    "a run", ("math", "qa"), {1: [NEURONS[:2], NEURONS[2:4]]}, {1: NEURONS[4:]}
)


def si_run(folder: Path, q: float = 0.01, **resolved: Any) -> Run:
    """Of six neurons of layer 1, two of which are specialized where q is small."""
    rows = [
        {
            **{"layer": 1, "unit": unit, "preferred_task": ("math", "qa")[unit % 2]},
            **{"q": q if unit < 2 else 0.5, "SI_adjusted": 0.1, "dead": 0, "rare": 0},
            "community": unit // 3,
        }
        for unit in range(6)
    ]
    own = {"site": "mlp_act", "kind": "neuron", "control": "none", "tasks": ["math", "qa"]}
    options = RunOptions(artifacts=folder / "artifacts")
    with RunWriter("si-modularity", {"seed": 0, "graph": True}, options) as out:
        out.start({**own, "model": RECORD, **resolved}, {})
        write_table(out.path / "units.csv", COLUMNS, rows)
        out.output("units.csv", columns=COLUMNS)
    return Run(out.path)


def test_specialists_are_read_and_communities_where_a_rule_keeps_them(tmp_path: Path) -> None:
    run = si_run(tmp_path)
    specialized, blocks = read_si(run, RECORD, ["post-norm"], ["qa", "math", "prose"])
    assert blocks is None and specialized is not None
    assert specialized.task_names == ("math", "qa")
    assert [own.tolist() for own in specialized.sets[1]] == [[0], [1]]
    for rule in ("blocks", "blocks-random"):
        _, blocks = read_si(run, RECORD, ["post-norm", rule], ["qa", "math"])
        assert blocks is not None and blocks[1].tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("q", [0.01, 0.5])
def test_blocks_do_without_specialists_and_say_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, q: float
) -> None:
    run = si_run(tmp_path, q)
    tasks = ["prose"] if q < 0.05 else ["math", "qa"]
    specialized, blocks = read_si(run, RECORD, ["blocks"], tasks)
    assert specialized is None and blocks is not None
    assert "no specialized_units.csv: --si: " in caplog.text
    with pytest.raises(UserError, match="not evaluated" if q < 0.05 else "no specialized neuron"):
        read_si(run, RECORD, ["post-norm"], tasks)


@pytest.mark.parametrize(
    "resolved",
    [
        {"site": "sae_latents", "kind": "latent"},
        {"control": "reinit"},
        {"model": {**RECORD, "weights": {"model.safetensors": "bb"}}},
    ],
)
def test_a_run_of_something_else_is_refused_for_blocks_too(
    tmp_path: Path, resolved: dict[str, Any]
) -> None:
    run = si_run(tmp_path, **resolved)
    for rule in ("post-norm", "blocks"):
        with pytest.raises(UserError, match="--si"):
            read_si(run, RECORD, [rule], ["math", "qa"])


def test_what_is_not_named_is_none(tmp_path: Path) -> None:
    config = study_of(tmp_path).model.config
    found = read_beside({}, RECORD, config, ["post-norm"], ["math"])
    assert (found.runs, found.specialized, found.blocks, found.autoencoders) == (
        [],
        None,
        None,
        None,
    )
    run = si_run(tmp_path)
    found = read_beside({"si-modularity": run}, RECORD, config, ["blocks"], ["math", "qa"])
    assert found.runs == [run]
    assert (found.specialized is None, found.blocks is None) == (False, False)
    assert found.autoencoders is None


def test_a_question_is_answered_once(tmp_path: Path) -> None:
    study = study_of(tmp_path, seeds=(3, 4))
    encoders = Autoencoders("another", "mlp_act", {2: "first"}, {2: random_dictionary(0, 40)})
    questions = questions_of(Beside([], SPECIALIZED, None, encoders), study, 0)
    assert [each.file for each in questions] == ["specialized_units.csv", "latents.csv"]
    assert [each.columns for each in questions] == [specialist_rows.COLUMNS, latent_rows.COLUMNS]
    for each in questions:
        part = each.measure(study, "post-norm", 0.25)
        assert (part["rule"], part["keep"]) == ("post-norm", 0.25)
        assert study.parts.has(f"3_post-norm_0.25_{each.file.removesuffix('.csv')}")  # first seed's
        assert each.measure(study, "post-norm", 0.25) == part
        rows = list(each.rows([part], 0))
        assert rows and all(list(row) == each.columns for row in rows)
    assert questions_of(Beside([], None, None, None), study, 0) == []


def test_at_keep_one_a_question_is_asked_once_for_all_rules(tmp_path: Path) -> None:
    study = study_of(tmp_path, rules=("post-norm", "random"))
    (question,) = questions_of(Beside([], SPECIALIZED, None, None), study, 0)
    parts = [question.measure(study, rule, 1.0) for rule in study.settings.rules]
    assert [part.pop("rule") for part in parts] == ["post-norm", "random"]
    assert parts[0] == parts[1]
    found = {path.stem for path in (tmp_path / "parts").iterdir()}
    assert found == {"3_dense_specialized_units"}


def test_a_question_reads_no_more_than_the_first_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_scored = int(study_of(tmp_path).drawn[3].windows.scored.sum())
    assert all_scored < MOST_TOKENS
    counts = {}
    for most in (MOST_TOKENS, 12):
        study = study_of(tmp_path / str(most))
        monkeypatch.setattr(besides, "MOST_TOKENS", most)
        (question,) = questions_of(Beside([], SPECIALIZED, None, None), study, 0)
        counts[most] = sum(question.measure(study, "post-norm", 0.25)["tokens"])
    assert counts == {MOST_TOKENS: all_scored, 12: 30}  # three windows of five, of two tasks
