"""What is recorded is what the model computed, and no more is computed than that."""

import weakref
from collections.abc import Iterator
from dataclasses import replace
from operator import attrgetter

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.errors import UserError
from sdlms.models.architectures import (
    ARCHITECTURES,
    SITES,
    Architecture,
    Site,
    architecture_of,
    blocks_of,
    n_layers,
    n_units,
)
from sdlms.models.recording import recording
from sdlms.models.unembedding import final_norm_of
from tests.models.neurons_by_hand import NEURONS_BY_HAND, layer_norm
from tests.models.tiny_models import (
    CASES,
    CAUSAL,
    INPUT_IDS,
    LENGTHS,
    WIDE,
    own_hidden_states,
    padding_mask,
    random_model,
    record_everything,
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The machine is shared, and these models are too small for two threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return random_model(request.param)


@pytest.fixture(scope="module")
def gpt2() -> PreTrainedModel:
    return random_model("gpt2")


def modules_after_the_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """Final norm and projection, as far as the model has them, in the order it runs them."""
    path = architecture_of(model.config.model_type).project_out
    projection = attrgetter(path)(model) if path else None
    return [module for module in (final_norm_of(model), projection) if module is not None]


def n_hooks(model: PreTrainedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# What is recorded


def test_every_architecture_has_its_numeric_checks() -> None:
    assert {case["model_type"] for case in CASES.values()} == set(ARCHITECTURES)
    assert set(NEURONS_BY_HAND) == set(ARCHITECTURES)


def test_every_site_of_every_layer_has_its_shape(model: PreTrainedModel) -> None:
    recorded = record_everything(model)
    layers = range(n_layers(model.config))
    assert recorded.keys() == {(site, layer) for site in SITES for layer in layers}
    for (site, _), tensor in recorded.items():
        assert tensor.shape == (3, 9, n_units(model.config, site))
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad


def test_residuals_are_the_models_own_hidden_states(model: PreTrainedModel) -> None:
    recorded, hidden_states = record_everything(model), own_hidden_states(model)
    n = n_layers(model.config)
    for layer in range(n):
        assert torch.equal(recorded["resid_pre", layer], hidden_states[layer])
    for layer in range(n - 1):
        assert torch.equal(recorded["resid_post", layer], hidden_states[layer + 1])
    last, after = recorded["resid_post", n - 1], modules_after_the_blocks(model)
    with torch.no_grad():
        for module in after:
            last = module(last)
    assert torch.equal(last, hidden_states[-1])


def test_the_final_norm_is_none_of_the_blocks(model: PreTrainedModel) -> None:
    last = record_everything(model)["resid_post", n_layers(model.config) - 1]
    if (norm := final_norm_of(model)) is not None:
        with torch.no_grad():
            assert not torch.allclose(last, norm(last), atol=0.1)


# The norms inside the block where it norms the residual stream itself.
NORMS_AFTER_ADDITION = {
    "bert": ("attention.output.LayerNorm", "output.LayerNorm"),
    "opt": ("self_attn_layer_norm", "final_layer_norm"),
}


@torch.no_grad()
def test_the_residual_after_is_before_plus_attention_plus_mlp(model: PreTrainedModel) -> None:
    recorded, model_type = record_everything(model), model.config.model_type
    norm_after_addition = architecture_of(model_type).norm_after_addition(model.config)
    for layer, block in enumerate(blocks_of(model)):
        resid_pre, attn_out, mlp_out, resid_post = (
            recorded[site, layer] for site in ("resid_pre", "attn_out", "mlp_out", "resid_post")
        )
        expected = resid_pre + attn_out + mlp_out
        if norm_after_addition:
            first, second = map(block.get_submodule, NORMS_AFTER_ADDITION[model_type])
            assert not torch.allclose(resid_post, expected, atol=0.1)
            expected = layer_norm(second, layer_norm(first, resid_pre + attn_out) + mlp_out)
        torch.testing.assert_close(resid_post, expected, rtol=1e-5, atol=1e-5)
        assert attn_out.abs().max() > 0.1
        assert mlp_out.abs().max() > 0.1


def test_only_a_serial_mlp_reads_what_attention_adds(model: PreTrainedModel) -> None:
    architecture = architecture_of(model.config.model_type)
    with recording(model, [1], ["mlp_act", "resid_pre"]) as recorded:
        before = recorded.run(INPUT_IDS)
        attention = blocks_of(model)[1].get_submodule(architecture.attn_out)
        handle = attention.register_forward_hook(lambda module, args, output: output.flip(-1))
        after = recorded.run(INPUT_IDS)
        handle.remove()
    assert torch.equal(before["resid_pre", 1], after["resid_pre", 1])
    unchanged = torch.equal(before["mlp_act", 1], after["mlp_act", 1])
    assert unchanged == architecture.parallel_residual(model.config)


@torch.no_grad()
def test_neurons_are_what_plain_operations_give(model: PreTrainedModel) -> None:
    recorded = record_everything(model)
    by_hand = NEURONS_BY_HAND[model.config.model_type]
    for layer, block in enumerate(blocks_of(model)):
        pre = recorded["resid_pre", layer]
        mid = pre + recorded["attn_out", layer]
        acts = recorded["mlp_act", layer]
        torch.testing.assert_close(acts, by_hand(model, block, pre, mid), rtol=1e-5, atol=1e-5)
        assert acts.std() > 0.05


@torch.no_grad()
def test_the_down_projection_takes_neurons_to_the_mlps_output(model: PreTrainedModel) -> None:
    architecture = architecture_of(model.config.model_type)
    outputs: list[Tensor] = []
    handles = [
        block.get_submodule(architecture.mlp or architecture.down_projection).register_forward_hook(
            lambda module, args, output: outputs.append(output.view(3, 9, -1))
        )
        for block in blocks_of(model)
    ]
    recorded = record_everything(model)
    for handle in handles:
        handle.remove()
    assert len(outputs) == n_layers(model.config)
    for layer, block in enumerate(blocks_of(model)):
        projected = block.get_submodule(architecture.down_projection)(recorded["mlp_act", layer])
        torch.testing.assert_close(projected, outputs[layer], rtol=1e-6, atol=1e-6)
        if architecture.mlp_out != architecture.down_projection:  # a norm stands behind the MLP
            projected = block.get_submodule(architecture.mlp_out)(projected)
        torch.testing.assert_close(projected, recorded["mlp_out", layer], rtol=1e-5, atol=1e-5)


def test_gated_means_that_neurons_are_a_product(model: PreTrainedModel) -> None:
    names = {name for name, _ in blocks_of(model)[0].named_modules()}
    gated = architecture_of(model.config.model_type).gated
    assert gated == any("gate" in name for name in names)


def test_tensors_are_references_in_the_models_dtype(gpt2: PreTrainedModel) -> None:
    seen: list[Tensor] = []
    handle = gpt2.h[1].register_forward_hook(lambda module, args, output: seen.append(output))
    with recording(gpt2, [1], ["resid_post"]) as recorded:
        tensor = recorded.run(INPUT_IDS)["resid_post", 1]
    handle.remove()
    assert tensor is seen[0]
    half = random_model("llama").bfloat16()
    with recording(half, [0], ["mlp_act"]) as recorded:
        assert recorded.run(INPUT_IDS)["mlp_act", 0].dtype == torch.bfloat16


def test_a_block_may_take_its_residual_by_name(
    gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    resid = torch.randn(3, 9, 16)
    monkeypatch.setattr(gpt2, "forward", lambda **inputs: gpt2.h[0](hidden_states=resid))
    with recording(gpt2, [0], ["resid_pre"]) as recorded:
        assert recorded.run(INPUT_IDS)["resid_pre", 0] is resid


def test_each_run_starts_anew(gpt2: PreTrainedModel) -> None:
    with recording(gpt2, [0], ["resid_pre"]) as recorded:
        first = recorded.run(INPUT_IDS)
        kept = first["resid_pre", 0].clone()
        second = recorded.run(INPUT_IDS[:1, :4])
    assert torch.equal(first["resid_pre", 0], kept)
    assert second["resid_pre", 0].shape == (1, 4, 16)


# Keeping less than everything


def test_what_is_kept_is_what_keep_returns(model: PreTrainedModel) -> None:
    layers = range(n_layers(model.config))
    whole = record_everything(model)
    with recording(model, layers, SITES) as recorded:
        kept = recorded.run_keeping(
            lambda key, acts: (key, acts.amax(1)), INPUT_IDS, padding_mask(model)
        )
    assert kept.keys() == whole.keys()
    for key, (named, largest) in kept.items():
        assert named == key
        assert largest.shape[0] == 3
        assert torch.equal(largest, whole[key].amax(1))


def test_keep_may_return_nothing(gpt2: PreTrainedModel) -> None:
    with recording(gpt2, [0, 2], ["mlp_act"]) as recorded:
        kept = recorded.run_keeping(lambda key, acts: None, INPUT_IDS)
        assert kept == {("mlp_act", 0): None, ("mlp_act", 2): None}
        assert isinstance(recorded.run(INPUT_IDS)["mlp_act", 0], Tensor)  # forgets `keep`


@pytest.mark.parametrize("pooled", [True, False])
def test_of_what_is_pooled_one_layer_is_alive_at_a_time(
    gpt2: PreTrainedModel, pooled: bool
) -> None:
    seen: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def keep(key: tuple[Site, int], acts: Tensor) -> Tensor:
        seen.append(weakref.ref(acts))
        alive.append(sum(tensor() is not None for tensor in seen))
        return acts.sum(1) if pooled else acts

    with recording(gpt2, range(3), ["mlp_act"]) as recorded:
        kept = recorded.run_keeping(keep, INPUT_IDS)
    assert alive == ([1, 1, 1] if pooled else [1, 2, 3])
    assert len(kept) == 3


def test_an_error_of_keep_ends_the_forward_and_leaves_no_hook(gpt2: PreTrainedModel) -> None:
    def broken(key: tuple[Site, int], acts: Tensor) -> None:
        raise UserError("no")

    before = n_hooks(gpt2)
    with recording(gpt2, [0, 1], ["mlp_act"]) as recorded:
        with pytest.raises(UserError, match="no"):
            recorded.run_keeping(broken, INPUT_IDS)
        assert recorded.run(INPUT_IDS).keys() == {("mlp_act", 0), ("mlp_act", 1)}
    assert n_hooks(gpt2) == before


def test_no_gradients_are_kept(gpt2: PreTrainedModel) -> None:
    with recording(gpt2, [1], ["resid_post"]) as recorded:
        kept = recorded.run_keeping(lambda key, acts: acts * 2, INPUT_IDS)
    assert not kept["resid_post", 1].requires_grad


# Padding


@pytest.mark.parametrize("name", CAUSAL)
def test_right_padding_changes_nothing_for_causal_models(name: str) -> None:
    model = random_model(name)
    padded = INPUT_IDS.clone()
    for row, length in enumerate(LENGTHS):
        padded[row, length:] = 0
    with recording(model, range(n_layers(model.config)), SITES) as recorded:
        together = recorded.run(padded)
        for row, length in enumerate(LENGTHS):
            alone = recorded.run(INPUT_IDS[row : row + 1, :length])
            for key, tensor in alone.items():
                real = together[key][row, :length]
                torch.testing.assert_close(real, tensor[0], rtol=1e-5, atol=1e-5)


def test_an_encoder_needs_its_mask() -> None:
    model = random_model("bert")
    mask = padding_mask(model)
    with recording(model, range(4), SITES) as recorded:
        masked, unmasked = recorded.run(INPUT_IDS, mask), recorded.run(INPUT_IDS)
        alone = recorded.run(INPUT_IDS[:1, : LENGTHS[0]])
    for key, tensor in alone.items():
        real = masked[key][0, : LENGTHS[0]]
        torch.testing.assert_close(real, tensor[0], rtol=1e-5, atol=1e-5)
    key: tuple[Site, int] = ("resid_post", 3)
    assert not torch.allclose(unmasked[key][0, : LENGTHS[0]], alone[key][0], atol=0.01)


# Stopping


@pytest.mark.parametrize("site", SITES)
def test_nothing_runs_after_the_last_recorded_site(model: PreTrainedModel, site: Site) -> None:
    entered: list[nn.Module] = []
    handles = [
        module.register_forward_pre_hook(lambda module, args: entered.append(module))
        for module in model.modules()
    ]
    blocks = blocks_of(model)
    with recording(model, [1, 0], [site]) as recorded:
        recorded.run(INPUT_IDS)
    for handle in handles:
        handle.remove()
    architecture = architecture_of(model.config.model_type)
    path = architecture.tap(site).path
    assert blocks[0] in entered
    assert blocks[1] in entered
    if site != "resid_post":
        assert entered[-1] is blocks[1].get_submodule(path)
    assert not set(entered) & {module for block in blocks[2:] for module in block.modules()}
    assert not set(entered) & set(modules_after_the_blocks(model))


def test_the_final_norm_and_the_pooler_do_not_run_after_the_last_layer(
    model: PreTrainedModel,
) -> None:
    calls: list[nn.Module] = []
    after = [
        *modules_after_the_blocks(model),
        *([model.pooler] if hasattr(model, "pooler") else []),
    ]
    handles = [
        module.register_forward_pre_hook(lambda module, args: calls.append(module))
        for module in after
    ]
    with recording(model, [n_layers(model.config) - 1], ["resid_post"]) as recorded:
        recorded.run(INPUT_IDS)
        assert not calls
        model(INPUT_IDS)
        assert calls == after
    for handle in handles:
        handle.remove()


def test_the_cache_is_off(gpt2: PreTrainedModel) -> None:
    seen: list[object] = []
    handle = gpt2.h[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.extend([args[1], kwargs["use_cache"]]), with_kwargs=True
    )
    with recording(gpt2, [0], ["resid_post"]) as recorded:
        recorded.run(INPUT_IDS)
    handle.remove()
    assert seen == [None, False]


# Leaving the model as it was


@torch.no_grad()
def test_recording_leaves_outputs_bit_equal(model: PreTrainedModel) -> None:
    mask = padding_mask(model)
    before = model(INPUT_IDS, attention_mask=mask).last_hidden_state
    with recording(model, range(n_layers(model.config)), SITES) as recorded:
        recorded.run(INPUT_IDS, mask)
        inside = model(INPUT_IDS, attention_mask=mask).last_hidden_state
    after = model(INPUT_IDS, attention_mask=mask).last_hidden_state
    assert torch.equal(before, inside)
    assert torch.equal(before, after)


def test_hooks_are_gone_afterwards(model: PreTrainedModel) -> None:
    before = n_hooks(model)
    with recording(model, [0, 1], SITES) as recorded:
        assert n_hooks(model) == before + 10
        recorded.run(INPUT_IDS)
    assert n_hooks(model) == before


def test_hooks_are_gone_after_an_exception(model: PreTrainedModel) -> None:
    before = n_hooks(model)
    with pytest.raises(KeyError), recording(model, [0], SITES):
        raise KeyError
    assert n_hooks(model) == before
    with pytest.raises(IndexError), recording(model, [0], SITES) as recorded:
        recorded.run(torch.full((1, 4), 10**6))
    assert n_hooks(model) == before


def test_hooks_are_gone_when_the_table_is_wrong(
    gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(ARCHITECTURES["gpt2"], down_projection="mlp.absent")
    monkeypatch.setitem(ARCHITECTURES, "gpt2", wrong)
    before = n_hooks(gpt2)
    with pytest.raises(AttributeError, match="absent"), recording(gpt2, [0, 1], SITES):
        pass
    assert n_hooks(gpt2) == before


# Refusals


def test_a_module_that_never_runs_is_reported(gpt2: PreTrainedModel) -> None:
    with recording(gpt2, [2], ["attn_out"]) as recorded:
        skipped = gpt2.h[2].attn.c_proj
        gpt2.h[2].attn.c_proj = nn.Linear(16, 16)
        try:
            with pytest.raises(RuntimeError, match=r"without passing \[\('attn_out', 2\)\]"):
                recorded.run(INPUT_IDS)
        finally:
            gpt2.h[2].attn.c_proj = skipped


@pytest.mark.parametrize(
    ("layers", "sites", "message"),
    [
        ([], ["mlp_act"], "nothing to record"),
        ([0], [], "nothing to record"),
        ([0, 3, -1], ["mlp_act"], r"layers \[-1, 3\] do not exist; the model has 0 to 2"),
    ],
)
def test_impossible_requests_are_refused(
    gpt2: PreTrainedModel, layers: list[int], sites: list[Site], message: str
) -> None:
    with pytest.raises(ValueError, match=message), recording(gpt2, layers, sites):
        pass


def test_training_mode_and_heads_are_refused(gpt2: PreTrainedModel) -> None:
    gpt2.train()
    try:
        with recording(gpt2, [0], SITES) as recorded, pytest.raises(ValueError, match="eval"):
            recorded.run(INPUT_IDS)
    finally:
        gpt2.eval()
    with_head = random_model("gpt2", AutoModelForCausalLM)
    with pytest.raises(ValueError, match="base_model"), recording(with_head, [0], SITES):
        pass


def test_an_unlisted_architecture_is_refused(
    gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ARCHITECTURES, "gpt2")
    with pytest.raises(UserError, match="unknown model_type 'gpt2'"), recording(gpt2, [0], SITES):
        pass


# An architecture that is not in the table: its entry is all it takes.
BLOOM = Architecture(
    blocks="h",
    attn_out="self_attention.dense",
    mlp_out="mlp.dense_4h_to_h",
    mlp=None,
    up=("mlp.dense_h_to_4h",),
    down_projection="mlp.dense_4h_to_h",
    final_norm="ln_f",
    gated=False,
    causal=True,
)


def test_a_new_architecture_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "bloom", BLOOM)
    monkeypatch.setitem(CASES, "bloom", {"model_type": "bloom", **WIDE})
    model = random_model("bloom")
    recorded, hidden_states = record_everything(model), own_hidden_states(model)
    for layer in range(3):
        assert torch.equal(recorded["resid_pre", layer], hidden_states[layer])
        total = sum(recorded[site, layer] for site in ("resid_pre", "attn_out", "mlp_out"))
        torch.testing.assert_close(recorded["resid_post", layer], total, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            projection = blocks_of(model)[layer].get_submodule(BLOOM.down_projection)
            projected = projection(recorded["mlp_act", layer])
        torch.testing.assert_close(projected, recorded["mlp_out", layer], rtol=1e-5, atol=1e-5)
