import pytest
import torch

from sdlms.probes.adamw import Moments, rows_of, step_
from tests.probes.toy_lessons import leaves


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_every_member_steps_as_torchs_adamw_alone(decay: float) -> None:
    """Also when members take part in different steps."""
    generator = torch.Generator().manual_seed(0)
    params = {
        "a": torch.randn(3, 4, 2, generator=generator),
        "b": torch.randn(3, 5, generator=generator),
    }
    moments = Moments.zeros(params)
    alone = [leaves({name: p[m] for name, p in params.items()}) for m in range(3)]
    optimizers = [torch.optim.AdamW(own.values(), 0.1, weight_decay=decay) for own in alone]
    for step in range(5):
        grads = {name: torch.randn(p.shape, generator=generator) for name, p in params.items()}
        active = torch.tensor([True, step % 2 == 0, step > 2])
        before = {name: p.clone() for name, p in params.items()}
        step_(params, grads, moments, active, (0.1, decay))
        for member in range(3):
            for name, param in params.items():
                alone[member][name].grad = grads[name][member].clone()
                same = torch.equal(param[member], before[name][member])
                assert same == (not active[member])
            if active[member]:
                optimizers[member].step()
            for name, param in params.items():
                assert torch.allclose(param[member], alone[member][name], atol=1e-6)
    assert moments.steps.tolist() == [5, 3, 2]


def test_a_subset_is_the_members_own_memory() -> None:
    params = {"a": torch.randn(3, 2)}
    moments = Moments.zeros(params)
    step_(params, {"a": torch.randn(3, 2)}, moments, torch.tensor([True, False, True]), (0.1, 0))
    part = moments.subset(torch.tensor([2]))
    assert torch.equal(part.mean["a"], moments.mean["a"][2:])
    assert torch.equal(part.square["a"], moments.square["a"][2:])
    assert part.steps.tolist() == [1]
    kept = rows_of(params, torch.tensor([0]))
    kept["a"].zero_()
    assert bool(params["a"].any())
