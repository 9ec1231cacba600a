import json
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file

from sdlms.sae.dictionary import config_of, dictionary_of, load_dictionary
from sdlms.sae.lens_check import check_loads, loaded_by_lens, without_traces
from sdlms.sae.lens_learner import LensLearner
from sdlms.sae.recipe import KINDS, Kind
from sdlms.storage.sae_files import CONFIG, WEIGHTS, write_sae
from tests.sae.small_saes import small_batches, small_recipe, small_start

METADATA = {"model_name": "tiny", "layer": 2, "capture": {"run": "20261120_143022_capture"}}
SCALE = 0.5


def saved(folder: Path, kind: Kind) -> Path:
    learner = LensLearner(small_recipe(kind), small_start(kind), torch.float32, torch.device("cpu"))
    for acts in small_batches(20):
        learner.step(acts)
    learner.calibrate(torch.cat(small_batches(20)))
    dictionary = dictionary_of(learner.recipe, learner.weights(), SCALE)
    arrays = {name: tensor.numpy() for name, tensor in dictionary.tensors.items()}
    write_sae(folder, arrays, config_of(dictionary, METADATA))
    return folder


def acts() -> torch.Tensor:
    return small_batches(1, seed=8)[0] / SCALE


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_and_saved_is_loaded_by_sae_lens(tmp_path: Path, kind: Kind) -> None:
    folder = saved(tmp_path / "sae", kind)
    check_loads(folder, acts())
    theirs = loaded_by_lens(folder)
    assert theirs.cfg.metadata.capture == METADATA["capture"]
    weights = load_file(folder / WEIGHTS["sae-lens"])
    assert weights.keys() == theirs.state_dict().keys()
    ours = load_dictionary(folder)
    torch.testing.assert_close(ours.reconstruct(acts()), theirs(acts()), rtol=1e-6, atol=1e-6)
    assert float((ours.reconstruct(acts()) - acts()).square().sum()) > 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("apply_b_dec_to_input", False, "sae-lens' latents differ"),
        ("normalize_activations", "layer_norm", "sae-lens' latents differ"),
    ],
)
def test_another_behaviour_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: object, message: str
) -> None:
    folder = saved(tmp_path, "standard")
    ours = load_dictionary(folder)
    config = json.loads((folder / CONFIG).read_text()) | {key: value}
    (folder / CONFIG).write_text(json.dumps(config))
    monkeypatch.setattr("sdlms.sae.lens_check.load_dictionary", lambda _: ours)
    with pytest.raises(ValueError, match=message):
        check_loads(folder, acts())


def test_another_weight_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path, "topk")
    ours = load_dictionary(folder)
    ours.tensors["b_enc"][0] += 1e-6
    monkeypatch.setattr("sdlms.sae.lens_check.load_dictionary", lambda _: ours)
    with pytest.raises(ValueError, match="another b_enc"):
        check_loads(folder, acts())


def test_lost_metadata_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path, "standard")
    config = json.loads((folder / CONFIG).read_text())
    del config["metadata"]["sae_lens_version"]
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match="other metadata"):
        check_loads(folder, acts())


def test_importing_it_leaves_the_process_as_it_was() -> None:
    program = (
        "import logging, warnings, torch, transformers\n"
        "from sdlms.sae.lens_check import without_traces\n"
        "def state():\n"
        "    return (list(warnings.filters), logging.getLogger('transformers').level,\n"
        "        torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads(),\n"
        "        logging.root.level, list(logging.root.handlers))\n"
        "before = state()\n"
        "with without_traces():\n"
        "    import sae_lens\n"
        "assert state() == before\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""


def test_filters_and_levels_are_put_back_after_an_error() -> None:
    logger = logging.getLogger("transformers")
    before = (list(warnings.filters), logger.level)
    with pytest.raises(KeyError), without_traces():
        logger.setLevel(logging.CRITICAL)
        warnings.simplefilter("always")
        raise KeyError
    assert (list(warnings.filters), logger.level) == before
