"""What is replaced is what the model goes on with; and the rest of a forward, run again."""

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.errors import UserError
from sdlms.models.architectures import SITES, Site, architecture_of, blocks_of, n_layers, n_units
from sdlms.models.recording import Key, recording
from sdlms.models.replacing import replacing, run_once
from sdlms.models.unembedding import logits_of
from tests.models.tiny_models import CAUSAL, INPUT_IDS, padding_mask, random_model

EVERY_SITE = pytest.mark.parametrize("site", SITES)
OTHER_IDS = torch.flip(INPUT_IDS, [1])


@pytest.fixture(scope="module", params=CAUSAL)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return random_model(request.param, AutoModelForCausalLM)


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return random_model("llama", AutoModelForCausalLM)


@torch.no_grad()
def logits(model: PreTrainedModel, input_ids: Tensor = INPUT_IDS) -> Tensor:
    found: Tensor = model(input_ids).logits
    return found


def same(acts: Tensor) -> Tensor:
    return acts


def halved(acts: Tensor) -> Tensor:
    return acts / 2


def n_hooks(model: PreTrainedModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def recorded(model: PreTrainedModel) -> dict[Key, Tensor]:
    """Every site after what is open now; hooks of the recording come last."""
    with recording(model.base_model, range(n_layers(model.config)), SITES) as recorded:
        return recorded.run(INPUT_IDS)


@EVERY_SITE
def test_the_same_again_leaves_the_logits_bit_equal(model: PreTrainedModel, site: Site) -> None:
    expected = logits(model)
    for replace in (same, torch.clone, lambda acts: acts.double()):
        with replacing(model, 1, site, replace):
            assert torch.equal(logits(model), expected)
    assert torch.equal(logits(model), expected)


@EVERY_SITE
def test_what_is_replaced_is_the_site_as_it_is_recorded(model: PreTrainedModel, site: Site) -> None:
    before, seen = recorded(model), []
    replacement = torch.randn(
        3, 9, n_units(model.config, site), generator=torch.Generator().manual_seed(1)
    )

    def replace(acts: Tensor) -> Tensor:
        seen.append(acts)
        return replacement

    with replacing(model, 1, site, replace):
        after = recorded(model)
    assert torch.equal(seen[0], before[site, 1])
    assert torch.equal(after[site, 1], replacement)
    assert all(torch.equal(after[key], before[key]) for key in before if key[1] == 0)
    assert not torch.equal(after["resid_post", 2], before["resid_post", 2])
    with replacing(model.base_model, 1, site, replace):
        again = recorded(model)
    assert all(torch.equal(again[key], after[key]) for key in after)


def silent_(module: nn.Module) -> None:
    """Weights with which a linear map or a norm returns zeros."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    if type(module).__name__.startswith("Gemma"):  # these norms scale by 1 + weight
        nn.init.constant_(module.weight, -1)


@pytest.mark.parametrize("site", ["attn_out", "mlp_out"])
def test_zeros_are_what_a_silent_module_adds(model: PreTrainedModel, site: Site) -> None:
    with replacing(model, 1, site, torch.zeros_like):
        found = logits(model)
    block = blocks_of(model.base_model)[1]
    module = block.get_submodule(architecture_of(model.config.model_type).tap(site).path)
    kept = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    silent_(module)
    expected = logits(model)
    module.load_state_dict(kept)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, logits(model), atol=1e-2)


def test_zero_neurons_leave_the_bias_of_the_down_projection(model: PreTrainedModel) -> None:
    with replacing(model, 1, "mlp_act", torch.zeros_like):
        found = logits(model)
    path = architecture_of(model.config.model_type).down_projection
    weight = blocks_of(model.base_model)[1].get_submodule(path).weight
    kept = weight.clone()
    nn.init.zeros_(weight)
    expected = logits(model)
    with torch.no_grad():
        weight.copy_(kept)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, logits(model), atol=1e-2)


@torch.no_grad()
def test_zero_residuals_forget_the_input(model: PreTrainedModel) -> None:
    last = n_layers(model.config) - 1
    with replacing(model, last, "resid_post", torch.zeros_like):
        assert torch.equal(logits(model), logits_of(model, torch.zeros(3, 9, 16)))
    with replacing(model, last, "resid_pre", torch.zeros_like):
        found = logits(model)
        assert torch.equal(found, logits(model, OTHER_IDS))
    with replacing(model, last - 1, "resid_post", torch.zeros_like):
        assert torch.equal(logits(model), found)
    assert not torch.equal(logits(model), logits(model, OTHER_IDS))


def test_an_encoder_is_replaced_too() -> None:
    bert = random_model("bert")
    mask = padding_mask(bert)
    for site in SITES:
        with (
            replacing(bert, 1, site, torch.zeros_like),
            recording(bert, [1], [site]) as recorded,
        ):
            assert not recorded.run(INPUT_IDS, mask)[site, 1].any()


def test_contexts_on_several_layers_and_sites_are_nested(model: PreTrainedModel) -> None:
    before = recorded(model)
    with (
        replacing(model, 0, "attn_out", torch.zeros_like),
        replacing(model, 2, "mlp_act", torch.zeros_like),
    ):
        found = recorded(model)
    assert not found["attn_out", 0].any()
    assert not found["mlp_act", 2].any()
    assert found["attn_out", 2].all()
    assert not torch.equal(found["mlp_out", 1], before["mlp_out", 1])
    assert all(torch.equal(tensor, before[key]) for key, tensor in recorded(model).items())


@EVERY_SITE
def test_the_outer_of_two_contexts_on_one_site_comes_first(
    llama: PreTrainedModel, site: Site
) -> None:
    before = recorded(llama)[site, 1]
    with replacing(llama, 1, site, halved), replacing(llama, 1, site, lambda acts: acts + 1):
        assert torch.equal(recorded(llama)[site, 1], before / 2 + 1)


def test_what_is_returned_is_cast_to_the_models_dtype() -> None:
    model = random_model("gpt_neo", AutoModelForCausalLM).to(torch.bfloat16)
    expected = logits(model)
    for site in SITES:
        with replacing(model, 1, site, lambda acts: acts.float()):
            assert torch.equal(logits(model), expected)


@EVERY_SITE
def test_no_hook_remains(model: PreTrainedModel, site: Site) -> None:
    before = n_hooks(model)
    with replacing(model, 1, site, same):
        assert n_hooks(model) == before + 2
    assert n_hooks(model) == before
    with pytest.raises(KeyError), replacing(model, 1, site, {}.__getitem__):
        logits(model)
    assert n_hooks(model) == before
    with pytest.raises(IndexError):
        run_once(model, 0, torch.full((1, 4), 10**6))
    run_once(model, 0, INPUT_IDS)
    assert n_hooks(model) == before


@EVERY_SITE
def test_another_shape_is_refused(llama: PreTrainedModel, site: Site) -> None:
    message = r"a site \[3, 9, \d+\] was replaced by \[3, 9, 1\]"
    with (
        replacing(llama, 1, site, lambda acts: acts[..., :1]),
        pytest.raises(ValueError, match=message),
    ):
        logits(llama)


def test_a_layer_that_does_not_exist_is_refused(llama: PreTrainedModel) -> None:
    for layer in (-1, 3):
        message = f"layer {layer} does not exist; the model has 0 to 2"
        with pytest.raises(ValueError, match=message), replacing(llama, layer, "mlp_out", same):
            pass
        with pytest.raises(ValueError, match=message):
            run_once(llama, layer, INPUT_IDS)


# Running the rest again


@torch.no_grad()
def test_running_again_is_bit_equal(model: PreTrainedModel) -> None:
    last = n_layers(model.config) - 1
    expected = recorded(model)["resid_post", last]
    for layer in range(last + 1):
        for any_model in (model, model.base_model):
            rerun = run_once(any_model, layer, INPUT_IDS)
            assert torch.equal(rerun.resid, expected)
            assert torch.equal(rerun.again(), expected)
            assert len(rerun.blocks) == last + 1 - layer
    assert torch.equal(logits_of(model, rerun.again()), logits(model))


@EVERY_SITE
@torch.no_grad()
def test_running_again_takes_replacements_as_a_forward_does(
    model: PreTrainedModel, site: Site
) -> None:
    for layer in range(n_layers(model.config)):
        rerun = run_once(model, layer, INPUT_IDS)
        with replacing(model, layer, site, halved):
            expected, found = logits(model), logits_of(model, rerun.again())
        assert torch.equal(found, expected)
        assert torch.equal(logits_of(model, rerun.again()), logits(model))
        assert not torch.equal(found, logits(model))


@torch.no_grad()
def test_only_the_blocks_from_the_layer_on_run_again(model: PreTrainedModel) -> None:
    blocks = list(blocks_of(model.base_model))
    rerun, ran = run_once(model, 1, INPUT_IDS), []
    handles = [
        module.register_forward_pre_hook(lambda module, args: ran.append(module))
        for module in [*blocks, model.base_model]
    ]
    rerun.again()
    for handle in handles:
        handle.remove()
    assert ran == blocks[1:]
    others = rerun.arguments[1:]  # each block's hidden states come from the one before
    assert all(args[0] is None for args, _ in others)


def test_encoders_and_training_mode_are_refused(llama: PreTrainedModel) -> None:
    with pytest.raises(UserError, match="is an encoder: it predicts no next token"):
        run_once(random_model("bert"), 0, INPUT_IDS)
    llama.train()
    try:
        with pytest.raises(ValueError, match="eval"):
            run_once(llama, 0, INPUT_IDS)
    finally:
        llama.eval()
