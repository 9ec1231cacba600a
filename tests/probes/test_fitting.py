import pytest
import torch
from torch import Tensor

from sdlms.probes.fitting import Fitting


def fitting() -> Fitting:
    return Fitting.start({"w": torch.arange(3.0)[:, None].repeat(1, 2)})


def losses(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_best_parameters_are_kept_and_the_hopeless_dropped() -> None:
    state = fitting()
    state.record(losses(1, 1, 1), patience=2, least_gain=0)
    state.params["w"] += 10
    state.record(losses(0.5, 2, float("nan")), patience=2, least_gain=0)
    assert state.best["w"][:, 0].tolist() == [10, 1, 2]
    state.params["w"] += 10
    state.record(losses(0.6, 3, 1), patience=2, least_gain=0)
    assert state.alive.tolist() == [0]
    assert state.params["w"][:, 0].tolist() == [20]
    assert state.best["w"][:, 0].tolist() == [10, 1, 2]
    state.record(losses(0.7), patience=2, least_gain=0)
    assert len(state.alive) == 0
    assert state.epochs.tolist() == [4, 3, 3]
    assert state.best_loss.tolist() == [0.5, 1, 1]
    assert state.history[3, 0] == 0.7
    assert state.history[3, 1:].isnan().all()


def test_an_equal_loss_is_no_better() -> None:
    state = fitting()
    for _ in range(3):
        state.record(losses(1, 1, 1), patience=2, least_gain=0)
    assert len(state.alive) == 0
    assert state.epochs.tolist() == [3, 3, 3]


def test_small_gains_are_kept_but_do_not_prolong_the_training() -> None:
    state = fitting()
    state.record(losses(1, 1, 1), patience=3, least_gain=0.1)
    for number, name in enumerate("abc"):
        state.params["w"] += 10
        # The first loses 0.04 an epoch, 0.12 in the end; the second 0.2; the third nothing.
        state.record(losses(0.96 - 0.04 * number, 0.8 - 0.2 * number, 1), 3, 0.1)
        assert state.best["w"][0, 0] == 10 * (number + 1), f"epoch {name}: the lowest is kept"
    assert state.alive.tolist() == [0, 1]
    assert state.since_best.tolist() == [0, 0, 3]
    assert state.best_loss[0] == 0.88


def test_a_state_is_a_copy_and_brings_everything_back() -> None:
    state = fitting()
    state.moments.mean["w"] += 3
    state.moments.steps += 5
    state.record(losses(1, 2, 3), patience=1, least_gain=0)
    state.record(losses(2, 1, 4), patience=1, least_gain=0)
    saved = state.tensors()
    state.params["w"] += 1
    state.record(losses(0), patience=1, least_gain=0)
    other = fitting()
    other.load(saved)
    for name, tensor in other.tensors().items():
        assert torch.equal(tensor.nan_to_num(-1), saved[name].nan_to_num(-1)), name
    assert other.alive.tolist() == [1]
    other.params["w"] += 100
    assert saved["params/w"].max() < 100, "what was loaded is no view of the state"


@pytest.mark.parametrize(
    "params",
    [{"v": torch.zeros(3, 2)}, {"w": torch.zeros(3, 4)}, {"w": torch.zeros(2, 2)}],
)
def test_the_state_of_another_stack_is_refused(params: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="state of"):
        fitting().load(Fitting.start(params).tensors())
