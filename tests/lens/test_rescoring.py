"""Sums after a replacement are the sums that were never rounded."""

import torch
from torch import Tensor

from sdlms.lens.rescoring import (
    Terms,
    expected_error,
    faded,
    rank_corrections,
    replaced_mean,
    replaced_normalizer,
)


def mixed(scale: float = 3.0) -> tuple[Tensor, Tensor, Tensor, Terms]:
    """Exact logits, rounded ones, the 20 largest, and their terms."""
    generator = torch.Generator().manual_seed(0)
    exact = scale * torch.randn(50, 400, generator=generator, dtype=torch.float64)
    rounded = exact + 0.05 * torch.randn(50, 400, generator=generator, dtype=torch.float64)
    ids = rounded.topk(20).indices
    return exact, rounded, ids, Terms(rounded.gather(1, ids), exact.gather(1, ids))


def test_normalizer_and_mean_are_those_of_the_mixture() -> None:
    for scale in (0.1, 3.0, 30.0):
        exact, rounded, ids, terms = mixed(scale)
        mixture = rounded.scatter(1, ids, exact.gather(1, ids))
        before, expected = rounded.logsumexp(-1), mixture.logsumexp(-1)
        found = replaced_normalizer(before, terms)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-9)
        mean = (rounded.softmax(-1) * rounded).sum(-1)
        after = replaced_mean(mean, (before, found), terms, terms)
        torch.testing.assert_close(after, (mixture.softmax(-1) * mixture).sum(-1))


def test_a_mean_of_other_values_by_the_same_weights() -> None:
    exact, rounded, ids, weights = mixed()
    values = torch.randn_like(exact)
    noisy = values + 0.1 * torch.randn_like(values)
    terms = Terms(noisy.gather(1, ids), values.gather(1, ids))
    before = rounded.logsumexp(-1)
    found = replaced_mean(
        (rounded.softmax(-1) * noisy).sum(-1),
        (before, replaced_normalizer(before, weights)),
        weights,
        terms,
    )
    mixture = rounded.scatter(1, ids, exact.gather(1, ids))
    other = noisy.scatter(1, ids, values.gather(1, ids))
    torch.testing.assert_close(found, (mixture.softmax(-1) * other).sum(-1))


def test_candidates_that_have_everything_leave_nothing() -> None:
    exact, rounded = torch.randn(9, 12), torch.randn(9, 12)
    found = replaced_normalizer(rounded.double().logsumexp(-1), Terms(rounded, exact))
    torch.testing.assert_close(found, exact.double().logsumexp(-1), rtol=1e-6, atol=1e-6)


def test_only_what_is_far_above_the_least_is_exact() -> None:
    terms = Terms(torch.tensor([[5.0, 1.2, 1.1, 1.0]]), torch.tensor([[5.5, 1.3, 1.0, 7.0]]))
    found = faded(terms).exact[0]
    torch.testing.assert_close(found, torch.tensor([5.5, 1.28, 1.06, 1.0]))


def test_the_largest_of_many_equals_do_not_starve_the_rest() -> None:
    """Of 2,000 equal tokens, rounding picks the candidates; the sum must not notice."""
    generator = torch.Generator().manual_seed(0)
    exact = torch.zeros(300, 2000, dtype=torch.float64)
    rounded = 0.02 * torch.randn(300, 2000, generator=generator, dtype=torch.float64)
    ids = rounded.topk(400).indices
    terms = Terms(rounded.gather(1, ids), exact.gather(1, ids))
    before, truth = rounded.logsumexp(-1), exact.logsumexp(-1)
    plain = (replaced_normalizer(before, terms) - truth).mean()
    fading = (replaced_normalizer(before, faded(terms)) - truth).mean()
    assert plain < -4e-3
    assert abs(fading) < 1e-3


def test_the_expected_error_is_about_the_error() -> None:
    generator = torch.Generator().manual_seed(0)
    ranks = torch.arange(1, 5001, dtype=torch.float64)
    exact = (-1.3 * ranks.log()).expand(2000, -1)
    rounded = exact + 0.02 * torch.randn(2000, 5000, generator=generator, dtype=torch.float64)
    terms = Terms(rounded[:, :50], exact[:, :50])
    normalizer = replaced_normalizer(rounded.logsumexp(-1), terms)
    error = (exact[:, 0] - normalizer).exp() - (exact[:, 0] - exact.logsumexp(-1)).exp()
    ratio = expected_error(normalizer, terms).mean() / error.square().mean().sqrt()
    assert 0.7 < ratio < 1.5


def test_no_error_is_expected_where_nothing_is_left() -> None:
    exact = torch.tensor([[0.0, -200.0]], dtype=torch.float64)
    found = expected_error(exact.logsumexp(-1), Terms(exact + 0.1, exact))
    assert torch.equal(found, torch.zeros(1, dtype=torch.float64))


def test_ranks_are_exact_as_far_as_candidates_reach() -> None:
    exact, rounded, ids, terms = mixed()
    exact, rounded, ids = (values[:, None] for values in (exact, rounded, ids))
    own = Terms(*(values[:, None] for values in terms))
    wanted = torch.stack([exact[:, 0].topk(4).indices[:, 3], torch.full((50,), 7)], 1)
    asked = Terms(*(v.gather(-1, wanted[:, None]) for v in (rounded, exact)))
    counted = 1 + (rounded[:, :, None] > asked.exact[..., None]).sum(-1)
    ranks = counted + rank_corrections(own, ids, asked, wanted)
    assert torch.equal(ranks[:, 0, 0], torch.full((50,), 4.0))
    truth = 1 + (exact[:, :, None] > asked.exact[..., None]).sum(-1)
    assert (ranks - truth).abs().max() <= 12
    assert (ranks >= 1).all()
