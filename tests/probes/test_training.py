from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import sdlms.probes.pieces
from sdlms.acts.handle import Acts
from sdlms.errors import UserError
from sdlms.numerics.splits import TRAIN, VALIDATION
from sdlms.probes.lesson import Lesson
from sdlms.probes.network import Network
from sdlms.probes.targets import Split, Targets
from sdlms.probes.trained import Trained
from sdlms.probes.training import Trainer, train
from tests.probes.toy_lessons import (
    KINDS,
    toy_acts,
    toy_lesson,
    toy_network,
    toy_split,
    toy_targets,
)


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert set(one) == set(other)
    different = [n for n in one if not torch.equal(one[n].nan_to_num(7), other[n].nan_to_num(7))]
    assert not different


def alone(kind: str, layer: int, seed: int, label: int) -> Trained:
    """One member of `toy_lesson`, trained with no other beside it."""
    acts = toy_acts().select_layers([layer])
    targets = Targets(toy_targets().labels[label : label + 1])
    network = toy_network(kind)
    if kind == "mlp":
        parts = (network.centre, network.scale, network.mean, network.std)
        network = type(network)(*(part[layer, None] for part in parts), network.settings)
    return train(network, toy_lesson((seed,), acts=acts, targets=targets))


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_is_trained_as_if_it_were_alone(kind: str) -> None:
    """Neither layers nor labels nor seeds beside it matter, in any batch, mask or early stop."""
    together = train(toy_network(kind), toy_lesson())
    members = together.members
    for member in (0, 3, 5, 6):
        layer, seed, label = members.layer[member], members.seed[member], members.label[member]
        single = alone(kind, int(layer), members.seeds[seed], int(label))
        assert single.history[:, 0] == pytest.approx(together.history[:, member], abs=1e-5)
        for name, param in single.params.items():
            assert torch.allclose(param[0], together.params[name][member], atol=1e-4), name


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_learned_by_token_and_by_document(kind: str) -> None:
    losses = train(toy_network(kind), toy_lesson()).history
    assert losses[-1].mean() < losses[0].mean() - 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_again_and_after_an_interruption(kind: str) -> None:
    states: list[dict[str, Tensor]] = []
    whole = train(
        toy_network(kind), toy_lesson(), on_epoch=lambda trainer: states.append(trainer.state())
    )
    again = train(toy_network(kind), toy_lesson())
    resumed = Trainer(toy_network(kind), toy_lesson())
    resumed.restore(states[2])
    assert resumed.epoch == 3
    while not resumed.finished:
        resumed.run_epoch()
    assert_equal(resumed.state(), states[-1])
    continued = train(toy_network(kind), toy_lesson(), state=states[2])
    for other in (again, continued, resumed.result()):
        assert_equal(whole.params, other.params)
        assert np.array_equal(whole.history, other.history, equal_nan=True)


def test_a_resumed_member_that_had_stopped_stays_as_it_was() -> None:
    states: list[dict[str, Tensor]] = []
    network = toy_network("mlp", max_epochs=60, patience=2)
    whole = train(network, toy_lesson(), on_epoch=lambda trainer: states.append(trainer.state()))
    stopped_in = len(states) // 2
    assert 0 < len(states[stopped_in]["alive"]) < len(whole.members), "members stop one by one"
    continued = train(network, toy_lesson(), state=states[stopped_in])
    assert_equal(whole.params, continued.params)
    assert whole.epochs.tolist() == continued.epochs.tolist()


def test_early_stopping_keeps_the_best_and_ends_after_patience() -> None:
    patience = 3
    kept: list[Tensor] = []

    def look(trainer: Trainer) -> None:
        kept.append(trainer.result().params["weight"].clone())

    network = toy_network("mlp", max_epochs=80, patience=patience)
    found = train(network, toy_lesson(), on_epoch=look)
    assert found.converged.all()
    assert len(set(found.epochs.tolist())) > 1, "members stop in epochs of their own"
    for member, epochs in enumerate(found.epochs.tolist()):
        losses = found.history[:epochs, member]
        assert losses.argmin() == epochs - 1 - patience
        assert found.best_loss[member] == losses.min()
        assert np.isnan(found.history[epochs:, member]).all()
        best = kept[int(losses.argmin())][member]
        assert torch.equal(best, found.params["weight"][member])
    assert len(found.history) == found.epochs.max()


def test_the_limit_of_epochs_is_no_convergence() -> None:
    found = train(toy_network("mlp", max_epochs=2), toy_lesson())
    assert not found.converged.any()
    assert found.epochs.tolist() == [2] * 8


def test_a_loss_that_is_no_number_never_wins() -> None:
    acts = toy_acts(tokens=False).realize().tensor.clone()
    acts[:, 1] = 3e38  # finite, but not what becomes of it
    network = toy_network("mlp", patience=2)
    network = replace(network, scale=network.scale / 1000)
    found = train(network, toy_lesson(acts=Acts(acts, "blh")))
    second = found.members.layer == 1
    assert np.isinf(found.best_loss[second]).all()
    assert not found.converged[second].any()
    assert np.isfinite(found.best_loss[~second]).all()
    assert found.lost.tolist() == np.flatnonzero(second).tolist()
    for param in found.params.values():
        assert param[second].isnan().all()
        assert param[~second].isfinite().all()


