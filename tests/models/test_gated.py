"""Gated MLPs: keep is set, the model comes back as it was, and what cannot be is refused."""

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sdlms.errors import UserError
from sdlms.models.architectures import n_units
from sdlms.models.gated import How, gated, learn
from sdlms.models.gating.rules import RULES
from sdlms.models.replacing import replacing
from tests.models.gated_models import (
    EVERY_RULE,
    EVERY_TINY,
    MASKED,
    PROMPT,
    Snapshot,
    decoded,
    dense_logits,
    logits,
    tiny,
)
from tests.models.tiny_models import INPUT_IDS, random_model

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


def test_a_pause_and_the_end_leave_nothing_to_set() -> None:
    model, _ = tiny("llama")
    before, dense = Snapshot(model), logits(model)
    with gated(model, "post-norm", 0.3, how=MASKED) as gates:
        first = logits(model)
        with gates.paused():
            for keep in (0.5, 1.0):
                with pytest.raises(ValueError, match="the gated context is paused"):
                    gates.keep = keep
            with pytest.raises(ValueError, match="is paused"), gates.paused():
                pass
            assert torch.equal(logits(model), dense)
        assert gates.keep == 0.3
        assert torch.equal(logits(model), first)
    for keep in (0.3, 1.0):
        with pytest.raises(ValueError, match="the gated context has ended"):
            gates.keep = keep
    with pytest.raises(ValueError, match="has ended"), gates.paused():
        pass
    before.check()
    with gated(model, "post-norm", 1.0) as gates:
        with gates.paused(), pytest.raises(ValueError, match="is paused"):
            gates.keep = 0.5
        gates.keep = 0.5
        assert not torch.equal(logits(model), dense)
    before.check()


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
