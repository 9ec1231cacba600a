"""Gated MLPs: masks and sparse execution agree, and the model comes back as it was."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.errors import UserError
from sdlms.models.architectures import n_layers, n_units
from sdlms.models.gated import Gates, How, Learned, gated, learn
from sdlms.models.gating.rules import RULES, n_kept
from sdlms.models.loading import find_model, load_causal_model, load_tokenizer
from sdlms.models.recording import recording
from sdlms.models.replacing import replacing
from tests.models.tiny_models import INPUT_IDS, random_model

TINY = ("gpt_neox-parallel", "gpt2", "llama", "gemma2", "opt", "phi")
EVERY_RULE = pytest.mark.parametrize("rule", RULES)
EVERY_TINY = pytest.mark.parametrize("name", TINY)
BACKENDS = ("torch", "auto")
MASKED = How(execution="masked")
PROMPT = 4


@cache
def tiny(name: str) -> tuple[PreTrainedModel, Learned]:
    model = random_model(name, AutoModelForCausalLM)
    return model, learn(model, INPUT_IDS, blocks=blocks(model))


@cache
def embedded(dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, Learned]:
    source = find_model("sdlms-small", None)
    model = load_causal_model(source, dtype, torch.device("cpu"))
    return model, learn(model, prose(), blocks=blocks(model))


@cache
def prose() -> Tensor:
    text = "The old man walked to the river and sat down. He looked at the water for a long time. "
    ids = load_tokenizer(find_model("sdlms-small", None))(text * 3)["input_ids"][:48]
    return torch.tensor(ids).view(2, -1)


def blocks(model: PreTrainedModel) -> dict[int, np.ndarray]:
    d_mlp = n_units(model.config, "mlp_act")
    return {layer: np.arange(d_mlp) // 5 - 1 for layer in range(n_layers(model.config))}


@torch.no_grad()
def logits(model: PreTrainedModel, input_ids: Tensor = INPUT_IDS) -> Tensor:
    found: Tensor = model(input_ids).logits
    return found


@torch.no_grad()
def decoded(model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """Logits of a prompt, and of the other tokens one by one."""
    output = model(input_ids[:, :PROMPT], use_cache=True)
    found = [output.logits]
    for token in input_ids[:, PROMPT:].T:
        output = model(token[:, None], past_key_values=output.past_key_values, use_cache=True)
        found.append(output.logits)
    return torch.cat(found, 1)


class Snapshot:
    """Modules, weights, strides and hooks of a model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._parameters = dict(model.named_parameters())
        self._values = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._strides = {name: p.stride() for name, p in self._parameters.items()}
        self._hooks = self._n_hooks()

    def _n_hooks(self) -> int:
        modules = self._model.modules()
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    def check(self) -> None:
        modules, parameters = dict(self._model.named_modules()), self._model.named_parameters()
        assert list(modules) == list(self._modules)
        assert all(modules[name] is module for name, module in self._modules.items())
        for name, parameter in parameters:
            assert parameter is self._parameters[name]
            assert torch.equal(parameter, self._values[name])
            assert parameter.stride() == self._strides[name]
        assert self._n_hooks() == self._hooks


# Sparse execution is masked execution


def executions(
    model: PreTrainedModel, learned: Learned, rule: str, keep: float, input_ids: Tensor
) -> Iterator[tuple[Tensor, Tensor, Gates]]:
    """Logits with masks and with what skips the work, of whole rows and of a decode."""
    run = decoded if rule == "sequence" else logits
    with gated(model, rule, keep, learned=learned, how=How(execution="masked", force_at_one=True)):
        expected = run(model, input_ids)
    for backend in BACKENDS:
        how = How(execution="sparse", backend=backend, force_at_one=True)
        with gated(model, rule, keep, learned=learned, how=how) as gates:
            yield expected, run(model, input_ids), gates


@EVERY_TINY
@EVERY_RULE
def test_sparse_execution_is_masked_execution(name: str, rule: str) -> None:
    model, learned = tiny(name)
    before = Snapshot(model)
    for ids in (INPUT_IDS, INPUT_IDS[:1]) if rule == "sequence" else (INPUT_IDS,):
        for expected, found, gates in executions(model, learned, rule, 0.3, ids):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            assert (found - logits_outside(name, ids)).abs().max() > 1e-2
            assert 0.1 < gates.kept_fraction() < 0.6
    before.check()


@cache
def dense_logits(name: str) -> Tensor:
    return logits(random_model(name, AutoModelForCausalLM))


def logits_outside(name: str, input_ids: Tensor) -> Tensor:
    return dense_logits(name)[: len(input_ids)]


