"""A stand-in shares parameters and hooks with what it stands in for."""

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
