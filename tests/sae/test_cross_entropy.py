"""What replacing a site costs, against transformers' own logits and a loop over documents."""

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from sdlms.errors import UserError
from sdlms.models.architectures import SITES, Site, n_layers, n_units
from sdlms.models.loading import find_model, load_causal_model, load_tokenizer
from sdlms.models.recording import recording
from sdlms.models.replacing import replacing
from sdlms.models.spreading import Spread
from sdlms.sae.cross_entropy import (
    Losses,
    Scoring,
    at_tokens,
    check_replaceable,
    constant,
    recovered,
    zeros,
)
from sdlms.storage.rows import Rows
from tests.models.tiny_models import CASES, CAUSAL, config_of, random_model

HELDOUT = Path(__file__).parents[2] / "data/heldout"
CPU = torch.device("cpu")


def rows_of(documents: list[list[int]], masks: list[list[int]]) -> Rows:
    return Rows(
        ids=np.concatenate([np.array(document, dtype=np.int32) for document in documents]),
        mask=np.concatenate([np.array(mask, dtype=np.uint8) for mask in masks]),
        offsets=np.cumsum([0, *map(len, documents)]).astype(np.int64),
        document_ids=[str(number) for number in range(len(documents))],
        document_tasks=["task"] * len(documents),
    )


def random_rows() -> Rows:
    """Uneven documents: one token, none, nothing to read, the last token only."""
    generator = np.random.default_rng(0)
    lengths = [7, 1, 9, 0, 5, 4, 8, 2]
    documents = [generator.integers(1, 50, size=length).tolist() for length in lengths]
    masks = [(generator.random(length) < 0.7).astype(int).tolist() for length in lengths]
    masks[1], masks[4], masks[5], masks[7] = [1], [0] * 5, [0, 0, 0, 1], [0, 1]
    return rows_of(documents, masks)


ROWS = random_rows()
same = torch.clone


def rounded(acts: Tensor) -> Tensor:
    """A reconstruction that loses something."""
    return (acts / 4).round() * 4


@torch.no_grad()
def by_hand(
    model: PreTrainedModel, rows: Rows, key: tuple[Site, int], change: Callable[[Tensor], Tensor]
) -> dict[int, tuple[float, int]]:
    """Summed loss and number of scored tokens of each document, each document run alone."""
    found = {}
    for document in range(rows.n_documents):
        piece = slice(rows.offsets[document], rows.offsets[document + 1])
        mask, ids = rows.mask[piece] > 0, torch.from_numpy(rows.ids[piece]).long()
        if not mask[:-1].any():
            continue

        def edit(acts: Tensor, mask: np.ndarray = mask) -> Tensor:
            tokens = [change(acts[0, t]) if read else acts[0, t] for t, read in enumerate(mask)]
            return torch.stack(tokens)[None]

        with replacing(model, key[1], key[0], edit):
            probabilities = model(ids[None]).logits[0].float().log_softmax(-1)
        losses = [-probabilities[t, ids[t + 1]].item() for t in np.flatnonzero(mask[:-1])]
        found[document] = sum(losses), len(losses)
    return found


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma3", "gpt_neo", "opt-projected"])
def test_sums_are_those_of_a_loop_over_documents(name: str, site: Site) -> None:
    model = random_model(name, AutoModelForCausalLM)
    mean = torch.randn(n_units(model.config, site), generator=torch.Generator().manual_seed(0))
    changes = [same, zeros, constant(mean), rounded]
    found = Scoring(model, ROWS, 20).losses(site, 1, changes)
    assert found.documents.tolist() == [0, 2, 6]
    for sums, change in zip([found.clean, *found.replaced], [same, *changes], strict=True):
        expected = by_hand(model, ROWS, (site, 1), change)
        assert list(expected) == found.documents.tolist()
        assert sums == pytest.approx([loss for loss, _ in expected.values()], rel=1e-5)
        assert found.counts.tolist() == [count for _, count in expected.values()]
    assert np.array_equal(found.replaced[0], found.clean)
    assert not np.allclose(found.replaced[1:], found.clean)


@pytest.mark.parametrize("name", CAUSAL)
def test_every_architecture_replaces_from_the_middle_as_from_the_start(name: str) -> None:
    model = random_model(name, AutoModelForCausalLM)
    layer = n_layers(model.config) - 1
    found = Scoring(model, ROWS, 4096).losses("resid_pre", layer, [rounded])
    expected = by_hand(model, ROWS, ("resid_pre", layer), rounded)
    assert found.replaced[0] == pytest.approx([loss for loss, _ in expected.values()], rel=1e-5)