@EVERY_RULE
def test_sparse_execution_of_a_trained_model_is_masked_execution(rule: str) -> None:
    """192 neurons: the kernel's order of sums is its own here."""
    model, learned = embedded()
    for expected, found, _ in executions(model, learned, rule, 0.3, prose()[:1]):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=3e-5)


@EVERY_TINY
@EVERY_RULE
def test_sparse_execution_at_keep_one_is_the_dense_model(name: str, rule: str) -> None:
    model, learned = tiny(name)
    for expected, found, gates in executions(model, learned, rule, 1.0, INPUT_IDS[:1]):
        torch.testing.assert_close(found, logits_outside(name, INPUT_IDS[:1]), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        assert gates.kept_fraction() == pytest.approx(1)


@EVERY_RULE
def test_in_bfloat16_the_products_of_the_same_neurons_agree(rule: str) -> None:
    """Inputs are given to the maps: rounded otherwise, the set itself could be another one."""
    model, learned = embedded(torch.bfloat16)
    mlp = model.base_model.layers[1].mlp
    x = torch.randn(1, 6, 192, generator=torch.Generator().manual_seed(0)).bfloat16()
    resid = torch.randn(1, 6, 48, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = {}
    for execution in ("masked", "sparse"):
        how = How(execution=execution, layers=(1,))
        with gated(model, rule, 0.3, learned=learned, how=how), torch.no_grad():
            up, down = mlp.dense_h_to_4h(resid), mlp.dense_4h_to_h
            if up.shape[-1] < 192:  # compact: the neurons that there are
                found[execution] = mlp(resid)
            else:
                found[execution] = down(x) if rule != "static" else mlp(resid)
    scale = found["masked"].float().abs().max().clamp(min=1)
    assert ((found["sparse"] - found["masked"]).float().abs().max() / scale) < 2e-2


@EVERY_RULE
def test_auto_decodes_what_masks_decode(rule: str) -> None:
    model, learned = embedded()
    with gated(model, rule, 0.3, learned=learned, how=MASKED):
        expected = decoded(model, prose()[:1, :12])
    for backend in BACKENDS:
        with gated(model, rule, 0.3, learned=learned, how=How(backend=backend)):
            found = decoded(model, prose()[:1, :12])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=3e-5)


# Keep


@EVERY_RULE
def test_keep_one_is_the_unmodified_model(rule: str) -> None:
    model, learned = tiny("llama")
    before, expected = Snapshot(model), logits(model)
    with gated(model, rule, 1.0, learned=learned) as gates:
        before.check()
        assert torch.equal(logits(model), expected)
        assert gates.kept_fraction() == 1
        assert gates.by_layer() == {0: 1, 1: 1, 2: 1}


@EVERY_RULE
@pytest.mark.parametrize("execution", ["masked", "sparse", "auto"])
def test_keep_can_be_set_while_the_context_is_open(rule: str, execution: str) -> None:
    model, learned = tiny("llama")
    before, dense = Snapshot(model), logits(model)
    run = decoded if rule == "sequence" else logits
    how = How(execution=execution)
    ids = INPUT_IDS[:1]
    expected = {}
    for keep in (0.2, 0.6):
        with gated(model, rule, keep, learned=learned, how=how):
            expected[keep] = run(model, ids)
    with gated(model, rule, 0.2, learned=learned, how=how) as gates:
        for keep in (0.6, 0.2, 1.0, 0.6):
            gates.keep = keep
            assert gates.keep == keep
            if keep == 1:
                before.check()
                assert torch.equal(logits(model), dense)
            elif rule != "random":  # whose generator goes on
                torch.testing.assert_close(run(model, ids), expected[keep], rtol=1e-5, atol=1e-5)
        with pytest.raises(UserError, match="keep must be above 0"):
            gates.keep = 0
    before.check()


@EVERY_TINY
def test_the_kept_fraction_is_what_was_kept(name: str) -> None:
    model, learned = tiny(name)
    seen: dict[int, list[Tensor]] = {}
    d_mlp = n_units(model.config, "mlp_act")
    for rule in RULES:
        seen.clear()
        how = How(
            execution="masked",
            layers=(0, 2),
            prompt_tokens=PROMPT if rule == "sequence" else 0,
            on_mask=lambda layer, mask: seen.setdefault(layer, []).append(mask),
        )
        with gated(model, rule, 0.3, learned=learned, how=how) as gates:
            assert np.isnan(gates.kept_fraction())
            logits(model)
            masks = {layer: torch.cat(found) for layer, found in seen.items()}
            assert {layer: mask.shape for layer, mask in masks.items()} == {
                0: (3, 9, d_mlp),
                2: (3, 9, d_mlp),
            }
            if rule == "sequence":
                assert all(mask[:, :PROMPT].all() for mask in masks.values())
                masks = {layer: mask[:, PROMPT:] for layer, mask in masks.items()}
            if rule != "input":  # whose fraction is of all matrices
                for layer, mask in masks.items():
                    expected = float(mask.float().mean())
                    assert gates.by_layer()[layer] == pytest.approx(expected)
            assert gates.kept_fraction() == pytest.approx(np.mean(list(gates.by_layer().values())))
            gates.reset()
            assert np.isnan(gates.kept_fraction())


# The model comes back


class Stop(Exception):
    pass


@EVERY_RULE
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("execution", ["masked", "sparse"])
@pytest.mark.parametrize("error", [None, Stop, KeyboardInterrupt])
def test_the_model_is_restored_however_the_block_ends(
    rule: str, name: str, execution: str, error: type[BaseException] | None
) -> None:
    model, learned = tiny(name)
    before = Snapshot(model)

    def fail(acts: Tensor) -> Tensor:
        if error is not None:
            raise error
        return acts

    def block() -> None:
        how = How(execution=execution)
        with gated(model, rule, 0.3, learned=learned, how=how):
            decoded(model, INPUT_IDS[:1])
            with replacing(model, 1, "mlp_out", fail):
                decoded(model, INPUT_IDS[:1])

    if error is None:
        block()
    else:
        with pytest.raises(error):
            block()
    before.check()
    with pytest.raises(ZeroDivisionError), gated(model, rule, 0.3, learned=learned):
        raise ZeroDivisionError
    before.check()
    assert torch.equal(logits(model), dense_logits(name))


def test_contexts_are_nested_on_different_layers_only() -> None:
    model, learned = tiny("llama")
    before = Snapshot(model)
    with gated(model, "static", 0.3, learned=learned, how=How(layers=(0, 2))):
        middle = Snapshot(model)
        with gated(model, "post-norm", 0.5, how=How(layers=(1,))) as inner:
            logits(model)
            assert list(inner.by_layer()) == [1]
        middle.check()
        with (
            pytest.raises(UserError, match=r"layer 2.* is gated already"),
            gated(model, "post-norm", 0.5, how=How(layers=(1, 2))),
        ):
            pass
        middle.check()
    before.check()


@EVERY_RULE
def test_a_pause_is_the_dense_model(rule: str) -> None:
    model, learned = tiny("gpt_neox-parallel")
    dense = logits(model)
    for how in (MASKED, How(hold_both=True)):
        with gated(model, rule, 0.3, learned=learned, how=how) as gates:
            first = logits(model)
            with gates.paused():
                assert torch.equal(logits(model), dense)
            if rule != "random":
                assert torch.equal(logits(model), first)
    with (
        gated(model, rule, 0.3, learned=learned) as gates,
        pytest.raises(ValueError, match="hold_both"),
        gates.paused(),
    ):
        pass
    assert torch.equal(logits(model), dense)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@EVERY_RULE
def test_no_second_copy_of_the_weights_is_held(name: str, rule: str) -> None:
    model, learned = tiny(name)
    dense = held_bytes(model)
    with gated(model, rule, 0.3, learned=learned) as gates:
        decoded(model, INPUT_IDS[:1])
        extra = [value for layer in gates._mlps for value in rows_of(layer)]
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in extra}
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        assert set(held) <= own
        assert held_bytes(model) == dense


