from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from sdlms.dynamic.kept_neurons import masked
from sdlms.dynamic.latent_rows import rows_of
from sdlms.dynamic.latent_sums import NAMES
from sdlms.dynamic.latents import Autoencoders, Latents, autoencoders_of
from sdlms.dynamic.quality import Gate
from sdlms.errors import UserError
from sdlms.models.architectures import SITES, Site, architecture_for, blocks_of, n_units
from sdlms.models.gated import How, gated, learn
from sdlms.models.gating.rules import RULES
from sdlms.models.recording import recording
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.sae.evaluation import HeldOut, measure
from sdlms.sae.saving import folder_of
from sdlms.storage.tables import write_table
from tests.dynamic.random_windows import FIRST, random_windows
from tests.models.tiny_models import random_model
from tests.stages.sae_runs import OTHER, SELECTED, UNSCREENED, random_dictionary, write_dictionary

WINDOWS = random_windows()
WIDTH, LAYERS = 24, (0, 1, 2)
BUDGET = 1000
MODEL = {"name": "tiny", "n_layers": 3, "weights": {"model.safetensors": "aa"}}


def causal(name: str) -> PreTrainedModel:
    return random_model(name, AutoModelForCausalLM)


def random_autoencoders(
    model: PreTrainedModel, site: Site, layers: Sequence[int] = LAYERS
) -> Autoencoders:
    units = n_units(model.config, site)
    found = {layer: random_dictionary(layer, units, WIDTH) for layer in layers}
    return Autoencoders("a run", site, dict.fromkeys(layers, SELECTED), found)


def measured(
    model: PreTrainedModel,
    site: Site,
    gate: Gate,
    layers: Sequence[int] = LAYERS,
    budget: int = BUDGET,
) -> dict[str, Any]:
    encoders = random_autoencoders(model, site, layers)
    return Latents(model, encoders, WINDOWS, budget, lambda _: None).measure(gate)


def acts_by_hand(model: PreTrainedModel, site: Site, gate: Gate) -> dict[int, Tensor]:
    """`[token, unit]` at scored tokens; neurons as the down projection reads them."""
    masks: dict[int, Tensor] = {}
    base: Any = model.base_model
    how = masked(gate, WINDOWS, masks.__setitem__)
    with gated(model, gate.rule, gate.keep, learned=gate.learned, how=how):
        sites: list[Site] = [site, "resid_post"]
        with recording(base, LAYERS, sites) as recorded:
            found = recorded.run(torch.from_numpy(WINDOWS.ids))
    kept = {}
    for layer in LAYERS:
        acts = found[site, layer]
        if site == "mlp_act" and layer in masks:
            acts = acts * masks[layer].float()
        kept[layer] = acts[:, FIRST:][torch.from_numpy(WINDOWS.scored)]
    return kept


def of_document(values: Tensor, document: int) -> Tensor:
    return values[torch.from_numpy(WINDOWS.document[WINDOWS.scored] == document)]


@pytest.mark.parametrize("name", ["gpt_neox-parallel", "gpt2", "opt", "gemma2"])
@pytest.mark.parametrize("site", SITES)
def test_sums_are_those_of_both_models_run_by_hand(name: str, site: Site) -> None:
    model, gate = causal(name), Gate("post-norm", 0.3)
    part = measured(model, site, gate)
    dense, thinned = (acts_by_hand(model, site, g) for g in (Gate("post-norm", 1.0), gate))
    for layer, dictionary in random_autoencoders(model, site).dictionaries.items():
        mean = dense[layer].double().mean(dim=0)
        for document in range(8):
            x, g = (of_document(acts[layer], document) for acts in (dense, thinned))
            fired, still = dictionary.encode(x) > 0, dictionary.encode(g) > 0
            y, h = dictionary.reconstruct(x), dictionary.reconstruct(g)
            expected = [10, fired.sum(), still.sum(), (fired & still).sum()]
            distances = [x - y, x - mean, g - h, g - mean, x - h]
            expected += [distance.double().square().sum() for distance in distances]
            found = [part["layers"][str(layer)][each][document] for each in NAMES]
            assert found == pytest.approx([float(number) for number in expected], rel=1e-4)


