from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.dynamic.losses import document_losses, losses_of_windows
from sdlms.dynamic.quality import Gate, measure_quality
from sdlms.dynamic.specialist_rows import ONLY, rows_of
from sdlms.dynamic.specialists import (
    RANDOM_SETS,
    Specialists,
    Specialized,
    blocks_of,
    check_neurons,
    silencing,
    specialized_of,
)
from sdlms.dynamic.windows import Windows
from sdlms.errors import UserError
from sdlms.models.gated import How, learn
from sdlms.models.gating.rules import RULES
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.storage.tables import read_table, write_table
from tests.dynamic.random_windows import random_windows
from tests.models.tiny_models import random_model
from tests.structure.ablated_runs import captured, latents_of_folder, sdlms

FIRST_TASK, SECOND_TASK, DEAD = 4, 9, 11  # neurons of layer 1 that are rigged
# Each task has its own half of the vocabulary.
WINDOWS = random_windows(documents=12, vocabulary=((1, 25), (25, 50)))


@torch.no_grad()
def rigged() -> PreTrainedModel:
    """A model two neurons of which know which half of the vocabulary comes next, and one is dead.

    The first fires on ids below 25 and makes them likelier; the second does so with the others.
    """
    model = random_model("gpt_neox-sequential", AutoModelForCausalLM, {"hidden_act": "gelu"})
    base: Any = model.base_model
    low = torch.arange(50) < 25
    for block in base.layers:
        for linear in (block.attention.dense, block.mlp.dense_4h_to_h):
            linear.weight.mul_(0.1)
            linear.bias.zero_()
            linear.weight[:2] = 0  # nothing else writes to the first two units
    base.embed_in.weight[:, 0] = torch.where(low, 2.0, -2.0)
    base.embed_in.weight[:, 1] = 0
    block, sign = base.layers[1], model.get_output_embeddings().weight
    block.post_attention_layernorm.weight[0], block.post_attention_layernorm.bias[0] = 1.0, 0.0
    base.final_layer_norm.weight[1] = 1.0
    sign[:, 1] = torch.where(low, 2.0, -2.0)
    for neuron, side in ((FIRST_TASK, 1.0), (SECOND_TASK, -1.0), (DEAD, 0.0)):
        block.mlp.dense_h_to_4h.weight[neuron] = 0
        block.mlp.dense_h_to_4h.weight[neuron, 0] = 4 * side
        block.mlp.dense_h_to_4h.bias[neuron] = 0.0 if side else -100.0
        block.mlp.dense_4h_to_h.weight[:, neuron] = 0
        block.mlp.dense_4h_to_h.weight[1, neuron] = side or 1.0
    return model


def planted(first: int = FIRST_TASK, second: int = SECOND_TASK) -> Specialized:
    others = np.setdiff1d(np.arange(40), [FIRST_TASK, SECOND_TASK, DEAD])
    return Specialized(
        "a run", ("math", "qa"), {1: [np.array([first]), np.array([second])]}, {1: others}
    )


def measuring(
    model: PreTrainedModel, specialized: Specialized, windows: Windows = WINDOWS
) -> Specialists:
    return Specialists(model, specialized, windows, 0, 10_000, lambda _: None)


@pytest.mark.parametrize("keep", [0.1, 0.5])
def test_planted_specialists_are_kept_on_their_task_and_hurt_it_alone(keep: float) -> None:
    part = measuring(rigged(), planted()).measure(Gate("post-norm", keep))
    for row in rows_of([part], 0):
        assert row["kept_in_task"] == 1
        assert row["kept_off_task"] < 0.2
        assert row["kept_difference_low"] > 0.5
        assert row["in_task_delta_nats"] > 0.1
        assert abs(row["off_task_delta_nats"]) < 0.02
        assert row["reading"] == ONLY, row
        assert (row["n_neurons"], row["random_sets"], row["reason"]) == (1, RANDOM_SETS, "")


