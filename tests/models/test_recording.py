"""What is recorded is what the model computed, and no more is computed than that."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedModel

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

SMALL = {"vocab_size": 50, "initializer_range": 0.2}
WIDE = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 4}
GPT2 = {"n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 32}
CASES: dict[str, dict[str, object]] = {
    "gpt_neox-parallel": {"model_type": "gpt_neox", "intermediate_size": 40, **WIDE},
    "gpt_neox-sequential": {
        "model_type": "gpt_neox",
        "intermediate_size": 40,
        "use_parallel_residual": False,
        "hidden_act": "relu",
        **WIDE,
        "num_hidden_layers": 4,
    },
    "gpt2": {"model_type": "gpt2", **GPT2},
    "gpt2-n_inner": {"model_type": "gpt2", "n_inner": 24, **GPT2, "n_layer": 4},
    "llama": {"model_type": "llama", "intermediate_size": 24, "num_key_value_heads": 2, **WIDE},
    "bert": {
        "model_type": "bert",
        "intermediate_size": 40,
        "max_position_embeddings": 32,
        **WIDE,
        "num_hidden_layers": 4,
    },
}
CAUSAL = [name for name in CASES if not name.startswith("bert")]
INPUT_IDS = torch.randint(1, 50, (3, 9), generator=torch.Generator().manual_seed(0))
LENGTHS = (5, 9, 7)


def random_model(config: dict[str, object], model_class: type = AutoModel) -> PreTrainedModel:
    """A model in eval mode whose every parameter, norms and biases included, is random."""
    torch.manual_seed(0)
    model = model_class.from_config(AutoConfig.for_model(**SMALL, **config), dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.2)
        elif parameter.dim() == 1:  # the weight of a norm
            nn.init.uniform_(parameter, 0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The machine is shared, and these models are too small for two threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module", params=CASES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return random_model(CASES[request.param])


@pytest.fixture(scope="module")
def gpt2() -> PreTrainedModel:
    return random_model(CASES["gpt2"])


def padding_mask(model: PreTrainedModel) -> Tensor | None:
    """Right padding for encoders, which always get their mask; none for causal models."""
    if architecture_of(model.config.model_type).causal:
        return None
    return (torch.arange(9) < torch.tensor(LENGTHS)[:, None]).long()


def record_everything(model: PreTrainedModel) -> dict[tuple[Site, int], Tensor]:
    with recording(model, range(n_layers(model.config)), SITES) as recorded:
        return recorded.run(INPUT_IDS, padding_mask(model))


@torch.no_grad()
def own_hidden_states(model: PreTrainedModel) -> tuple[Tensor, ...]:
    mask = padding_mask(model)
    return model(INPUT_IDS, attention_mask=mask, output_hidden_states=True).hidden_states


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
    last = recorded["resid_post", n - 1]
    final_norm = architecture_of(model.config.model_type).final_norm
    if final_norm is None:
        assert torch.equal(last, hidden_states[-1])
    else:
        with torch.no_grad():
            assert torch.equal(model.get_submodule(final_norm)(last), hidden_states[-1])
        assert not torch.allclose(last, hidden_states[-1], atol=0.1)


def test_the_residual_after_is_before_plus_attention_plus_mlp(model: PreTrainedModel) -> None:
    recorded = record_everything(model)
    for layer, block in enumerate(blocks_of(model)):
        resid_pre, attn_out, mlp_out, resid_post = (
            recorded[site, layer] for site in ("resid_pre", "attn_out", "mlp_out", "resid_post")
        )
        if model.config.model_type == "bert":
            mid = layer_norm(block.attention.output.LayerNorm, resid_pre + attn_out)
            expected = layer_norm(block.output.LayerNorm, mid + mlp_out)
        else:
            expected = resid_pre + attn_out + mlp_out
        torch.testing.assert_close(resid_post, expected, rtol=1e-5, atol=1e-5)
        assert attn_out.abs().max() > 0.1
        assert mlp_out.abs().max() > 0.1


def layer_norm(norm: nn.Module, resid: Tensor) -> Tensor:
    centred = resid - resid.mean(-1, keepdim=True)
    variance = centred.pow(2).mean(-1, keepdim=True)
    return centred / (variance + norm.eps).sqrt() * norm.weight + norm.bias


def gelu_tanh(acts: Tensor) -> Tensor:
    return 0.5 * acts * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (acts + 0.044715 * acts**3)))


def gelu(acts: Tensor) -> Tensor:
    return acts * 0.5 * (1 + torch.erf(acts / 2**0.5))


def neurons_gpt_neox(model: PreTrainedModel, block: nn.Module, pre: Tensor, mid: Tensor) -> Tensor:
    resid = pre if model.config.use_parallel_residual else mid
    up = block.mlp.dense_h_to_4h
    acts = layer_norm(block.post_attention_layernorm, resid) @ up.weight.T + up.bias
    return acts.clamp(min=0) if model.config.hidden_act == "relu" else gelu(acts)


def neurons_gpt2(model: PreTrainedModel, block: nn.Module, pre: Tensor, mid: Tensor) -> Tensor:
    up = block.mlp.c_fc
    return gelu_tanh(layer_norm(block.ln_2, mid) @ up.weight + up.bias)


def neurons_llama(model: PreTrainedModel, block: nn.Module, pre: Tensor, mid: Tensor) -> Tensor:
    norm = block.post_attention_layernorm
    rms = (mid.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()
    normed = mid / rms * norm.weight
    gate = normed @ block.mlp.gate_proj.weight.T
    return gate * torch.sigmoid(gate) * (normed @ block.mlp.up_proj.weight.T)


def neurons_bert(model: PreTrainedModel, block: nn.Module, pre: Tensor, mid: Tensor) -> Tensor:
    up = block.intermediate.dense
    return gelu(layer_norm(block.attention.output.LayerNorm, mid) @ up.weight.T + up.bias)


NEURONS_BY_HAND: dict[str, Callable[[PreTrainedModel, nn.Module, Tensor, Tensor], Tensor]] = {
    "gpt_neox": neurons_gpt_neox,
    "gpt2": neurons_gpt2,
    "llama": neurons_llama,
    "bert": neurons_bert,
}


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
        # BERT has no module that is the whole MLP.
        block.get_submodule(architecture.mlp or "output.dropout").register_forward_hook(
            lambda module, args, output: outputs.append(output)
        )
        for block in blocks_of(model)
    ]
    recorded = record_everything(model)
    for handle in handles:
        handle.remove()
    assert len(outputs) == n_layers(model.config)
    for layer, block in enumerate(blocks_of(model)):
        down_projection = block.get_submodule(architecture.down_projection)
        projected = down_projection(recorded["mlp_act", layer])
        torch.testing.assert_close(projected, outputs[layer], rtol=1e-6, atol=1e-6)
        assert torch.equal(recorded["mlp_out", layer], outputs[layer])


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
    half = random_model(CASES["llama"]).bfloat16()
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


# Padding


@pytest.mark.parametrize("name", CAUSAL)
def test_right_padding_changes_nothing_for_causal_models(name: str) -> None:
    model = random_model(CASES[name])
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
    model = random_model(CASES["bert"])
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
    if architecture.final_norm is not None:
        assert model.get_submodule(architecture.final_norm) not in entered


def test_the_final_norm_and_the_pooler_do_not_run_after_the_last_layer(
    model: PreTrainedModel,
) -> None:
    with recording(model, [n_layers(model.config) - 1], ["resid_post"]) as recorded:
        after = model.get_submodule(architecture_of(model.config.model_type).final_norm or "pooler")
        calls: list[nn.Module] = []
        handle = after.register_forward_pre_hook(lambda module, args: calls.append(module))
        recorded.run(INPUT_IDS)
        assert not calls
        model(INPUT_IDS)
        assert len(calls) == 1
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
    with_head = random_model(CASES["gpt2"], AutoModelForCausalLM)
    with pytest.raises(ValueError, match="base_model"), recording(with_head, [0], SITES):
        pass


def test_an_unlisted_architecture_is_refused(
    gpt2: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(ARCHITECTURES, "gpt2")
    with pytest.raises(UserError, match="unknown model_type 'gpt2'"), recording(gpt2, [0], SITES):
        pass


# A new architecture is one table entry: one whose blocks return tuples, one whose MLP sees
# batch and token flattened.
NEW_ENTRIES = {
    "bloom": Architecture(
        blocks="h",
        attn_out="self_attention.dense",
        mlp_out="mlp.dense_4h_to_h",
        mlp=None,
        down_projection="mlp.dense_4h_to_h",
        final_norm="ln_f",
        gated=False,
        causal=True,
    ),
    "opt": Architecture(
        blocks="decoder.layers",
        attn_out="self_attn.out_proj",
        mlp_out="fc2",
        mlp=None,
        down_projection="fc2",
        final_norm="decoder.final_layer_norm",
        gated=False,
        causal=True,
        d_mlp="ffn_dim",
        activation="activation_function",
    ),
}
NEW_CASES = {
    "bloom": {"model_type": "bloom", **WIDE},
    "opt": {
        "model_type": "opt",
        "ffn_dim": 40,
        "init_std": 0.2,
        "word_embed_proj_dim": 16,
        "max_position_embeddings": 32,
        **WIDE,
    },
}


@pytest.mark.parametrize("name", NEW_ENTRIES)
def test_a_new_architecture_is_one_entry(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, name, NEW_ENTRIES[name])
    model = random_model(NEW_CASES[name])
    recorded, hidden_states = record_everything(model), own_hidden_states(model)
    for layer in range(3):
        assert torch.equal(recorded["resid_pre", layer], hidden_states[layer])
        total = sum(recorded[site, layer] for site in ("resid_pre", "attn_out", "mlp_out"))
        torch.testing.assert_close(recorded["resid_post", layer], total, rtol=1e-5, atol=1e-5)
        acts = recorded["mlp_act", layer]
        assert acts.shape[:2] == (3, 9)
        with torch.no_grad():
            projection = blocks_of(model)[layer].get_submodule(NEW_ENTRIES[name].down_projection)
            projected = projection(acts)
        torch.testing.assert_close(projected, recorded["mlp_out", layer], rtol=1e-5, atol=1e-5)
