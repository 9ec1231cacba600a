"""Ablations of real captures, against plain loops over documents with transformers' own models."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.storage.counts import read_counts
from sdlms.structure.ablation import Compute
from sdlms.structure.ablation_rows import CORRELATION, NO_UNIT, SPECIFIC, Row
from sdlms.structure.ablation_sets import TaskSets, choose_sets
from tests.stages.sae_runs import random_dictionary
from tests.structure.ablated_runs import (
    WIDTH,
    ablation_of,
    captured,
    chosen_units,
    latents_of_run,
    stored,
    texts_captured,
)

Change = Callable[[Tensor], Tensor]
LAYER = 2
SITES = ("--site", "mlp_act,resid_post", "--layers", LAYER)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Run:
    return captured(tmp_path_factory.mktemp("shared"), tiny_model, *SITES)


def plain_model(folder: Path) -> Any:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval()


def documents_of(run: Run) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Task, ids and mask of each."""
    offsets, tasks = stored(run, "/tokens/offsets"), stored(run, "/documents/task").tolist()
    ids, mask = stored(run, "/tokens/ids"), stored(run, "/tokens/mask")
    for task, first, last in zip(tasks, offsets[:-1], offsets[1:], strict=True):
        own = torch.from_numpy(ids[first:last].astype(np.int64))
        yield task.decode(), own, torch.from_numpy(mask[first:last] > 0)


@torch.no_grad()
def losses_by_hand(run: Run, model: Any, site: str, change: Change) -> dict[str, float]:
    """Mean loss of each task's tokens behind one of mask 1; `change` is for rows of mask 1."""
    block = model.gpt_neox.layers[LAYER]
    sums: dict[str, list[float]] = {}
    for task, ids, mask in documents_of(run):

        def edited(acts: Tensor, mask: Tensor = mask) -> Tensor:
            acts = acts.clone()
            acts[0, mask] = change(acts[0, mask])
            return acts

        if site == "mlp_act":
            module = block.mlp.dense_4h_to_h
            handle = module.register_forward_pre_hook(lambda _, args, e=edited: (e(args[0]),))
        else:
            handle = block.register_forward_hook(lambda _, args, out, e=edited: e(out))
        logits = model(ids[None]).logits[0]
        handle.remove()
        losses = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
        sums.setdefault(task, []).extend(losses[mask[:-1]].tolist())
    return {task: float(np.mean(own)) for task, own in sums.items()}


def matrix_by_hand(
    run: Run,
    model: Any,
    site: str,
    sets: Sequence[TaskSets],
    hold: Callable[..., Change],
) -> list[float]:
    """The cells of the matrix, in its order."""
    clean = losses_by_hand(run, model, site, lambda acts: acts)
    cells = []
    for own in sets:
        for several in ([own.specialized], own.random):
            found = [losses_by_hand(run, model, site, hold(units)) for units in several]
            cells += [float(np.mean([each[t] for each in found])) - clean[t] for t in clean]
    return cells


def held(mean: Tensor) -> Callable[..., Change]:
    """By a loop over units."""

    def hold(units: NDArray[np.int64]) -> Change:
        def change(acts: Tensor) -> Tensor:
            for unit in units.tolist():
                acts[:, unit] = mean[unit]
            return acts

        return change

    return hold


def mean_of(run: Run, site: str) -> Tensor:
    rows = stored(run, f"/{site}/layer_{LAYER}")[stored(run, "/tokens/mask") > 0]
    return torch.from_numpy(rows.astype(np.float64).mean(axis=0)).float()


@pytest.mark.parametrize(("site", "n_units"), [("mlp_act", 64), ("resid_post", 24)])
def test_changes_are_those_of_a_plain_loop(
    shared: Run, tiny_model: Path, site: str, n_units: int
) -> None:
    units = chosen_units(n_units, [3, 4], [9])
    part = ablation_of(shared, [LAYER], site).layer(LAYER, units)
    sets = choose_sets(units, 2, (0, LAYER))
    assert [own.specialized.tolist() for own in sets] == [[3, 4], [9]]
    hold = held(mean_of(shared, site))
    expected = matrix_by_hand(shared, plain_model(tiny_model), site, sets, hold)
    found = [row["delta_nats"] for row in part["matrix"]]
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.abs(found).max() > 1e-3