def test_at_keep_one_dropping_is_taking_the_neuron_out_of_the_model() -> None:
    model = rigged()
    specialists = measuring(model, planted())
    part = specialists.measure(Gate("post-norm", 1.0, how=How(force_at_one=True)))
    dense = document_losses(losses_of_windows(model, WINDOWS, 10_000, lambda _: None), WINDOWS)
    with torch.no_grad():
        model.base_model.layers[1].mlp.dense_4h_to_h.weight[:, FIRST_TASK] = 0
    without = document_losses(losses_of_windows(model, WINDOWS, 10_000, lambda _: None), WINDOWS)
    assert part["tasks"]["math"]["changes"] == pytest.approx(without.sums - dense.sums, abs=1e-4)
    assert part["tasks"]["math"]["kept"] == dense.counts.tolist()
    assert part["kept"] == (40 * dense.counts).tolist()


@pytest.mark.parametrize("rule", ["post-norm", "random", "pre-abs"])
def test_dropping_a_dead_neuron_changes_nothing_at_all(rule: str) -> None:
    part = measuring(rigged(), planted(DEAD, DEAD)).measure(Gate(rule, 0.3, how=How(seed=3)))
    assert part["tasks"]["math"]["changes"] == [0.0] * 24


def test_every_rule_is_measured() -> None:
    model = rigged()
    blocks = {layer: np.arange(40) % 5 - 1 for layer in range(4)}
    learned = learn(model, torch.from_numpy(WINDOWS.ids[:8]), blocks=blocks)
    windows = random_windows(documents=3, vocabulary=((1, 25), (25, 50)))
    for rule in RULES:
        part = measuring(model, planted(), windows).measure(Gate(rule, 0.3, learned))
        for row in rows_of([part], 0):
            assert (row["rule"], row["reason"]) == (rule, "")
            assert 0 <= row["others_kept_in_task"] < 1


def test_documents_and_their_tokens_are_those_of_the_gated_losses() -> None:
    model, gate = rigged(), Gate("post-norm", 0.3)
    part = measuring(model, planted()).measure(gate)
    quality = measure_quality(model, gate, WINDOWS, 10_000, lambda _: None)
    assert part["tokens"] == quality["counts"]
    assert part["document_tasks"] == quality["task"]
    kept = sum(part["kept"]) / (sum(part["tokens"]) * part["n_neurons"])
    assert kept == pytest.approx(quality["kept_fraction"], abs=1e-6)


def test_a_seed_gives_the_same_part_and_the_model_is_as_it_was() -> None:
    model = rigged()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    one, same = (measuring(model, planted()).measure(Gate("post-norm", 0.3)) for _ in range(2))
    assert one == same
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_task_without_specialists_runs_no_model_for_it() -> None:
    nobody = np.array([], dtype=np.int64)
    some = Specialized("a run", ("math", "qa"), {1: [nobody, np.array([9])]}, {1: np.arange(8)})
    part = measuring(rigged(), some).measure(Gate("post-norm", 0.3))
    math, qa = rows_of([part], 0)
    assert (math["n_neurons"], math["random_sets"]) == (0, 0)
    assert math["reason"]
    assert qa["n_neurons"] == 1


def test_too_few_other_neurons_leave_random_sets_out() -> None:
    alone = Specialized("a run", ("math",), {1: [np.array([4, 5])]}, {1: np.array([6])})
    part = measuring(rigged(), alone).measure(Gate("post-norm", 0.3))
    (row,) = rows_of([part], 0)
    assert row["random_sets"] == 0
    assert "too few other neurons" in row["reason"]
    assert row["in_task_tokens"] > 0


def test_the_tasks_of_run_and_text_are_matched_by_name() -> None:
    turned = planted(SECOND_TASK, FIRST_TASK)
    turned = Specialized(turned.run, ("qa", "math"), turned.sets, turned.others)
    (qa, math) = rows_of([measuring(rigged(), turned).measure(Gate("post-norm", 0.3))], 0)
    assert (qa["task"], math["task"]) == ("qa", "math")
    assert qa["kept_in_task"] == math["kept_in_task"] == 1


def test_silencing_takes_a_copy() -> None:
    acts = torch.ones(2, 3, 4)
    found: Tensor = silencing(torch.tensor([1, 3]))(acts)
    assert found[..., [1, 3]].abs().sum() == 0
    assert (found[..., [0, 2]] == 1).all()
    assert (acts == 1).all()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Run, Run]:
    """A capture of questions and sums, and its si-modularity run."""
    folder = tmp_path_factory.mktemp("real")
    acts = captured(folder, tiny_model, "--layers", "1,2", "--max-tokens", 2000)
    words = ("--acts", acts.path, "--nulls", 0, "--threads", 1, "--quiet")
    return acts, sdlms(folder, "si-modularity", *words)


