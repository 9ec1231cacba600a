"""The public door: handles over models, runs and files, under both families of names."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

import sdlms.acts
from sdlms.acts import (
    Acts,
    collect,
    collect_activations,
    load_activations,
    load_acts,
    tokens_of,
)
from sdlms.errors import UserError
from tests.acts.samples import sample, write_sample
from tests.conftest import Cli
from tests.models.tiny_models import random_model

TEXTS = ["The river turned north.", "Yes", "It carried boats<|endoftext|> past farms."]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return random_model("gpt2")


def test_other_names_mean_the_same() -> None:
    assert collect_activations is collect
    assert load_activations is load_acts
    assert set(sdlms.acts.__all__) <= set(dir(sdlms.acts))


def test_one_layer_drops_its_axis(model: PreTrainedModel) -> None:
    tokens = [[1, 2, 3], [4]]
    for one in (1, np.int64(1)):
        acts = collect(model, tokens, layers=one)  # type: ignore[arg-type]
        assert (acts.dims, acts.layers, acts.shape) == ("bsh", (1,), (2, 3, 16))
    for several, expected in (([1], (1,)), ((2, 0), (2, 0)), ("all", (0, 1, 2)), ("1", (1,))):
        acts = collect(model, tokens, layers=several)
        assert (acts.dims, acts.layers) == ("blsh", expected)
    assert torch.equal(
        collect(model, tokens, layers=[2, 0]).realize().tensor,
        collect(model, tokens, layers=[0, 2]).realize().tensor.flip(1),
    )


def test_the_usual_layers_and_site(model: PreTrainedModel) -> None:
    acts = collect(model, [[1, 2]])
    assert (acts.site, acts.layers, acts.dtype) == ("resid_post", (1, 2), torch.bfloat16)


def test_nothing_is_run_before_it_is_asked_for(model: PreTrainedModel) -> None:
    acts = collect(model, [[1, 2], [3]], layers="all").mean_pool()
    acts.explain()
    assert acts._source.n_forwards == 0  # type: ignore[attr-defined]
    acts.realize()
    assert acts._source.n_forwards == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"store_dtype": "float64"}, "store_dtype 'float64' is none of float16, bfloat16, float32"),
        ({"tokens": None}, "a list of token ids is needed for each document"),
        ({"model": 3}, "collect: 3 is no transformers model"),
        ({"site": "nowhere"}, "site 'nowhere' is none of"),
        ({"layers": 3}, "there is no layer 3"),
        ({"layers": [1, 1]}, "names a layer twice"),
        ({"layers": []}, "neither an index|no layer"),
        ({"layers": "half"}, "'half' is neither an index"),
        ({"tokens": [[99]]}, "token ids must be 0 to 49"),
        ({"tokens": [[1] * 33]}, "has 33 tokens; the model reads 32"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(
    model: PreTrainedModel, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        collect(**{"model": model, "tokens": [[1]], **options})  # type: ignore[arg-type]
    assert "\n" not in str(refused.value)


# Texts


def test_texts_are_cut_as_the_models_tokenizer_does(tiny_model: Path) -> None:
    rows = tokens_of(str(tiny_model), TEXTS, ["a", "b", "a"])
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for document, text in enumerate(TEXTS):
        ids = rows.ids[rows.offsets[document] : rows.offsets[document + 1]]
        assert ids.tolist() == tokenizer(text)["input_ids"]
    assert rows.document_tasks == ["a", "b", "a"]
    assert all(len(name) == 16 for name in rows.document_ids)
    special = rows.ids == tokenizer.eos_token_id
    assert special.sum() == 1
    assert np.array_equal(rows.mask == 0, special)


def test_long_texts_are_cut_and_that_is_said(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = tokens_of(str(tiny_model), ["word " * 500, "short"])
    assert rows.lengths.max() == 96
    assert "1 of 2 documents are longer than the context" in caplog.text


def test_texts_go_through_a_model_by_name(tiny_model: Path) -> None:
    rows = tokens_of(str(tiny_model), TEXTS)
    by_name = collect(str(tiny_model), rows, layers=[1], store_dtype="float32").mean_pool()
    loaded = AutoModel.from_pretrained(tiny_model, dtype=torch.float32).eval()
    given = collect(loaded, rows, layers=[1], store_dtype="float32").mean_pool()
    found, expected = by_name.realize().tensor, given.realize().tensor
    close = 1e-5 if by_name._source._model.dtype == torch.float32 else 0.2  # type: ignore[attr-defined]
    torch.testing.assert_close(found, expected, rtol=close, atol=close)
    assert by_name.document_ids == rows.document_ids


@pytest.mark.parametrize(
    ("texts", "tasks", "message"),
    [
        (["a", ""], None, "tokens_of: text 1 is empty"),
        ([], None, "tokens_of: there are no texts"),
        (["a"], ["x", "y"], "tokens_of: 2 tasks for 1 texts"),
        ("hello", None, "tokens_of: a list of texts is needed, got 'hello'"),
        (None, None, "tokens_of: a list of texts is needed, got None"),
        (["a", "b"], "xy", "tokens_of: a list of tasks is needed, got 'xy'"),
        (["a", None], None, "tokens_of: text 1 is no text, but a NoneType"),
    ],
)
def test_texts_that_cannot_be_used_are_one_clear_line(
    tiny_model: Path, texts: list[str], tasks: list[str] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tokens_of(str(tiny_model), texts, tasks)


def test_an_unknown_model_is_one_clear_line() -> None:
    for call in (
        lambda: tokens_of("no-such-model", ["a"]),
        lambda: collect("no-such-model", [[1]]),
    ):
        with pytest.raises(UserError) as refused:
            call()
        assert "\n" not in str(refused.value) and "no-such-model" in str(refused.value)


# Runs and files


def test_a_saved_file_is_loaded_by_its_path(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.h5", sample([3, 4]))
    for reference in (path, str(path)):
        assert load_acts(reference).shape == (2, 3, 4, 3)


def test_a_run_of_the_command_line_is_what_its_model_computes(cli: Cli, tiny_model: Path) -> None:
    """Activations of a run, and those of the same model over the run's own tokens."""
    from sdlms.runs.reading import list_runs
    from sdlms.storage.activations import ActivationsReader

    arguments = ["--model", tiny_model, "--max-tokens", 300, "--dtype", "float32", "--threads", 1]
    arguments += ["--site", "mlp_act,resid_post", "--layers", "0,3", "--store-dtype", "float32"]
    assert cli("capture", *arguments, "--quiet") == 0
    (run,) = list_runs(Path("artifacts"))
    loaded = AutoModel.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with ActivationsReader(run.path / "activations.h5") as reader:
        rows = reader.rows()
    for site in ("mlp_act", "resid_post"):
        live = collect(loaded, rows, [0, 3], site, "float32")
        for reference in ("latest", run.name, run.path, run):
            disk = load_acts(reference, site)
            assert (disk.layers, disk.document_ids) == (live.layers, live.document_ids)
        for build in (lambda a: a, lambda a: a.mean_pool(), lambda a: a.max_pool("l").last_pool()):
            torch.testing.assert_close(
                build(disk).realize().tensor, build(live).realize().tensor, rtol=1e-5, atol=1e-5
            )
    with pytest.raises(UserError, match="holds the sites mlp_act, resid_post; choose one"):
        load_acts("latest")
    with pytest.raises(UserError, match="holds no site 'mlp_out'"):
        load_acts("latest", "mlp_out")
    assert cli("capture", *arguments, "--no-save", "--quiet") == 0
    with pytest.raises(UserError, match=r"holds no activations.h5. Capture without --no-save"):
        load_acts("latest")


