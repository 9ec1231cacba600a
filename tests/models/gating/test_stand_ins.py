"""A stand-in shares parameters and hooks with what it stands in for."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sdlms.models.gating.stand_ins import StandIn


def test_hooks_of_either_act_on_both_and_can_be_removed() -> None:
    linear = nn.Linear(3, 2).eval()
    stand_in = StandIn(linear, linear.forward)
    seen: list[str] = []
    before = linear.register_forward_pre_hook(lambda *call: seen.append("before"))
    after = stand_in.register_forward_hook(
        lambda *call, **kw: seen.append("after"), with_kwargs=True
    )
    for module in (linear, stand_in):
        seen.clear()
        module(torch.ones(3))
        assert seen == ["before", "after"]
    before.remove()
    after.remove()
    for module in (linear, stand_in):
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._forward_hooks_with_kwargs


def test_parameters_keep_their_names_and_themselves() -> None:
    linear = nn.Linear(3, 2)
    stand_in = StandIn(linear, torch.zeros_like)
    assert dict(stand_in.named_parameters()) == dict(linear.named_parameters())
    assert stand_in.weight is linear.weight
    assert stand_in.module is linear
    assert not list(stand_in.children())
    assert StandIn(nn.Linear(3, 2, bias=False), torch.zeros_like).bias is None
    assert stand_in(torch.ones(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("permuted", [False, True])
def test_parameters_are_not_moved_or_loaded(permuted: bool) -> None:
    linear = nn.Linear(3, 2)
    before = linear.weight.detach().clone()
    model = nn.Sequential(StandIn(linear, linear.forward, permuted=permuted))
    state = {"0.weight": torch.zeros(2, 3), "0.bias": torch.zeros(2)}
    calls: tuple[Callable[[], object], ...] = (
        model.half,
        lambda: model.to("meta"),
        lambda: model.load_state_dict(state),
        lambda: model.load_state_dict(state, assign=True),
    )
    for call in calls:
        with pytest.raises(ValueError, match="Leave the gated block first"):
            call()
    assert model.float().to("cpu") is model
    assert model[0].weight is linear.weight
    assert torch.equal(linear.weight, before)


def test_parameters_in_another_order_are_not_read() -> None:
    linear = nn.Linear(3, 2)
    stand_in = StandIn(linear, linear.forward, permuted=True)
    with pytest.raises(ValueError, match="permuted weights cannot be saved"):
        stand_in.state_dict()
    with pytest.raises(ValueError, match="permuted weights cannot be copied"):
        copy.deepcopy(stand_in)


def test_a_deep_copy_is_a_copy_of_the_map() -> None:
    linear = nn.Linear(3, 2)
    copied = copy.deepcopy(nn.Sequential(StandIn(linear, torch.zeros_like)))[0]
    assert type(copied) is nn.Linear
    assert torch.equal(copied.weight, linear.weight)
    assert copied.weight.data_ptr() != linear.weight.data_ptr()