def rows_of(layer: object) -> list[Tensor]:
    rows = getattr(layer, "_rows", None) or []
    return [one.rows for one in (rows if isinstance(rows, list) else [rows])]


def held_bytes(model: PreTrainedModel) -> int:
    storages = [p.untyped_storage() for p in model.parameters()]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


# Sites inside


@EVERY_RULE
@EVERY_TINY
def test_sites_inside_are_before_the_rule_and_after_it(name: str, rule: str) -> None:
    model, learned = tiny(name)
    base, masks = model.base_model, {}
    how = How(execution="masked", on_mask=masks.__setitem__, prompt_tokens=PROMPT)
    with recording(base, [0], ["mlp_act"]) as recorded:
        neurons = recorded.run(INPUT_IDS)["mlp_act", 0]
    with gated(model, rule, 0.3, learned=learned, how=how):
        with recording(base, [0], ["mlp_act", "mlp_out"]) as recorded:
            found = recorded.run(INPUT_IDS)
            mask = masks[0]
        if rule != "input":  # whose inputs of the neurons are fewer
            assert torch.equal(found["mlp_act", 0], neurons)
        out = logits(model)
        with replacing(model, 0, "mlp_act", torch.zeros_like):
            assert not torch.equal(logits(model), out)
    kept = torch.where(mask, found["mlp_act", 0], 0)
    with (
        replacing(model, 0, "mlp_act", lambda acts: kept),
        recording(base, [0], ["mlp_out"]) as recorded,
    ):
        expected = recorded.run(INPUT_IDS)["mlp_out", 0]
    torch.testing.assert_close(found["mlp_out", 0], expected, rtol=1e-5, atol=1e-5)


