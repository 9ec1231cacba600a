import torch

from sdlms.probes.seeding import generator_for


def test_a_generator_depends_on_its_keys_and_on_nothing_else() -> None:
    keys = [("a", 1), ("a", 2), ("b", 1), ("a", 1, 0), ("a", "1"), (1, "a")]
    draws = [torch.rand(4, generator=generator_for(*key)).tolist() for key in keys]
    torch.rand(100)
    assert len({tuple(draw) for draw in draws}) == len(keys)
    assert [torch.rand(4, generator=generator_for(*key)).tolist() for key in keys] == draws
