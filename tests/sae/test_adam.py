import pytest
import torch
from torch import Tensor

from sdlms.sae.adam import Adam

CPU = torch.device("cpu")


def start() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"b": torch.randn(5, generator=generator), "W": torch.randn(4, 6, generator=generator)}


def gradients(step: int, size: float) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {name: size * torch.randn(p.shape, generator=generator) for name, p in start().items()}


def fill(adam: Adam, grads: dict[str, Tensor], scale: float = 1.0) -> None:
    for name, grad in grads.items():
        adam.grads[name].copy_(scale * grad)


@pytest.mark.parametrize("size", [0.01, 10.0])  # below and above the clip
def test_it_steps_as_torchs_adam_with_a_clip(size: float) -> None:
    ours = Adam(start(), CPU)
    theirs = {name: p.clone().requires_grad_() for name, p in start().items()}
    optimizer = torch.optim.Adam(theirs.values())
    for step in range(10):
        grads = gradients(step, size)
        fill(ours, grads, scale=128.0)
        ours.step_(lr=0.1 / (step + 1), scale=128.0)
        for name, param in theirs.items():
            param.grad = grads[name].clone()
        torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        optimizer.step()
        for name, param in theirs.items():
            assert torch.allclose(ours.params[name], param.detach(), atol=1e-6)


def test_a_state_goes_on_bit_by_bit() -> None:
    whole = Adam(start(), CPU)
    for step in range(3):
        fill(whole, gradients(step, 1.0))
        whole.step_(0.1, 1.0)
    fresh = Adam({name: torch.zeros_like(p) for name, p in start().items()}, CPU)
    fresh.load_state({name: value.clone() for name, value in whole.state().items()})
    for step in range(3, 6):
        for adam in (whole, fresh):
            fill(adam, gradients(step, 1.0))
            adam.step_(0.1, 1.0)
    assert all(torch.equal(fresh.params[name], whole.params[name]) for name in start())


def test_nan_reaches_the_weights() -> None:
    adam = Adam(start(), CPU)
    fill(adam, gradients(0, 1.0))
    adam.grads["b"][0] = torch.nan
    adam.step_(0.1, 1.0)
    assert all(bool(param.isnan().all()) for param in adam.params.values())


def test_it_starts_from_a_copy() -> None:
    initial = start()
    Adam(initial, CPU).params["b"].zero_()
    assert torch.equal(initial["b"], start()["b"])