def test_neurons_that_are_replaced_by_zero_are_not_chosen() -> None:
    model, _ = tiny("gpt_neox-parallel")
    masks: dict[int, Tensor] = {}
    how = How(execution="masked", on_mask=masks.__setitem__)

    def first_ten_off(acts: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(acts[..., :10]), acts[..., 10:]], -1)

    for opened in ("inside", "outside"):
        masks.clear()
        if opened == "inside":
            with gated(model, "post-norm", 0.3, how=how):
                with replacing(model, 1, "mlp_act", first_ten_off):
                    logits(model)
        else:
            with replacing(model, 1, "mlp_act", first_ten_off):
                with gated(model, "post-norm", 0.3, how=how):
                    logits(model)
        assert not masks[1][..., :10].any()
        assert masks[0][..., :10].any()
        assert (masks[1].sum(-1) == n_kept(0.3, 40)).all()


# Generation


@pytest.mark.parametrize("n_rows", [1, 2])
@EVERY_RULE
def test_a_user_generates_inside(rule: str, n_rows: int) -> None:
    model, learned = embedded()
    before = Snapshot(model)
    ids, mask = prose()[:n_rows, :8].clone(), torch.ones(n_rows, 8, dtype=torch.int64)
    if n_rows == 2:
        mask[1, :3] = 0  # padded on the left
    arguments = {"attention_mask": mask, "max_new_tokens": 5, "min_new_tokens": 5}
    arguments |= {"do_sample": False, "pad_token_id": 0}
    with gated(model, rule, 0.3, learned=learned, how=MASKED):
        expected = model.generate(ids, **arguments)
    with gated(model, rule, 0.3, learned=learned) as gates:
        found = model.generate(ids, **arguments)
        assert gates.kept_fraction() < 0.5
    assert found.shape == (n_rows, 13)
    if rule != "random":
        assert torch.equal(found, expected)
    before.check()


def test_padding_on_the_left_does_not_choose_the_neurons_of_a_prompt() -> None:
    model, _ = embedded()
    padded = torch.cat([torch.full((1, 3), 7), prose()[:1, :8]], 1)
    mask = torch.tensor([[0] * 3 + [1] * 8])
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with gated(model, "sequence", 0.2, how=MASKED) as gates, torch.no_grad():
        model(prose()[:1, :8])
        expected = [layer._kept for layer in gates._mlps]
        for junk in (7, 9):
            padded[:, :3] = junk
            model(padded, attention_mask=mask, position_ids=positions)
            for layer, kept in zip(gates._mlps, expected, strict=True):
                assert torch.equal(layer._kept, kept)


# What is refused


def test_what_cannot_be_gated_is_refused_before_anything_is_swapped() -> None:
    model, learned = tiny("llama")
    before = Snapshot(model)
    unblocked = learn(model, INPUT_IDS, layers=(0, 1))
    for rule, keep, known, layers, message in (
        ("nonsense", 0.3, None, None, "there is no rule 'nonsense'"),
        ("post-norm", 0.0, None, None, "keep must be above 0"),
        ("threshold", 0.3, None, None, "rule 'threshold' needs a calibration sample"),
        ("threshold", 0.3, unblocked, None, "layer 2 was not learned"),
        ("blocks", 0.3, unblocked, (0,), "rule 'blocks' needs blocks of neurons; layer 0"),
    ):
        with (
            pytest.raises(UserError, match=message) as found,
            gated(model, rule, keep, learned=known, how=How(layers=layers)),
        ):
            pass
        assert "\n" not in str(found.value)
        before.check()
    with (
        pytest.raises(ValueError, match="do not exist"),
        gated(model, "input", 0.3, learned=learned, how=How(layers=(9,))),
    ):
        pass
    bert = random_model("bert")
    with pytest.raises(UserError, match="is an encoder"), gated(bert, "post-norm", 0.3):
        pass


def test_gradients_flow_where_they_are_asked_for() -> None:
    """One row with gradients is masked: no backend has any."""
    model = random_model("llama", AutoModelForCausalLM)
    with gated(model, "post-norm", 0.5):
        model(INPUT_IDS[:1, :1]).logits.sum().backward()
    grad = model.model.layers[0].mlp.gate_proj.weight.grad
    assert grad is not None
    assert grad.abs().sum() > 0