def test_runs_are_looked_for_where_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDLMS_ARTIFACTS", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match=r"under .*elsewhere/. Make one: sdlms capture"):
        load_acts("latest")
    with pytest.raises(UserError, match=r"under .*here/"):
        load_acts("latest", artifacts=tmp_path / "here")


def test_a_folder_of_runs_may_be_text(tmp_path: Path) -> None:
    for folder in (tmp_path, str(tmp_path)):
        with pytest.raises(UserError, match=f"no completed 'capture' run under {tmp_path}/"):
            load_acts("latest", artifacts=folder)


@pytest.mark.parametrize(
    ("reference", "message"), [("", "no run is named"), (3, "a run, a path or a name is needed")]
)
def test_what_names_no_run_is_one_clear_line(tmp_path: Path, reference: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_acts(reference, artifacts=tmp_path)


def test_reading_a_file_imports_no_transformers(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "a.h5", sample([3, 4]))
    program = (
        "import sys\n"
        "from sdlms.acts import Acts, collect, load_acts, tokens_of\n"
        f"acts = load_acts({str(path)!r}).mean_pool()\n"
        f"acts.save({str(tmp_path / 'b.h5')!r})\n"
        f"acts.cache({str(tmp_path / 'c.h5')!r}).realize()\n"
        "heavy = [name for name in ('transformers', 'sae_lens', 'pandas', 'sklearn')"
        " if name in sys.modules]\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_handles_are_acts(tmp_path: Path, model: PreTrainedModel) -> None:
    assert isinstance(load_acts(write_sample(tmp_path / "a.h5", sample([3]))), Acts)
    assert isinstance(collect(model, [[1]]), Acts)