def test_what_is_handed_over_is_the_recorded_rows_of_mask_1() -> None:
    model = random_model("llama", AutoModelForCausalLM).to(torch.bfloat16)
    seen: list[Tensor] = []

    def see(acts: Tensor) -> Tensor:
        seen.append(acts)
        return acts

    rows = ROWS.subset([0])
    found = Scoring(model, rows, 64).losses("mlp_out", 2, [see])
    with recording(model.base_model, [2], ["mlp_out"]) as recorded:
        acts = recorded.run(torch.from_numpy(rows.ids)[None].long())["mlp_out", 2][0]
    assert seen[0].dtype == torch.float32
    assert torch.equal(seen[0], acts[torch.from_numpy(rows.mask > 0)].float())
    assert np.array_equal(found.replaced[0], found.clean)


def test_the_budget_changes_the_last_bits_only() -> None:
    model = random_model("gemma2", AutoModelForCausalLM)
    one, all_ = (Scoring(model, ROWS, n).losses("attn_out", 1, [zeros]) for n in (1, 4096))
    assert np.array_equal(one.documents, all_.documents)
    np.testing.assert_allclose(one.clean, all_.clean, rtol=1e-5)
    np.testing.assert_allclose(one.replaced, all_.replaced, rtol=1e-5)


def test_memory_that_runs_out_halves_the_batches_and_they_stay_so() -> None:
    model, told = random_model("llama", AutoModelForCausalLM), []

    def greedy(acts: Tensor) -> Tensor:
        if len(acts) > 8:
            raise torch.OutOfMemoryError
        return torch.zeros_like(acts)

    scoring = Scoring(model, ROWS, 64, told.append)
    found = scoring.losses("mlp_out", 1, [greedy])
    assert told == [13]
    assert scoring.budget == 13
    expected = Scoring(model, ROWS, 64).losses("mlp_out", 1, [zeros])
    np.testing.assert_allclose(found.replaced, expected.replaced, rtol=1e-5)


def test_a_spread_model_gives_the_same_sums(tmp_path: Path) -> None:
    """Here the machine's memory and its disk are the devices."""
    model = random_model("gemma3_text", AutoModelForCausalLM)
    model.save_pretrained(tmp_path / "m")
    source = find_model(str(tmp_path / "m"), None)
    places = {"embed_tokens": "cpu", "layers.0": "cpu", "layers.1": "disk", "layers.2": "cpu"}
    places |= {"norm": "disk", "rotary_emb": "cpu"}
    spread = load_causal_model(source, torch.float32, CPU, Spread(places, tmp_path / "offload"))
    for site in SITES:
        one, two = (Scoring(m, ROWS, 64).losses(site, 1, [zeros, same]) for m in (model, spread))
        assert np.array_equal(one.clean, two.clean)
        assert np.array_equal(one.replaced, two.replaced)


def test_nothing_to_score_is_nothing() -> None:
    model = random_model("llama", AutoModelForCausalLM)
    found = Scoring(model, ROWS.subset([1, 3, 4, 5]), 64).losses("mlp_out", 1, [zeros])
    assert [len(part) for part in found] == [0, 0, 0, 1]
    assert found.replaced.shape == (1, 0)
    result = recovered(found.clean, found.replaced[0], found.clean, found.counts, 0)
    assert math.isnan(result.value)
    assert result.reason == "no token is scored"


def test_only_masked_in_tokens_are_replaced() -> None:
    acts = torch.randn(2, 3, 4).bfloat16()
    mask = torch.tensor([[True, False, True], [False, False, False]])
    found = at_tokens(mask, lambda rows: rows + 1)(acts)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found[mask], (acts[mask].float() + 1).bfloat16())
    assert torch.equal(found[~mask], acts[~mask])


# The embedded model


@pytest.fixture(scope="module")
def small() -> PreTrainedModel:
    return load_causal_model(find_model("sdlms-small", None), torch.float32, CPU)


@pytest.fixture(scope="module")
def heldout() -> Rows:
    """The beginnings of 24 held-out documents, first token skipped."""
    tokenizer = load_tokenizer(find_model("sdlms-small", None))
    documents = []
    for name in ("prose", "math", "dialogue"):
        with gzip.open(HELDOUT / f"{name}.jsonl.gz", "rt") as lines:
            texts = [json.loads(next(lines))["text"] for _ in range(8)]
        documents += [tokenizer(text)["input_ids"][: 24 + 8 * n] for n, text in enumerate(texts)]
    return rows_of(documents, [[0] + [1] * (len(document) - 1) for document in documents])


