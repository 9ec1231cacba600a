from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.dynamic import kept_neurons as module
from sdlms.dynamic.kept_neurons import Kept, count_kept, masked, scored_rows
from sdlms.dynamic.quality import Gate
from sdlms.models.architectures import n_units
from sdlms.models.gated import How, gated
from tests.dynamic.random_windows import FIRST, random_windows
from tests.models.tiny_models import random_model

WINDOWS = random_windows()
LAYERS = (0, 2)
MEMBERS = {layer: [np.array([0, 3, 5]), np.array([1, 8])] for layer in LAYERS}
EVERYTHING = 1000


def causal(name: str) -> PreTrainedModel:
    return random_model(name, AutoModelForCausalLM)


def counted(model: PreTrainedModel, gate: Gate, budget: int = EVERYTHING) -> Kept:
    return count_kept(model, gate, WINDOWS, MEMBERS, budget, lambda _: None)


def masks_of(model: PreTrainedModel, gate: Gate) -> dict[int, NDArray[np.bool_]]:
    """`[window, token, neuron]` of each layer, all windows in one batch."""
    found: dict[int, NDArray[np.bool_]] = {}

    def keep(layer: int, mask: Tensor) -> None:
        found[layer] = mask.numpy().copy()

    how = masked(gate, WINDOWS, keep)
    with torch.no_grad(), gated(model, gate.rule, gate.keep, learned=gate.learned, how=how):
        model(torch.from_numpy(WINDOWS.ids))
    return found


@pytest.mark.parametrize("name", ["gpt_neox-parallel", "gpt2", "opt", "gemma2"])
@pytest.mark.parametrize("rule", ["post-norm", "sequence"])
def test_counts_are_those_of_a_plain_loop(name: str, rule: str) -> None:
    model, gate = causal(name), Gate(rule, 0.3)
    found, masks = counted(model, gate), masks_of(model, gate)
    width = n_units(model.config, "mlp_act")
    by_task = {layer: np.zeros((2, width), np.int64) for layer in LAYERS}
    members, every = np.zeros((8, 2), np.int64), np.zeros(8, np.int64)
    for window, token in np.argwhere(WINDOWS.scored):
        document = WINDOWS.document[window, token]
        for layer in LAYERS:
            kept = masks[layer][window, FIRST + token]
            by_task[layer][WINDOWS.task[window]] += kept
            members[document] += [int(kept[own].sum()) for own in MEMBERS[layer]]
            every[document] += int(kept.sum())
    assert all((found.by_task[layer] == by_task[layer]).all() for layer in LAYERS)
    assert (found.members == members).all()
    assert (found.every == every).all()
    assert 0 < every.sum() < WINDOWS.scored.sum() * width * len(LAYERS)


def test_blocks_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, gate = causal("gpt_neox-parallel"), Gate("post-norm", 0.25)
    whole = counted(model, gate)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 7 * 40)
    small = counted(model, gate, budget=20)
    assert (small.every == whole.every).all()
    # 10 of 40 are kept of every token.
    assert (whole.every == 10 * len(LAYERS) * 10).all()


def test_a_layer_that_is_not_gated_keeps_every_neuron() -> None:
    model, n_tokens = causal("gpt_neox-parallel"), 4 * 2 * 5
    found = counted(model, Gate("post-norm", 0.25, how=How(layers=(2,))))
    assert (found.by_task[0] == n_tokens).all()
    assert found.by_task[2].sum() == 2 * n_tokens * 10
    dense = counted(model, Gate("post-norm", 1.0, how=How(force_at_one=True)))
    assert all((dense.by_task[layer] == n_tokens).all() for layer in LAYERS)
    assert (dense.every == 10 * 2 * 40).all()


def test_a_batch_that_did_not_fit_is_not_counted_twice() -> None:
    model, gate, budgets = causal("gpt_neox-parallel"), Gate("post-norm", 0.25), list[int]()
    whole, failed = counted(model, gate), list[int]()

    def once(block: Any, args: Any, kwargs: Any) -> None:
        if not failed:
            failed.append(1)
            raise MemoryError

    handle = model.base_model.layers[2].register_forward_pre_hook(once, with_kwargs=True)
    again = count_kept(model, gate, WINDOWS, MEMBERS, EVERYTHING, budgets.append)
    handle.remove()
    assert budgets == [72]
    assert (again.every == whole.every).all()
    assert all((again.by_task[n] == whole.by_task[n]).all() for n in LAYERS)


def test_each_scored_token_has_its_document() -> None:
    scored, documents = scored_rows(WINDOWS, [3, 4])
    assert scored.sum(axis=1).tolist() == [5, 5]
    assert not scored[:, :FIRST].any()
    assert documents.tolist() == [1] * 5 + [2] * 5


def test_masks_are_asked_for_and_the_context_but_its_last_token_is_the_prompt() -> None:
    how = masked(Gate("sequence", 0.5, how=How(seed=4, force_at_one=True)), WINDOWS)
    assert how == How(execution="masked", prompt_tokens=FIRST - 1, seed=4)