def validation_labels_turned() -> tuple[Lesson, Lesson]:
    """Two lessons that differ in test documents' activations and labels only."""
    lesson, acts = toy_lesson((0,)), toy_acts().realize()
    tested = ~np.isin(lesson.split.roles[0], [TRAIN, VALIDATION])
    x = acts.tensor.clone()
    x[torch.from_numpy(tested)] += 50
    labels = lesson.targets.labels ^ tested
    other = toy_lesson((0,), acts=Acts(x, "blsh", acts.mask), targets=Targets(labels))
    return lesson, other


@pytest.mark.parametrize("kind", KINDS)
def test_test_documents_are_never_looked_at(kind: str) -> None:
    one, other = (train(toy_network(kind), lesson) for lesson in validation_labels_turned())
    assert_equal(one.params, other.params)
    assert one.history.tolist() == other.history.tolist()


class Narrow:
    """A network that runs out of memory on more than `most` documents at once."""

    def __init__(self, network: Network, most: int) -> None:
        self._network, self._most = network, most

    def __getattr__(self, name: str) -> object:
        return getattr(self._network, name)

    def logits(self, params, piece, members, dropout):  # noqa: ANN001, ANN201
        if piece.x.shape[1] > self._most:
            raise torch.OutOfMemoryError("no room")
        return self._network.logits(params, piece, members, dropout)


@pytest.mark.parametrize("kind", KINDS)
def test_running_out_of_memory_changes_nothing_but_the_speed(kind: str) -> None:
    halved: list[int] = []
    network = toy_network(kind, max_epochs=3)
    wide = train(network, toy_lesson())
    narrow = train(Narrow(network, 3), toy_lesson(), on_halved=halved.append)
    assert halved and halved == sorted(halved, reverse=True) and halved[-1] <= 3
    assert narrow.history == pytest.approx(wide.history, abs=1e-6)
    with pytest.raises(UserError, match="single document"):
        train(Narrow(network, 0), toy_lesson())


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_on_memory_changes_nothing_either(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = toy_network(kind, max_epochs=3)
    wide = train(network, toy_lesson())
    monkeypatch.setattr(sdlms.probes.pieces, "CELLS", 1000)
    assert train(network, toy_lesson()).history == pytest.approx(wide.history, abs=1e-6)


def test_labels_of_tokens_that_repeat_the_documents_are_the_documents() -> None:
    data = toy_lesson().data
    offsets = np.concatenate([[0], np.cumsum(data.lengths)])
    labels = np.repeat(toy_targets().labels, data.lengths, axis=1)
    by_document = train(toy_network("mlp"), toy_lesson())
    by_token = train(toy_network("mlp"), toy_lesson(targets=Targets(labels, offsets)))
    assert_equal(by_document.params, by_token.params)


def test_tokens_without_a_label_are_not_learned_from() -> None:
    data = toy_lesson().data
    offsets = np.concatenate([[0], np.cumsum(data.lengths)])
    known = np.arange(offsets[-1]) % 3 > 0
    labels = np.repeat(toy_targets().labels, data.lengths, axis=1)
    one = train(toy_network("mlp"), toy_lesson(targets=Targets(labels, offsets, known)))
    turned = Targets(labels ^ ~known, offsets, known)
    assert_equal(one.params, train(toy_network("mlp"), toy_lesson(targets=turned)).params)


def test_no_labelled_token_to_validate_on_is_said() -> None:
    lesson = toy_lesson()
    lengths = lesson.data.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    known = np.repeat(toy_split().roles[1] != VALIDATION, lengths)
    targets = Targets(np.repeat(toy_targets().labels, lengths, axis=1), offsets, known)
    with pytest.raises(UserError, match="validate on for seed 1"):
        train(toy_network("mlp"), toy_lesson(targets=targets))


def test_every_epoch_is_told() -> None:
    told: list[tuple[int, int]] = []
    network = toy_network("mlp", max_epochs=60, patience=2)
    train(network, toy_lesson(), lambda trainer: told.append((trainer.epoch, trainer.n_active)))
    assert [epoch for epoch, _ in told] == list(range(1, len(told) + 1))
    active = [n for _, n in told]
    assert active == sorted(active, reverse=True) and active[-1] == 0


def test_a_seed_that_has_no_training_document_in_a_batch_skips_its_step() -> None:
    """Seed 1 trains on few documents: AdamW's decay must not move it where it sees none."""
    roles = toy_split().roles.copy()
    trained = np.flatnonzero(roles[1] == TRAIN)
    roles[1, trained[2:]] = 2
    lesson = toy_lesson()
    uneven = Lesson(lesson.data, lesson.targets, Split((0, 1), roles), order_seed=5)
    trainer = Trainer(toy_network("mlp"), uneven)
    trainer.run_epoch()
    steps = trainer.state()["steps"].view(2, 2, 2)
    assert bool((steps[:, 1] < steps[:, 0]).all())
    assert bool((steps[:, 1] >= 1).all())