def every_rule(model: PreTrainedModel) -> list[Gate]:
    """Each rule at 0.3, with what it needs."""
    width = n_units(model.config, "mlp_act")
    blocks = {layer: np.arange(width) % 5 - 1 for layer in LAYERS}
    learned = learn(model, torch.from_numpy(random_windows(seed=1).ids), blocks=blocks)
    return [Gate(rule, 0.3, learned) for rule in RULES]


@pytest.mark.parametrize("name", ["gpt_neox-parallel", "gpt2", "llama"])
def test_gated_neurons_are_what_the_down_projection_reads(name: str) -> None:
    model = causal(name)
    path = architecture_for(model.config).down_projection
    for gate in every_rule(model):
        acts, outputs = (acts_by_hand(model, site, gate) for site in ("mlp_act", "mlp_out"))
        for layer, block in enumerate(blocks_of(model.base_model)):
            with torch.no_grad():
                found = block.get_submodule(path)(acts[layer])
            assert torch.allclose(found, outputs[layer], atol=1e-5), gate.rule
            assert (acts[layer] == 0).any(), gate.rule


def test_every_rule_changes_latents_of_neurons() -> None:
    model = causal("gpt_neox-parallel")
    for gate in every_rule(model):
        part = measured(model, "mlp_act", gate, layers=(1,))
        row = next(rows_of([part], 0))
        assert (row["rule"], row["reason"]) == (gate.rule, "")
        assert row["fvu_gated"] != row["fvu_dense"]
        assert 0 < row["kept_latents_fraction"] < 1


def test_fvu_is_that_of_the_evaluation_of_autoencoders() -> None:
    model, gate = causal("gpt_neox-parallel"), Gate("post-norm", 0.3)
    rows = list(rows_of([measured(model, "mlp_out", gate)], 0))
    dense, thinned = (acts_by_hand(model, "mlp_out", g) for g in (Gate("post-norm", 1.0), gate))
    for row in rows[::3]:
        dictionary = random_autoencoders(model, "mlp_out").dictionaries[row["layer"]]
        mean = dense[row["layer"]].double().mean(dim=0)
        for acts, kind in ((dense, "dense"), (thinned, "gated")):
            own, offsets = acts[row["layer"]], np.array([0, 80])
            held_out = HeldOut(own, offsets, np.arange(80), ["all"])
            found = measure(dictionary, held_out, mean, 0).evaluation
            assert row[f"fvu_{kind}"] == pytest.approx(found.fvu, rel=1e-6)
            assert row[f"l0_{kind}"] == pytest.approx(found.l0)


def nothing_changed(part: dict[str, Any], layer: int) -> bool:
    """Whether every sum of the gated model is exactly that of the dense one."""
    own = part["layers"][str(layer)]
    pairs = [("gated", "dense"), ("both", "dense"), ("gated_error", "dense_error")]
    pairs += [("gated_energy", "dense_energy"), ("crossed_error", "dense_error")]
    return all(own[one] == own[other] for one, other in pairs)


@pytest.mark.parametrize("site", SITES)
def test_at_keep_one_nothing_changes_exactly(site: Site) -> None:
    gate = Gate("post-norm", 1.0, how=How(force_at_one=True))
    part = measured(causal("gpt_neox-parallel"), site, gate)
    assert all(nothing_changed(part, layer) for layer in LAYERS)


def test_layers_before_the_first_gated_one_change_exactly_nothing() -> None:
    model, gate = causal("gpt_neox-sequential"), Gate("post-norm", 0.2, how=How(layers=(1,)))
    before: dict[Site, list[bool]] = {
        "resid_pre": [True, True, False],
        "attn_out": [True, True, False],
        "mlp_act": [True, False, False],
        "mlp_out": [True, False, False],
        "resid_post": [True, False, False],
    }
    for site, expected in before.items():
        part = measured(model, site, gate)
        assert [nothing_changed(part, layer) for layer in LAYERS] == expected, site


def test_rows_of_an_unchanged_layer_are_exact() -> None:
    gate = Gate("post-norm", 0.2, how=How(layers=(2,)))
    part = measured(causal("gpt_neox-parallel"), "resid_post", gate, layers=(1,))
    for row in rows_of([part], 0):
        assert (row["kept_latents_fraction"], row["new_latents_fraction"]) == (1, 0)
        assert row["fvu_difference"] == row["fvu_difference_low"] == row["fvu_difference_high"] == 0


