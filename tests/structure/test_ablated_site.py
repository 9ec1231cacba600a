"""What can be ablated is known before anything slow; what cannot is one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sdlms.acts import load_acts
from sdlms.errors import UserError
from sdlms.models.recorded import load_recorded_causal_model
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.sae.cross_entropy import Scoring
from sdlms.structure.ablated_site import AblatedSite, check_ablatable
from tests.stages.sae_runs import random_dictionary
from tests.structure.ablated_runs import (
    WIDTH,
    captured,
    latents_of_folder,
    latents_of_run,
    stored,
)

CPU = torch.device("cpu")
NONE = np.empty(0, dtype=np.int64)
SITES = ("--site", "mlp_act,resid_post", "--layers", "1,2")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Run:
    """A capture that no test damages; its folder takes other runs."""
    return captured(tmp_path_factory.mktemp("shared"), tiny_model, *SITES)


@pytest.fixture
def model(tiny_model: Path, work: Path) -> Path:
    """A folder that a test may damage."""
    shutil.copytree(tiny_model, work / "model")
    return work / "model"


def refusal(run: Run, site: str | None = None, layers: tuple[int, ...] = (1,)) -> str:
    with pytest.raises(UserError) as error:
        check_ablatable(run, site, layers)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_capture_says_what_it_holds(shared: Run) -> None:
    found = check_ablatable(shared, "mlp_act", [1, 2])
    assert (found.site, found.acts_site, found.trained) == ("mlp_act", "mlp_act", {})
    assert found.rows.n_tokens == len(stored(shared, "/tokens/ids"))
    for name, values in (("ids", found.rows.ids), ("mask", found.rows.mask)):
        assert np.array_equal(values, stored(shared, f"/tokens/{name}"))
    assert np.array_equal(found.rows.offsets, stored(shared, "/tokens/offsets"))
    tasks = stored(shared, "/documents/task").tolist()
    assert [task.encode() for task in found.rows.document_tasks] == tasks
    assert "or --site mlp_act" in refusal(shared)


def assert_nothing_changes(found: AblatedSite, layer: int) -> None:
    """Holding no unit leaves every loss as it is, to the last bit."""
    model = load_recorded_causal_model(found.model, torch.float32, CPU)
    hold = found.holding(layer, CPU)
    losses = Scoring(model, found.rows, 512).losses(
        found.site, layer, [hold(NONE), hold(np.array([0, 7]))]
    )
    assert np.array_equal(losses.replaced[0], losses.clean)
    assert not np.array_equal(losses.replaced[1], losses.clean)


@pytest.mark.parametrize("site", ["mlp_act", "resid_post"])
def test_no_unit_is_no_change(shared: Run, site: str) -> None:
    assert_nothing_changes(check_ablatable(shared, site, [2]), 2)


def test_latents_of_a_run_find_their_autoencoders(shared: Run) -> None:
    run = latents_of_run(shared.path.parents[1], shared, (1, 2))
    found = check_ablatable(run, None, [1, 2])
    assert (found.site, found.acts_site, list(found.trained)) == (
        "resid_post",
        "sae_latents",
        [1, 2],
    )
    assert_nothing_changes(found, 2)


def test_latents_of_a_folder_find_theirs(work: Path, shared: Run) -> None:
    run = latents_of_folder(work, shared, 1)
    found = check_ablatable(run, "sae_latents", [1])
    assert found.trained[1].folder == work / "one-sae"
    assert_nothing_changes(found, 1)


def test_fresh_weights_may_be_ablated(work: Path, model: Path) -> None:
    run = captured(work, model, *SITES, "--control", "reinit", "--seed", 5)
    assert_nothing_changes(check_ablatable(run, "mlp_act", [1]), 1)


def test_shuffled_tokens_may_not(work: Path, model: Path) -> None:
    acts = captured(work, model, *SITES, "--control", "permute-tokens")
    for run in (acts, latents_of_run(work, acts, (1,))):
        found = refusal(run, None if run is not acts else "mlp_act")
        assert found.startswith(f"{run.name} is of shuffled tokens, whose loss says nothing")
        assert found.endswith("Or leave --ablate out.")


def test_an_encoder_predicts_nothing(work: Path, architecture_model: Callable[[str], Path]) -> None:
    run = captured(work, architecture_model("bert"), "--layers", 1)
    assert "'bert' is an encoder" in refusal(run)


def test_a_capture_that_kept_nothing_has_no_means(work: Path, model: Path) -> None:
    assert "Capture without --no-save" in refusal(captured(work, model, "--no-save"))


def test_pooled_activations_have_no_tokens(work: Path, shared: Run) -> None:
    options = RunOptions(artifacts=work / "artifacts", label="pooled")
    with RunWriter("capture", {}, options) as out:
        out.start(shared.start["resolved"], {})
        load_acts(shared, "mlp_act").mean_pool().save(out.path / "activations.h5")
        out.output("activations.h5")
    assert "holds pooled activations" in refusal(Run(out.path))


def test_every_shard_of_the_weights_is_missed(work: Path, model: Path) -> None:
    run = captured(work, model, "--layers", 1)
    (model / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00001.safetensors is gone from" in refusal(run)


def test_a_model_that_is_gone_or_other_is_missed_at_once(work: Path, model: Path) -> None:
    run = captured(work, model, "--layers", 1)
    (model / "model.safetensors").rename(work / "weights")
    assert "no *.safetensors weights" in refusal(run)
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    assert "config.json in" in refusal(run)
    shutil.rmtree(model)
    found = refusal(run)
    assert f"its folder {model} is gone" in found
    assert found.endswith("Or leave --ablate out.")


def test_an_autoencoder_that_is_gone_or_other_is_missed_at_once(work: Path, shared: Run) -> None:
    run = latents_of_folder(work, shared, 1)
    for name in ("cfg.json", "sae_weights.safetensors"):
        file = work / "one-sae" / name
        own = file.read_bytes()
        file.write_bytes(own + b" ")
        assert "the files of this SAE changed since" in refusal(run)
        file.write_bytes(own)
    shutil.rmtree(work / "one-sae")
    assert f"the SAE of {run.name}, layer 1, is gone" in refusal(run)


def test_a_run_of_autoencoders_that_is_gone_is_missed_at_once(work: Path, model: Path) -> None:
    run = latents_of_run(work, captured(work, model, *SITES), (1,))
    (trainings,) = (work / "artifacts").glob("*sae-train*")
    trainings.rename(work / "elsewhere")
    assert refusal(run).startswith(f"no run '{trainings.name}' under")


def test_latents_are_held_at_their_own_mean(shared: Run) -> None:
    """What takes their place decodes to the change from each latent to its mean."""
    found = check_ablatable(latents_of_run(shared.path.parents[1], shared, (2,)), None, [2])
    kept = stored(shared, "/tokens/mask") > 0
    rows = torch.from_numpy(stored(shared, "/resid_post/layer_2")[kept])
    dictionary = random_dictionary(2, 24, WIDTH)
    latents = dictionary.encode(rows)
    own = np.array([4, 9])
    change = (latents.mean(0) - latents)[:, own] @ dictionary.decoder[own]
    assert change.abs().max() > 0.01
    after = found.holding(2, CPU)(own)(rows)
    torch.testing.assert_close(after, rows + change, rtol=1e-4, atol=1e-5)
