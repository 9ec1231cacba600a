"""A model runs once, over real tokens only, and keeps no more than was asked for."""

import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.acts.explain import cost_of
from sdlms.acts.handle import Acts
from sdlms.acts.live_source import LiveSource, live_source
from sdlms.acts.token_rows import rows_of
from sdlms.errors import UserError
from sdlms.models.architectures import Site
from sdlms.models.recording import Keep, Key, Recording
from tests.acts.samples import Counting, acts_of, rows_with
from tests.models.tiny_models import random_model

LENGTHS = [5, 0, 9, 1, 9, 3]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return random_model("gpt_neox-parallel")


def source_of(
    model: PreTrainedModel, site: str = "resid_post", budget: int = 12, **options: Any
) -> LiveSource:
    source = live_source(model, rows_with(LENGTHS), "all", site, "float32", **options)
    source.budget = budget
    return source


@torch.no_grad()
def alone(model: PreTrainedModel, document: int, layer: int) -> torch.Tensor:
    """`[token, unit]` of one document that is run by itself."""
    rows = rows_with(LENGTHS)
    ids = torch.from_numpy(rows.ids[rows.offsets[document] : rows.offsets[document + 1]]).long()
    return model(ids[None], output_hidden_states=True).hidden_states[layer + 1][0]


@pytest.mark.parametrize("name", ["gpt2-n_inner", "gpt_neox-sequential", "llama", "opt", "bert"])
def test_rows_are_those_of_each_document_alone(name: str) -> None:
    """Whatever stands beside it in the batch: encoders get their mask."""
    model = random_model(name)
    found = acts_of(source_of(model, budget=40)).realize()
    for document, length in enumerate(LENGTHS):
        if length:
            for layer in (0, 1):
                expected = alone(model, document, layer)
                rows = found.tensor[document, layer, :length]
                torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5)
        assert not found.tensor[document, :, length:].any()


def test_an_encoder_is_given_its_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    masks: list[torch.Tensor | None] = []
    run = Recording.run_keeping

    def seen(self: Recording, keep: Keep, ids: torch.Tensor, mask: torch.Tensor | None) -> Any:
        masks.append(mask)
        return run(self, keep, ids, mask)

    monkeypatch.setattr(Recording, "run_keeping", seen)
    acts_of(source_of(random_model("bert"), budget=100)).mean_pool().realize()
    (mask,) = masks
    assert mask is not None and sorted(mask.sum(1).tolist()) == [1, 3, 5, 9, 9]


def test_only_documents_that_are_wanted_run(model: PreTrainedModel) -> None:
    source = source_of(model)
    seen: list[int] = []
    handle = model.embed_in.register_forward_hook(lambda m, args, out: seen.append(len(args[0])))
    acts = acts_of(source).slice_batch([3, 1, 0])
    assert acts.last_pool().realize().tensor.isnan().any(-1).tolist() == [
        [False] * 3, [True] * 3, [False] * 3,
    ]  # fmt: skip
    acts_of(source).slice_batch([1]).realize()
    handle.remove()
    assert sum(seen) == 2


def test_only_layers_that_are_wanted_run(model: PreTrainedModel) -> None:
    entered: list[int] = []
    handles = [
        block.register_forward_pre_hook(lambda m, args, i=i: entered.append(i))  # type: ignore[misc]
        for i, block in enumerate(model.layers)
    ]
    acts_of(source_of(model)).select_layers(1).realize()
    for handle in handles:
        handle.remove()
    assert set(entered) == {0, 1}


def test_several_pools_share_each_forward(model: PreTrainedModel) -> None:
    from sdlms.acts.handle import realize_all

    source = source_of(model)
    counting = Counting(source)
    acts = acts_of(counting)
    realize_all(acts.mean_pool(), acts.max_pool().max_pool("l"), acts.select_layers(0))
    assert counting.calls.count("scan") == 1
    n_forwards = source.n_forwards
    acts.realize()
    assert source.n_forwards == 2 * n_forwards


def largest_kept(
    model: PreTrainedModel, pool: bool, monkeypatch: pytest.MonkeyPatch
) -> tuple[int, int]:
    """Elements that a batch leaves behind in all, and those of one layer's `[row, unit]`."""
    kept: list[int] = []
    run = Recording.run_keeping

    def seen(self: Recording, *args: Any) -> Any:
        found = run(self, *args)
        kept.append(sum(t.numel() for tensors in found.values() for t in tensors))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(Recording, "run_keeping", seen)
        acts = acts_of(source_of(model, "mlp_act", budget=1000))
        (acts.mean_pool() if pool else acts).realize()
    return max(kept), sum(LENGTHS) * acts.n_units


