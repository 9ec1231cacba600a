"""What is trained on: a capture or a model, and what is asked of either before it is read."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdlms.errors import UserError
from sdlms.models.inputs import Inputs, read_inputs, read_model
from sdlms.models.loading import find_model, load_config
from sdlms.models.recorded import model_record
from sdlms.models.tokens import Budget, Text
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.sae.subject import Subject, captured_subject, live_subject
from tests.acts.samples import Sample, sample, write_sample
from tests.sae.sweeps import CPU

WORDS = "the quick brown fox jumps over the lazy dog and on it goes".split()


def capture(work: Path, model: Path, site: str = "resid_post", n_units: int = 24) -> Run:
    """Random activations of some documents, said to be of layers 1 and 3 of a model."""
    source = find_model(str(model), None)
    with RunWriter("capture", {"seed": 0}, RunOptions(artifacts=work / "artifacts")) as out:
        out.start({"model": model_record(source, load_config(source))}, {})
        data: Sample = sample([4, 7, 5], layers=(1, 3), n_units=n_units)
        write_sample(out.path / "activations.h5", data, site)
        out.output("activations.h5")
    return Run(out.path)


def inputs_of(model: Path) -> Inputs:
    source, config = read_model(str(model), None)
    texts = [Text(f"id{i}", "task", " ".join(WORDS[: 3 + i])) for i in range(8)]
    return read_inputs(source, config, [texts], Budget(1000, 0, 0))


@pytest.fixture
def model(tiny_model: Path, work: Path) -> Path:
    shutil.copytree(tiny_model, work / "model")
    return work / "model"


def test_a_capture_says_what_it_holds(work: Path, model: Path) -> None:
    run = capture(work, model)
    found = captured_subject(run, None, None, needs_model=True)
    assert (found.site, found.layers, found.n_units, found.d_model) == (
        "resid_post",
        [1, 3],
        24,
        24,
    )
    assert found.rows.document_ids == sample([4, 7, 5]).rows.document_ids
    assert (found.run, found.inputs) == (run, None)
    assert found.load_base(torch.float32, CPU) is None
    acts = found.acts(None)
    assert (acts.dims, acts.layers, acts.n_documents) == ("blsh", (1, 3), 3)


@pytest.mark.parametrize(
    ("words", "expected"), [(["3"], [3]), (["25%"], [1]), (["75%", "1"], [1, 3])]
)
def test_layers_may_be_chosen(
    work: Path, model: Path, words: list[str], expected: list[int]
) -> None:
    found = captured_subject(capture(work, model), None, words, needs_model=False)
    assert sorted(found.layers) == found.layers == expected
    assert found.acts(None).layers == tuple(expected)


def test_a_layer_that_is_not_there_is_named(work: Path, model: Path) -> None:
    run = capture(work, model)
    with pytest.raises(UserError, match=r"layer 2 is not there; \S+ holds layers 1, 3.$"):
        captured_subject(run, None, ["1", "2"], needs_model=False)
    with pytest.raises(UserError, match="resid_pre"):
        captured_subject(run, "resid_pre", None, needs_model=False)


def test_the_expansion_of_neurons_is_of_the_hidden_size(work: Path, model: Path) -> None:
    run = capture(work, model, "mlp_act", 64)
    assert captured_subject(run, None, None, needs_model=False).d_model == 24
    model.rename(work / "elsewhere")
    subject = captured_subject(run, None, None, needs_model=False)
    with pytest.raises(UserError, match="is gone"):
        assert subject.d_model


def test_a_model_that_is_gone_is_missed_where_it_is_needed(work: Path, model: Path) -> None:
    run = capture(work, model)
    model.rename(work / "elsewhere")
    assert captured_subject(run, None, None, needs_model=False).d_model == 24
    with pytest.raises(UserError, match=r"is gone\. .* Or leave .*: --ce-tokens 0\.$"):
        captured_subject(run, None, None, needs_model=True)


def test_other_weights_are_refused_when_they_are_loaded(work: Path, model: Path) -> None:
    subject = captured_subject(capture(work, model), None, None, needs_model=True)
    assert subject.load_causal(torch.float32, CPU).get_output_embeddings() is not None
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match=r"model.safetensors in .* changed .*--ce-tokens 0\.$"):
        subject.load_causal(torch.float32, CPU)


def test_an_encoder_serves_where_nothing_is_predicted(
    work: Path, architecture_model: Callable[[str], Path]
) -> None:
    bert = architecture_model("bert")
    with pytest.raises(UserError, match=r"'bert' is an encoder.*--ce-tokens 0\.$"):
        captured_subject(capture(work, bert), None, None, needs_model=True)
    with pytest.raises(UserError, match=r"'bert' is an encoder.*--ce-tokens 0\.$"):
        live_subject(inputs_of(bert), "resid_post", [1], needs_model=True)
    found = live_subject(inputs_of(bert), "resid_post", [1], needs_model=False)
    assert found.acts(found.load_base(torch.float32, CPU)).layers == (1,)


@pytest.mark.parametrize(("site", "n_units"), [("resid_post", 24), ("mlp_act", 64)])
def test_a_model_runs_while_it_is_read(model: Path, site: str, n_units: int) -> None:
    """With or without its head the activations are the same."""
    subject = live_subject(inputs_of(model), site, [2, 1], needs_model=True)  # type: ignore[arg-type]
    assert (subject.site, subject.layers, subject.n_units) == (site, [1, 2], n_units)
    assert (subject.d_model, subject.run) == (24, None)
    assert subject.model["weights"].keys() == {"model.safetensors"}
    assert_same_activations(subject)


def assert_same_activations(subject: Subject) -> None:
    base, causal = (
        subject.acts(load(torch.float32, CPU)).realize()
        for load in (subject.load_base, subject.load_causal)
    )
    assert base.layers == causal.layers == tuple(subject.layers)
    assert base.n_documents == subject.rows.n_documents == 8
    assert base.tensor.isfinite().all()
    torch.testing.assert_close(base.tensor, causal.tensor)