def test_a_real_run_gives_its_specialized_neurons_and_blocks(real: tuple[Run, Run]) -> None:
    acts, run = real
    check_neurons(run, acts.start["resolved"]["model"])
    found, blocks = specialized_of(run, ["qa", "math", "prose"]), blocks_of(run)
    rows = read_table(run.path / "units.csv")
    assert sorted(found.sets) == sorted(blocks) == [1, 2]
    for layer in (1, 2):
        own = [row for row in rows if int(row["layer"]) == layer]
        assert blocks[layer].tolist() == [int(row["community"] or -1) for row in own]
        for task, neurons in zip(found.task_names, found.sets[layer], strict=True):
            assert len(neurons) <= 4  # 5 % of 64
            assert all(own[n]["preferred_task"] == task for n in neurons)
            assert all(float(own[n]["q"]) < 0.05 for n in neurons)
            assert not set(neurons) & set(found.others[layer])


def test_a_task_that_is_not_evaluated_is_refused(real: tuple[Run, Run]) -> None:
    with pytest.raises(UserError, match=r"task math, which is not evaluated; these are: qa\."):
        specialized_of(real[1], ["qa"])


def test_a_damaged_table_is_refused(tmp_path: Path, real: tuple[Run, Run]) -> None:
    run = written(tmp_path, real)
    (run.path / "units.csv").chmod(0o600)
    (run.path / "units.csv").write_text("layer\n")
    with pytest.raises(UserError, match="damaged"):
        blocks_of(run)


def written(
    folder: Path, real: tuple[Run, Run], rows: list[dict[str, str]] | None = None, **changes: object
) -> Run:
    """The same run with other things said of it, or with other units."""
    run = real[1]
    table = read_table(run.path / "units.csv") if rows is None else rows
    options = RunOptions(artifacts=folder / "artifacts")
    graph = {"graph": changes.pop("graph", True)}
    with RunWriter("si-modularity", {"seed": 0, **graph}, options) as out:
        out.start({**run.start["resolved"], **changes}, {})
        write_table(out.path / "units.csv", list(table[0]), table)
        out.output("units.csv", columns=list(table[0]))
    return Run(out.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"site": "sae_latents", "kind": "latent"}, "is of latents; rules keep neurons"),
        ({"site": "resid_post", "kind": "unit"}, "is of resid_post; rules keep neurons"),
        ({"control": "reinit"}, r"is of a control \(reinit\)"),
        ({"model": {"name": "other", "weights": {"x": "y"}}}, "weights differ"),
    ],
)
def test_other_runs_are_refused_in_one_line(
    tmp_path: Path, real: tuple[Run, Run], changes: dict[str, object], message: str
) -> None:
    run = written(tmp_path, real, **changes)
    with pytest.raises(UserError, match=message) as refused:
        check_neurons(run, real[0].start["resolved"]["model"])
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("--si: ")


def test_a_real_run_of_latents_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    acts = captured(tmp_path, tiny_model, "--layers", "1", "--site", "resid_post")
    latents = latents_of_folder(tmp_path, acts, 1)
    words = ("--acts", latents.path, "--no-graph", "--threads", 1, "--quiet")
    run = sdlms(tmp_path, "si-modularity", *words)
    with pytest.raises(UserError, match="is of latents"):
        check_neurons(run, acts.start["resolved"]["model"])


def test_without_graphs_there_are_no_blocks(tmp_path: Path, real: tuple[Run, Run]) -> None:
    with pytest.raises(UserError, match="made with --no-graph"):
        blocks_of(written(tmp_path, real, graph=False))


def test_without_discoveries_there_are_no_specialists(
    tmp_path: Path, real: tuple[Run, Run]
) -> None:
    rows = [{**row, "q": "1.0"} for row in read_table(real[1].path / "units.csv")]
    with pytest.raises(UserError, match="has no specialized neuron"):
        specialized_of(written(tmp_path, real, rows), ["qa", "math"])


def test_a_table_of_another_version_is_refused(tmp_path: Path, real: tuple[Run, Run]) -> None:
    rows = [{"layer": row["layer"]} for row in read_table(real[1].path / "units.csv")]
    with pytest.raises(UserError, match="another version of sdlms made it"):
        blocks_of(written(tmp_path, real, rows))