def test_what_is_pooled_is_pooled_inside_the_forward(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, one_layer = largest_kept(model, True, monkeypatch)
    assert kept == 3 * 5 * one_layer // sum(LENGTHS)  # three layers, five documents with tokens
    kept, one_layer = largest_kept(model, False, monkeypatch)
    assert kept == 3 * one_layer


def test_explain_knows_that_unpooled_layers_wait_for_one_another(model: PreTrainedModel) -> None:
    source = source_of(model, budget=10)
    row = source.description.n_units * 4
    acts = acts_of(source)
    assert cost_of(source, acts.mean_pool()._plan)[1].buffer_bytes == 10 * row
    assert cost_of(source, acts._plan)[1].buffer_bytes == 10 * row * 4
    assert cost_of(source, acts.max_pool("l").mean_pool()._plan)[1].buffer_bytes == 10 * row * 4


@pytest.mark.parametrize("pools", [["s"], ["l"], ["s", "l"], ["max l", "mean s"], []])
def test_when_memory_runs_out_batches_are_halved_and_results_are_right(
    model: PreTrainedModel, pools: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    def built(source: LiveSource) -> Any:
        acts = acts_of(source)
        for pool in pools:
            kind, _, axis = pool.rpartition(" ")
            acts = getattr(acts, f"{kind or 'mean'}_pool")(axis)
        return acts

    expected = built(source_of(model)).realize().tensor
    source = source_of(model, budget=1000)

    def full(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        if output.shape[0] > 2:  # in the middle: the first layer was recorded already
            raise torch.OutOfMemoryError("no room")

    handle = model.layers[1].register_forward_hook(full)
    found = built(source).realize().tensor
    handle.remove()
    assert source.budget < 1000 and "out of memory: batches are halved" in caplog.text
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    n_forwards, budget = source.n_forwards, source.budget
    built(source).realize()  # it stays as it was found
    assert source.budget == budget and source.n_forwards < 2 * n_forwards


def test_a_value_beyond_float16_is_refused_with_layer_and_document(model: PreTrainedModel) -> None:
    rows = rows_with(LENGTHS)
    source = live_source(model, rows, "all", "resid_post", "float16")

    def grown(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[1, 2] *= 1e7  # the second of the longest: document 4
        return output

    handle = model.layers[1].register_forward_hook(grown)
    with pytest.raises(
        UserError, match=r"collect: a value of layer 1, document 0{15}4, is beyond .* float16"
    ):
        acts_of(source).mean_pool().realize()
    handle.remove()
    acts_of(source).realize()  # no hook of ours is left, and the source can go on


def test_hooks_are_gone_and_no_gradient_is_kept(model: PreTrainedModel) -> None:
    found = acts_of(source_of(model)).realize()
    assert not found.tensor.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_head_is_left_aside() -> None:
    with_head = random_model("gpt2", AutoModelForCausalLM)
    found = acts_of(source_of(with_head)).realize().tensor
    base = acts_of(source_of(with_head.base_model)).realize().tensor
    assert torch.equal(found, base)


def test_nothing_is_loaded_or_run_before_it_is_needed(tiny_model: Path) -> None:
    source = live_source(str(tiny_model), rows_with(LENGTHS), [2], "mlp_act")
    assert source._model is None and source.n_forwards == 0
    assert source.description.dtype == torch.float16  # neurons
    acts = acts_of(source).mean_pool()
    acts.explain()
    assert source._model is None
    assert acts.realize().shape == (6, 1, 64)
    assert source._model is not None and source.n_forwards > 0


def test_stored_types_are_those_of_capture(model: PreTrainedModel) -> None:
    rows = rows_with([2])
    assert live_source(model, rows, 0, "resid_pre").description.dtype == torch.bfloat16
    assert live_source(model, rows, 0, "mlp_act").description.dtype == torch.float16
    assert live_source(model, rows, "50%", "mlp_out").description.layers == (2,)


# What does not fit


def test_bad_requests_are_one_clear_line(model: PreTrainedModel) -> None:
    rows = rows_with(LENGTHS)

    def refused(message: str, *args: Any) -> None:
        with pytest.raises(UserError, match=message) as error:
            live_source(*args)
        assert "\n" not in str(error.value)

    refused("site 'neurons' is none of mlp_act, mlp_out", model, rows, 0, "neurons")
    refused("there is no layer 3; the model has layers 0 to 2", model, rows, 3, "mlp_act")
    refused("'-1' is neither an index", model, rows, [0, -1], "mlp_act")
    refused("neither an index", model, rows, [], "mlp_act")
    refused("token ids must be 0 to 49", model, rows_of([[49], [50]]), 0, "mlp_act")
    refused("token ids must be 0 to 49", model, rows_of([[3, -1]]), 0, "mlp_act")
    refused("token ids must be 0 to 49", model, rows_of([[2**32 + 3]]), 0, "mlp_act")
    refused("'None' is neither an index", model, rows, [[1], [1, 2]], "mlp_act")
    for dtype in ("float64", "int8", torch.float32):
        refused(
            f"store_dtype '{dtype}' is none of float16, bfloat16, float32",
            model,
            rows,
            0,
            "mlp_act",
            dtype,
        )
    for other in (3, None, torch.nn.Linear(1, 1)):
        refused("is no transformers model, name or folder of one", other, rows, 0, "mlp_act")
    refused("no such model|nothing-like-it", "nothing-like-it", rows, 0, "mlp_act")
    short = random_model("gpt2")  # it reads 32
    refused(
        "document 1 has 33 tokens; the model reads 32",
        short,
        rows_of([[1], [2] * 33]),
        0,
        "mlp_act",
    )


def test_a_model_in_training_mode_is_refused(model: PreTrainedModel) -> None:
    model.train()
    try:
        with pytest.raises(UserError, match=r"training mode. Call model.eval\(\) first"):
            live_source(model, rows_with([2]), 0, "mlp_act")
    finally:
        model.eval()


def test_a_model_that_is_trained_meanwhile_is_refused_too(model: PreTrainedModel) -> None:
    acts = Acts._of(live_source(model, rows_with([2]), 0, "mlp_act"))
    model.train()
    try:
        with pytest.raises(UserError, match=r"training mode. Call model.eval\(\) first"):
            acts.realize()
    finally:
        model.eval()


# Its key


def test_a_key_tells_weights_tokens_types_and_sites_apart(model: PreTrainedModel) -> None:
    rows = rows_with(LENGTHS)
    base = live_source(model, rows, [0], "resid_post").fingerprint()
    masked = rows_with(LENGTHS, np.arange(sum(LENGTHS)) > 3)
    other_ids = rows_of([[3] * n for n in LENGTHS])
    prints = [
        base,
        live_source(model, masked, [0], "resid_post").fingerprint(),
        live_source(model, other_ids, [0], "resid_post").fingerprint(),
        live_source(model, rows, [0], "resid_pre").fingerprint(),
        live_source(model, rows, [0], "resid_post", "float32").fingerprint(),
        live_source(random_model("gpt_neox-sequential"), rows, [0], "resid_post").fingerprint(),
    ]
    renamed = replace(rows, document_ids=[name[::-1] for name in rows.document_ids])
    prints.append(live_source(model, renamed, [0], "resid_post").fingerprint())
    labelled = replace(rows, document_tasks=rows.document_tasks[::-1])  # tasks are labels
    prints.append(live_source(model, labelled, [0], "resid_post").fingerprint())
    with torch.no_grad():
        model.layers[2].mlp.dense_4h_to_h.bias[0] += 1e-3
        prints.append(live_source(model, rows, [0], "resid_post").fingerprint())
        model.layers[2].mlp.dense_4h_to_h.bias[0] -= 1e-3
    assert len(set(prints)) == len(prints)
    assert live_source(model, rows, [2, 1], "resid_post").fingerprint() == base  # of any layers


def test_layers_are_dropped_one_by_one_inside_a_forward(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the neurons of all layers only those of the layer at hand are alive."""
    seen: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    record = Recording._record

    def watched(self: Recording, key: Key, tensor: torch.Tensor) -> None:
        seen.append(weakref.ref(tensor))
        alive.append(sum(one() is not None for one in seen))
        record(self, key, tensor)

    monkeypatch.setattr(Recording, "_record", watched)
    site: Site = "mlp_act"
    acts_of(source_of(model, site, budget=1000)).mean_pool().realize()
    assert alive == [1, 1, 1]


def test_what_a_batch_left_is_gone_when_the_next_begins(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[weakref.ref[torch.Tensor]] = []
    run = Recording.run_keeping

    def watched(self: Recording, *args: Any) -> Any:
        assert not any(one() is not None for one in left)
        found = run(self, *args)
        left.extend(weakref.ref(t) for tensors in found.values() for t in tensors)
        return found

    monkeypatch.setattr(Recording, "run_keeping", watched)
    source = source_of(model, budget=9)
    acts_of(source).realize()
    assert source.n_forwards > 2 and len(left) == 3 * source.n_forwards