def test_latents_are_those_of_a_plain_loop(shared: Run, tiny_model: Path) -> None:
    """Encoded by hand as a standard SAE does; its error stays."""
    run = latents_of_run(shared.path.parents[1], shared, (LAYER,))
    weights = random_dictionary(LAYER, 24, WIDTH).tensors
    rows = stored(shared, f"/resid_post/layer_{LAYER}")[stored(shared, "/tokens/mask") > 0]

    def encoded(acts: Tensor) -> Tensor:
        return ((acts - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]).relu()

    mean = encoded(torch.from_numpy(rows)).mean(0)

    def hold(latents: NDArray[np.int64]) -> Change:
        def change(acts: Tensor) -> Tensor:
            before = encoded(acts)
            after = held(mean)(latents)(before.clone())
            error = acts - (before @ weights["W_dec"] + weights["b_dec"])
            return after @ weights["W_dec"] + weights["b_dec"] + error

        return change

    units = chosen_units(WIDTH, [0, 5], [6, 7])
    part = ablation_of(run, [LAYER]).layer(LAYER, units)
    sets = choose_sets(units, 2, (0, LAYER))
    expected = matrix_by_hand(shared, plain_model(tiny_model), "resid_post", sets, hold)
    found = [row["delta_nats"] for row in part["matrix"]]
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.abs(found).max() > 1e-3


SEVEN, EIGHT = 23, 24  # ids of the digits
CAUSAL_UNIT, IDLE_UNIT = 11, 12


@torch.no_grad()
def plant_(model: Any) -> None:
    """One neuron sees a digit and predicts it again; another sees another and does nothing."""
    for name, weights in model.named_parameters():
        if name.endswith(("dense.weight", "dense_4h_to_h.weight", "bias")):
            weights.zero_()
    block = model.gpt_neox.layers[LAYER]
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    for token, unit in ((SEVEN, CAUSAL_UNIT), (EIGHT, IDLE_UNIT)):
        seen = block.post_attention_layernorm(embedding.weight[token])
        block.mlp.dense_h_to_4h.weight[unit] = seen / seen.norm()
        block.mlp.dense_h_to_4h.bias[unit] = -0.8 * seen.norm()
    direction = unembedding.weight[SEVEN]
    block.mlp.dense_4h_to_h.weight[:, CAUSAL_UNIT] = 3 * direction / direction.norm()


def test_a_planted_unit_is_causal_and_a_planted_correlation_is_none(
    work: Path, tiny_relu_model: Path
) -> None:
    model = plain_model(tiny_relu_model)
    plant_(model)
    model.save_pretrained(shutil.copytree(tiny_relu_model, work / "planted"))
    texts = {
        "sevens": ["7" * n for n in range(20, 35)],
        "eights": ["8" * n for n in range(20, 35)],
        "zeros": ["0" * n for n in range(20, 35)],
    }
    run = texts_captured(work, work / "planted", texts, "--site", "mlp_act", "--layers", LAYER)
    counts = read_counts(run.path / "counts.h5", f"/mlp_act/layer_{LAYER}/counts")
    for unit, task in ((CAUSAL_UNIT, 0), (IDLE_UNIT, 1)):
        fired = counts[:, unit].reshape(3, 15).sum(axis=1)
        assert np.flatnonzero(fired).tolist() == [task]
    units = chosen_units(64, [CAUSAL_UNIT], [IDLE_UNIT], [])
    part = ablation_of(run, [LAYER]).layer(LAYER, units)
    rows = {(row["task"], row["selection"]): row for row in part["rows"]}
    causal, idle, none = (rows[task, "specialized"] for task in texts)
    assert [row["reading"] for row in (causal, idle, none)] == [SPECIFIC, CORRELATION, NO_UNIT]
    assert min(causal["excess_nats_low"], causal["difference_nats_low"]) > 0.5
    assert numbers(idle) == [0.0] * 12
    assert np.isnan(numbers(none)).all()