def test_the_mean_is_that_of_the_dense_model_in_all_windows() -> None:
    model = causal("gpt_neox-parallel")
    latents = Latents(model, random_autoencoders(model, "resid_post"), WINDOWS, 20, print)
    latents.measure(Gate("post-norm", 0.1))
    dense = acts_by_hand(model, "resid_post", Gate("post-norm", 1.0))
    for layer in LAYERS:
        assert latents._means[layer] == pytest.approx(dense[layer].double().mean(dim=0), rel=1e-5)


def test_batches_change_nothing_but_rounding() -> None:
    model, gate = causal("gpt_neox-parallel"), Gate("post-norm", 0.3)
    one, several = (measured(model, "mlp_act", gate, budget=budget) for budget in (BUDGET, 20))
    for layer in map(str, LAYERS):
        for name in NAMES:
            expected = pytest.approx(one["layers"][layer][name], rel=1e-5)
            assert several["layers"][layer][name] == expected


def test_the_model_is_as_it_was_and_the_same_part_comes_again() -> None:
    model = causal("gpt2")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one, same = (measured(model, "mlp_act", Gate("post-norm", 0.3)) for _ in range(2))
    assert one == same
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def trained(
    folder: Path, site: str = "mlp_out", n_units: int = 16, **resolved: object
) -> tuple[Run, PreTrainedConfig]:
    """A sae-train run of untrained autoencoders of layers 0 and 2, and its model's config."""
    rows: list[dict[str, Any]] = []
    with RunWriter("sae-train", {"seed": 0}, RunOptions(artifacts=folder / "artifacts")) as out:
        out.start({"model": MODEL, "control": "none", **resolved}, {})
        for layer in (0, 2):
            for member in (OTHER, SELECTED):
                name = folder_of(site, layer, member)
                seed = layer + 10 * (member == OTHER)
                write_dictionary(out.path / name, random_dictionary(seed, n_units, WIDTH))
                for file in sorted((out.path / name).iterdir()):
                    out.output(f"{name}/{file.name}")
                row = {"site": site, "layer": layer, "member": member, "seed": 0, **UNSCREENED}
                chosen = int(member == SELECTED)
                rows.append({**row, "coefficient": 1.0, "selected": chosen, "l0": 3.5})
        write_table(out.path / "sae.csv", list(rows[0]), rows)
        out.output("sae.csv", columns=list(rows[0]))
    return Run(out.path), causal("gpt_neox-parallel").config


def test_the_selected_autoencoders_of_a_run_are_read(tmp_path: Path) -> None:
    run, config = trained(tmp_path)
    found = autoencoders_of(run, MODEL, config)
    assert (found.run, found.site) == (run.name, "mlp_out")
    assert found.members == {0: SELECTED, 2: SELECTED}
    for layer, dictionary in found.dictionaries.items():
        expected = random_dictionary(layer, 16, WIDTH)
        assert torch.equal(dictionary.decoder, expected.decoder)


@pytest.mark.parametrize(
    ("site", "units", "resolved", "message"),
    [
        ("mlp_out", 16, {"control": "permute-tokens"}, r"trained on a control \(permute-tokens\)"),
        ("mlp_out", 16, {"model": {"name": "other", "weights": {"x": "y"}}}, "weights differ"),
        ("elsewhere", 16, {}, "is no site of a model"),
        ("mlp_act", 16, {}, "takes 16 units, the activations"),
    ],
)
def test_other_autoencoders_are_refused_in_one_line(
    tmp_path: Path, site: str, units: int, resolved: dict[str, object], message: str
) -> None:
    run, config = trained(tmp_path, site, units, **resolved)
    with pytest.raises(UserError, match=message) as refused:
        autoencoders_of(run, MODEL, config)
    assert "\n" not in str(refused.value)


def test_a_changed_autoencoder_is_refused(tmp_path: Path) -> None:
    run, config = trained(tmp_path)
    path = run.path / folder_of("mlp_out", 2, SELECTED) / "sae_weights.safetensors"
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="is damaged"):
        autoencoders_of(run, MODEL, config)
