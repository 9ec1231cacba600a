"""Every rule's set, found again by a loop over the neurons of one token."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM

from sdlms.models.gated import How, gated
from sdlms.models.gating.backends import Backend, backend_of
from sdlms.models.gating.choosers import CHOOSERS, Facts, chooser_of
from sdlms.models.gating.learned import QUANTILES, SHARES, Allocation, LearnedLayer
from sdlms.models.gating.rules import n_kept
from tests.models.tiny_models import INPUT_IDS, random_model

N = 60
KEEPS = (0.02, 0.1, 0.3, 0.5, 0.9)
BLOCK = np.random.default_rng(3).integers(-1, 7, N)
ONE = torch.ones(1, dtype=torch.float64)


def learned() -> LearnedLayer:
    return LearnedLayer(
        scores=QUANTILES.float() * 3,
        held=SHARES,
        mean_scores=torch.rand(N, generator=torch.Generator().manual_seed(1)),
        inputs=(),
        allocation=Allocation(ONE, ONE[:, None], ONE),
        block=torch.from_numpy(BLOCK),
    )


def facts() -> Facts:
    norms = torch.rand(N, generator=torch.Generator().manual_seed(2)) + 0.5
    return Facts(layer=1, norms=norms, learned=learned(), seed=5)


def tokens(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Neurons before and after a ReLU: many scores are equal, namely 0."""
    before = torch.randn(12, N, generator=torch.Generator().manual_seed(0)).to(dtype)
    return before, before.relu()


def first(scores: NDArray[np.float32], n: int) -> set[int]:
    return set(sorted(range(N), key=lambda unit: (-scores[unit], unit))[:n])


def by_blocks(scores: NDArray[np.float32], n: int) -> set[int]:
    """Blocks of largest mean, whole, until one must be cut."""
    blocks = [np.flatnonzero(BLOCK == name) for name in range(7)]
    blocks += [np.array([unit]) for unit in np.flatnonzero(BLOCK < 0)]
    blocks = [block for block in blocks if len(block)]
    kept: set[int] = set()
    for block in sorted(blocks, key=lambda block: -scores[block].astype(np.float64).mean()):
        room = n - len(kept)
        kept |= set(sorted(block.tolist(), key=lambda unit: (-scores[unit], unit))[:room])
    return kept


def by_hand(rule: str, keep: float, before: Tensor, acts: Tensor) -> set[int]:
    n, norms = n_kept(keep, N), facts().norms.numpy()
    scores = np.abs(acts.float().numpy()) * norms
    if rule == "threshold":
        return set(np.flatnonzero(scores > np.float32(3 * (1 - keep))).tolist())
    if rule == "top-p":
        ranked = sorted(range(N), key=lambda unit: (-scores[unit], unit))
        held, goal = 0.0, keep * float(scores.astype(np.float64).sum())
        for count, unit in enumerate(ranked, 1):
            held += float(scores[unit])
            if held >= goal:
                return set(ranked[:count])
    if rule == "blocks":
        return by_blocks(scores, n)
    if rule == "pre-abs":
        scores = np.abs(before.float().numpy())
    if rule == "post-abs":
        scores = np.abs(acts.float().numpy())
    return first(scores, n)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "rule", [rule for rule in CHOOSERS if rule not in ("random", "blocks-random")]
)
def test_a_loop_over_neurons_finds_the_same_set(rule: str, dtype: torch.dtype) -> None:
    before, acts = tokens(dtype)
    for keep in KEEPS:
        mask = chooser_of(rule, facts(), keep, keep).mask(acts, before)
        for row in range(len(acts)):
            found = set(mask[row].nonzero().flatten().tolist())
            assert found == by_hand(rule, keep, before[row], acts[row])


def backends(dtype: torch.dtype) -> list[Backend]:
    return [backend_of(name, dtype, torch.device("cpu"), str) for name in ("torch", "auto")]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rule", CHOOSERS)
def test_one_token_sums_what_its_mask_keeps(rule: str, dtype: torch.dtype) -> None:
    """The rows are a unit matrix: what a neuron gives stands alone in the result."""
    before, acts = tokens(dtype)
    acts = acts + torch.tensor(2.0**-10, dtype=dtype)  # no neuron is 0
    rows = torch.eye(N, dtype=dtype)
    for backend in backends(dtype):
        for keep in (*KEEPS, 1.0):
            mask = chooser_of(rule, facts(), keep, keep).mask(acts, before)
            alone = chooser_of(rule, facts(), keep, keep)
            for row in range(len(acts)):
                product, n = alone.product(backend, rows, None, acts[row], before[row])
                assert torch.equal(product != 0, mask[row])
                assert n == int(mask[row].sum())


def test_at_keep_one_every_rule_keeps_everything() -> None:
    before, acts = tokens(torch.float32)
    for rule in CHOOSERS:
        assert chooser_of(rule, facts(), 1.0, 1.0).mask(acts, before).all()


def test_random_sets_differ_by_token_layer_and_seed_and_come_again() -> None:
    before, acts = tokens(torch.float32)
    mask = chooser_of("random", facts(), 0.3, 0.3).mask(acts, before)
    assert (mask.sum(-1) == 18).all()
    assert len({tuple(row) for row in mask.tolist()}) == len(mask)
    assert torch.equal(mask, chooser_of("random", facts(), 0.3, 0.3).mask(acts, before))
    for changed in ({"layer": 2}, {"seed": 6}):
        other = Facts(**{**vars(facts()), **changed})
        assert not torch.equal(mask, chooser_of("random", other, 0.3, 0.3).mask(acts, before))


def test_random_goes_on_drawing_when_keep_comes_back() -> None:
    """And each keep draws as if there were no other."""
    model = random_model("llama", AutoModelForCausalLM)
    masks: list[Tensor] = []
    how = How(execution="masked", layers=(1,), on_mask=lambda _, mask: masks.append(mask))
    with gated(model, "random", 0.2, how=how) as gates, torch.no_grad():
        for keep in (0.2, 0.6, 0.2, 0.6):
            gates.keep = keep
            model(INPUT_IDS)
    turns = masks[:]
    masks.clear()
    for keep in (0.2, 0.6):
        with gated(model, "random", keep, how=how), torch.no_grad():
            model(INPUT_IDS)
            model(INPUT_IDS)
    assert torch.equal(torch.stack(turns[::2] + turns[1::2]), torch.stack(masks))
    assert not torch.equal(turns[0], turns[2]) and not torch.equal(turns[1], turns[3])


def test_random_blocks_have_the_sizes_of_the_blocks() -> None:
    own, dealt = facts().blocks(), facts().shuffled_blocks()
    assert sorted(own.bincount()) == sorted(dealt.bincount())
    assert not torch.equal(own, dealt)
    alone = BLOCK < 0
    assert (own.bincount()[own[torch.from_numpy(alone)]] == 1).all()


def test_what_a_rule_lacks_is_an_error_of_ours() -> None:
    bare = Facts(layer=0, norms=torch.ones(N), learned=None, seed=0)
    with pytest.raises(ValueError, match="calibration sample"):
        chooser_of("threshold", bare, 0.3, 0.3)
    with pytest.raises(ValueError, match="before the activation"):
        chooser_of("pre-abs", bare, 0.3, 0.3).mask(torch.ones(1, N), None)