def numbers(row: Row) -> list[float]:
    return [value for name, value in row.items() if "_nats" in name]


def test_one_seed_gives_the_same_bytes_and_another_does_not(shared: Run) -> None:
    units = chosen_units(64, [3, 4], [9])

    def found(seed: int, compute: Compute | None = None) -> str:
        settings: dict[str, Any] = {} if compute is None else {"compute": compute}
        ablation = ablation_of(shared, [LAYER], "mlp_act", seed=seed, **settings)
        return json.dumps(ablation.layer(LAYER, units), sort_keys=True)

    assert found(0) == found(0) != found(1)
    rounded = found(0, Compute(torch.device("cpu"), torch.bfloat16))
    one, other = (
        [row["delta_nats"] for row in json.loads(text)["matrix"]] for text in (found(0), rounded)
    )
    assert one == pytest.approx(other, abs=0.05)


def test_each_task_has_its_share_of_the_tokens_in_whole_documents(shared: Run) -> None:
    lengths: dict[str, list[int]] = {}
    for task, _, mask in documents_of(shared):
        lengths.setdefault(task, []).append(int(mask.sum()))
    units = chosen_units(64, [3], [9])
    for row in ablation_of(shared, [LAYER], "mlp_act", tokens=400).layer(LAYER, units)["rows"]:
        own = lengths[row["task"]]
        assert 1 <= row["in_task_documents"] < len(own)
        # The last token of a document predicts nothing.
        assert row["in_task_tokens"] + row["in_task_documents"] <= 200
    for row in ablation_of(shared, [LAYER], "mlp_act").layer(LAYER, units)["rows"]:
        own = lengths[row["task"]]
        assert row["in_task_tokens"] == sum(own) - len(own)


def test_without_units_the_model_is_not_loaded(work: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, work / "model")
    run = captured(work, work / "model", *SITES)
    ablation = ablation_of(run, [LAYER], "mlp_act")
    shutil.rmtree(work / "model")
    rows = ablation.layer(LAYER, chosen_units(64))["rows"]
    assert [row["reading"] for row in rows] == [NO_UNIT, ""] * 2


def test_weights_that_changed_meanwhile_are_one_line(work: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, work / "model")
    ablation = ablation_of(captured(work, work / "model", *SITES), [LAYER], "mlp_act")
    weights = work / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match=r"^model .* changed since .*Or leave --ablate out\.$"):
        ablation.layer(LAYER, chosen_units(64, [3]))


def specialized_units(run: Run, layer: int) -> dict[str, NDArray[Any]]:
    """By the share that a task has of a unit's firing rates, as if all were significant."""
    counts = read_counts(run.path / "counts.h5", f"/mlp_act/layer_{layer}/counts")
    tasks = stored(run, "/documents/task")
    names = list(dict.fromkeys(tasks.tolist()))
    n_tokens = read_counts(run.path / "counts.h5", "/documents/n_tokens")
    rates = np.array([counts[tasks == n].sum(0) / n_tokens[tasks == n].sum() for n in names])
    found = chosen_units(counts.shape[1])
    found["SI_adjusted"] = rates.max(axis=0) / rates.sum(axis=0).clip(1e-9)
    found["preferred_task"], found["q"] = rates.argmax(axis=0), np.zeros(counts.shape[1])
    found["fired"] = counts.sum(axis=0)
    found["dead"] = found["fired"] == 0
    return found


def test_a_trained_model_needs_its_specialized_neurons_for_sums(work: Path) -> None:
    """Of `sdlms-small`, at its first layer; random neurons matter less."""
    run = captured(work, "sdlms-small", "--max-tokens", 1500, "--layers", 0)
    part = ablation_of(run, [0]).layer(0, specialized_units(run, 0))
    specialized, random = (row for row in part["rows"] if row["task"] == "math")
    assert specialized["reading"] == SPECIFIC
    assert specialized["in_task_delta_nats_low"] > 0.1
    assert abs(random["in_task_delta_nats"]) < 0.1