@pytest.fixture(scope="module")
def measured(small: PreTrainedModel, heldout: Rows) -> Losses:
    """Zeros, the mean, the same again, and a rounding of the second block's residual."""
    with recording(small.base_model, [1], ["resid_post"]) as recorded:
        ids = [torch.from_numpy(heldout.subset([d]).ids)[None].long() for d in range(24)]
        mean = torch.cat([recorded.run(i)["resid_post", 1][0, 1:] for i in ids]).mean(0)
    return Scoring(small, heldout, 512).losses(
        "resid_post", 1, [zeros, constant(mean), same, rounded]
    )


@torch.no_grad()
def test_the_clean_loss_is_transformers_own(
    small: PreTrainedModel, heldout: Rows, measured: Losses
) -> None:
    assert measured.documents.tolist() == list(range(24))
    assert np.array_equal(measured.counts, heldout.lengths - 2)
    for document in range(24):
        ids = torch.from_numpy(heldout.subset([document]).ids)[None].long()
        labels = ids.clone()
        labels[:, 1] = -100  # its predecessor is masked
        loss = small(ids, labels=labels).loss.item()
        mean = measured.clean[document] / measured.counts[document]
        assert mean == pytest.approx(loss, rel=1e-5)


def test_recovered_is_1_for_the_same_and_0_for_the_ablation(measured: Losses) -> None:
    clean, counts = measured.clean, measured.counts
    zero, mean, identity, _ = measured.replaced
    for ablated in (zero, mean):
        assert recovered(clean, ablated, identity, counts, 0) == (1, 1, 1, "")
        assert recovered(clean, ablated, ablated, counts, 0) == (0, 0, 0, "")
    assert zero.sum() > mean.sum() > clean.sum()


def test_recovered_is_the_ratio_of_token_means_with_its_interval(measured: Losses) -> None:
    clean, counts = measured.clean, measured.counts
    zero, _, _, rounding = measured.replaced
    found = recovered(clean, zero, rounding, counts, 0)
    ce = [sums.sum() / counts.sum() for sums in (zero, rounding, clean)]
    assert found.value == pytest.approx((ce[0] - ce[1]) / (ce[0] - ce[2]))
    assert 0 < found.low < found.value < found.high < 1
    assert found.reason == ""
    assert recovered(clean, zero, rounding, counts, 0) == found
    assert recovered(clean, zero, rounding, counts, 1)[1:3] != found[1:3]
    back = slice(None, None, -1)
    turned = recovered(clean[back], zero[back], rounding[back], counts[back], 0)
    assert turned[1:] == found[1:]
    assert turned.value == pytest.approx(found.value)


# Degenerate


def test_an_ablation_that_costs_too_little_says_nothing() -> None:
    clean, counts = np.array([20.0, 30.0]), np.array([10, 10])
    found = recovered(clean, clean + 0.49, clean, counts, 0)
    assert all(math.isnan(number) for number in found[:3])
    assert found.reason == "ablation costs 0.049 nats, under 0.05"
    assert recovered(clean, clean + 0.51, clean, counts, 0) == (1, 1, 1, "")
    assert recovered(clean, clean - 5, clean, counts, 0).reason.startswith("ablation costs -0.5")


def test_what_is_not_finite_and_single_documents_are_named() -> None:
    clean, counts = np.array([20.0, 30.0]), np.array([10, 10])
    broken = recovered(clean, clean + 5, np.array([20.0, np.nan]), counts, 0)
    assert math.isnan(broken.value)
    assert broken.reason == "a loss is not finite"
    single = recovered(clean[:1], clean[:1] + 5, clean[:1] + 1, counts[:1], 0)
    assert single.value == pytest.approx(0.8)
    assert math.isnan(single.low)
    assert single.reason == "no interval from one document"
    uneven = recovered(clean, clean + np.array([30, -25]), clean, counts, 0)
    assert uneven.value == 1
    assert uneven.reason == "no interval: the ablation costs nothing in too many resamples"


@pytest.mark.parametrize("name", CASES)
def test_sites_of_causal_models_are_replaceable(name: str) -> None:
    for site in SITES:
        if name in CAUSAL:
            check_replaceable(config_of(name), site)
        else:
            with pytest.raises(UserError, match="is an encoder: it predicts no next token"):
                check_replaceable(config_of(name), site)


def test_what_is_no_site_is_refused() -> None:
    with pytest.raises(UserError, match="cross-entropy cannot replace 'latents'") as found:
        check_replaceable(config_of("llama"), "latents")
    assert "\n" not in str(found.value)
