from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.sparse_acts import SparseAppender, assemble
from sdlms.structure.controls import control_subjects
from sdlms.structure.counting import document_counts
from sdlms.structure.subject import Subject, open_subject
from sdlms.structure.threshold_rule import AT_ZERO, AUTO
from sdlms.structure.thresholds import thresholds_of
from tests.acts.samples import Sample
from tests.acts.sparse_samples import entries_of, header_of, sparse_sample
from tests.structure.read_runs import brute_counts, captured

WORDS = ["--tasks", "qa,math", "--layers", "0,2", "--max-tokens", 900]
Capture = Callable[..., Run]


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    """Captures that are made once each."""
    artifacts = tmp_path_factory.mktemp("artifacts")
    made: dict[tuple[object, ...], Run] = {}

    def run(*words: object) -> Run:
        if words not in made:
            made[words] = captured(artifacts, *WORDS, *words)
        return made[words]

    return run


def opened(run: Run) -> Subject:
    return open_subject(run, "mlp_act", ("all",), AUTO)


def test_controls_have_the_same_documents_and_their_own_counts(capture: Capture) -> None:
    subject = opened(capture())
    runs = [capture("--control", name) for name in ("permute-tokens", "reinit")]
    found = control_subjects(subject, runs)
    assert list(found) == ["reinit", "permute-tokens"]
    assert [each.run for each in found.values()] == runs[::-1]
    own = document_counts(subject, 2, thresholds_of(subject, 2))
    for name, control in found.items():
        assert (control.control, control.layers, control.rule) == (name, [0, 2], subject.rule)
        assert control.documents.ids == subject.documents.ids
        limits = thresholds_of(control, 2)
        counts = document_counts(control, 2, limits)
        assert counts.counts.tolist() == brute_counts(control, 2, limits)
        assert np.array_equal(counts.tasks, own.tasks)
        assert not np.array_equal(counts.counts, own.counts)


def test_without_runs_there_are_none(capture: Capture) -> None:
    assert control_subjects(opened(capture()), []) == {}
    assert control_subjects(opened(capture("--control", "reinit")), []) == {}


def test_documents_come_in_the_order_of_the_model_itself(tmp_path: Path) -> None:
    texts = tmp_path / "corpus.jsonl"
    texts.write_text("".join(f'{{"text": "one two {"three " * n}"}}\n' for n in range(1, 12)))
    words = ["--texts", texts, "--layers", 0]
    subject = opened(captured(tmp_path, *words))
    run = captured(tmp_path, *words, "--control", "reinit", "--seed", 7, "--no-save")
    plain, found = opened(run), control_subjects(subject, [run])["reinit"]
    assert plain.documents.ids != subject.documents.ids == found.documents.ids
    counts = [document_counts(each, 0, thresholds_of(each, 0)) for each in (plain, found)]
    places = [plain.documents.ids.index(document) for document in found.documents.ids]
    assert np.array_equal(counts[0].counts[places], counts[1].counts)
    assert np.array_equal(counts[0].n_tokens[places], counts[1].n_tokens)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "is no control. Make one: sdlms capture --control reinit"),
        (("--control", "reinit", "--model", "sdlms-medium"), "their config differ"),
        (("--control", "permute-tokens", "--model", "sdlms-medium"), "their weights differ"),
        (("--control", "reinit", "--site", "resid_pre"), "no site 'mlp_act', but resid_pre"),
        (("--control", "reinit", "--layers", "0"), "layer 2 is not there"),
        (("--control", "reinit", "--max-tokens", "400"), "of the .* it lacks .* as they were"),
        (("--control", "reinit", "--tasks", "qa,prose"), "it lacks"),
        (("--control", "reinit", "--skip-first", "2"), "other numbers of tokens.*--skip-first"),
    ],
)
def test_a_run_that_is_no_control_of_it_is_one_line(
    capture: Capture, words: tuple[object, ...], said: str
) -> None:
    run = capture("--seed", "0") if not words else capture(*words)
    with pytest.raises(UserError, match=said) as caught:
        control_subjects(opened(capture()), [run])
    assert run.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_thresholds_of_a_run_without_activations_must_be_the_same(capture: Capture) -> None:
    subject = open_subject(capture(), None, ("all",), AT_ZERO)
    run = capture("--control", "reinit", "--no-save")
    with pytest.raises(UserError, match=r"are those of quantile_0\.9, not of zero"):
        control_subjects(subject, [run])


def test_there_is_one_control_of_a_kind(capture: Capture) -> None:
    runs = [capture("--control", "reinit"), capture("--control", "reinit", "--no-save")]
    with pytest.raises(UserError, match=r"are both reinit\. Name one of them"):
        control_subjects(opened(capture()), runs)


def test_a_control_has_no_controls(capture: Capture) -> None:
    reinit, permuted = (capture("--control", name) for name in ("reinit", "permute-tokens"))
    with pytest.raises(UserError, match=r"is a control itself \(reinit\).*own run by --acts"):
        control_subjects(opened(reinit), [permuted])


def test_documents_must_belong_to_the_same_tasks(capture: Capture) -> None:
    subject, control = opened(capture()), capture("--control", "reinit")
    swapped = replace(subject.documents, task_names=subject.documents.task_names[::-1])
    with pytest.raises(UserError, match=r"belong to other tasks.*Capture the same --tasks"):
        control_subjects(replace(subject, documents=swapped), [control])


def latents(artifacts: Path, data: Sample, control: str, **resolved: Any) -> Run:
    """A complete sae-latents run."""
    with RunWriter("sae-latents", {"seed": 0}, RunOptions(artifacts=artifacts)) as out:
        out.start({"model": {"name": "tiny", "n_layers": 8}, "site": "mlp_act", **resolved}, {})
        for layer, acts in data.acts.items():
            with SparseAppender(out.scratch, layer, 0, 0) as appender:
                appender.append(entries_of(acts))
        header = replace(header_of(data), control=control)
        assemble(out.path / "sparse_acts.h5", header, data.rows, out.scratch)
        out.output("sparse_acts.h5")
    return Run(out.path)


def test_of_latents_the_file_says_what_they_are_of(tmp_path: Path) -> None:
    data, other = (sparse_sample([9, 8, 7], seed, n_units=4) for seed in (1, 2))
    data = Sample(data.acts, other.rows)
    subject = open_subject(latents(tmp_path, data, "none"), None, ("all",), AUTO)
    (found,) = control_subjects(subject, [latents(tmp_path, other, "permute-tokens")]).values()
    zero = np.zeros(4, dtype=np.float32)
    counts = document_counts(found, 1, zero)
    assert counts.counts.tolist() == brute_counts(found, 1, zero)
    with pytest.raises(UserError, match=r"is no control\. .*, and its sae-latents"):
        control_subjects(subject, [latents(tmp_path, other, "none")])
    with pytest.raises(UserError, match=r"has latents of resid_post, .* of mlp_act"):
        control_subjects(subject, [latents(tmp_path, other, "reinit", site="resid_post")])


def test_stages_must_be_the_same(tmp_path: Path, capture: Capture) -> None:
    run = latents(tmp_path, sparse_sample([9, 8, 7]), "reinit")
    with pytest.raises(UserError, match=r"is a 'sae-latents' run, .* a 'capture' run"):
        control_subjects(opened(capture()), [run])
