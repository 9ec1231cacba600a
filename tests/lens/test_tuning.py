"""Training of translators: against torch's own loop, better than the logit lens, resumed alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sdlms.lens.tuning
from sdlms.errors import UserError
from sdlms.lens.measuring import Lens
from sdlms.lens.residuals import residuals
from sdlms.lens.states import states_of
from sdlms.lens.tuned import Tuned
from sdlms.lens.tuning import (
    CHECKPOINT_STEPS,
    LARGEST_GRADIENT,
    Halved,
    TuningSettings,
    rate_of,
    train_tuned,
    without,
)
from sdlms.models.loading import find_model, load_causal_model
from sdlms.models.unembedding import logits_of
from sdlms.storage.rows import Rows

torch.manual_seed(0)
MODEL = load_causal_model(find_model("sdlms-small", None), torch.float32, torch.device("cpu"))
N_LAYERS = len(MODEL.base_model.layers)
STATES = states_of(N_LAYERS, range(N_LAYERS))


def random_rows(n_documents: int, seed: int = 0) -> Rows:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, 20, n_documents)
    ids = generator.integers(1, 3000, int(lengths.sum())).astype(np.int32)
    mask = np.ones(len(ids), dtype=np.uint8)
    mask[::7] = 0
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Rows(ids, mask, offsets, [f"{n:016x}" for n in range(n_documents)], ["t"] * n_documents)


def settings(steps: int, step_tokens: int = 60) -> TuningSettings:
    return TuningSettings(steps, step_tokens, seed=3, on_halved=lambda what, left: None)


def mean_kl(lens: Tuned | None, rows: Rows) -> np.ndarray:
    """`[state]` KL to the final layer, over all tokens."""
    found = []
    with residuals(MODEL, STATES) as recorded:
        for first, last in zip(rows.offsets, rows.offsets[1:], strict=False):
            ids = torch.from_numpy(rows.ids[first:last].astype(np.int64))
            resid = recorded.run(ids[None])[0]
            states = resid if lens is None else lens.translate(resid, STATES)
            measured = Lens(MODEL).measure(states, torch.full((len(ids),), -1))
            found.append(measured.kl_to_final_nats)
    return np.concatenate(found).mean(axis=0)


def by_hand(rows: Rows, steps: int) -> list[nn.Linear]:
    """The same training in torch's plain words, of one batch that holds all documents."""
    layers = [nn.Linear(resid_width(), resid_width()) for _ in range(N_LAYERS)]
    for layer in layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    optimizers = [
        torch.optim.Adam(layer.parameters(), lr=rate_of(resid_width())) for layer in layers
    ]
    resid, final = [], []
    for first, last in zip(rows.offsets, rows.offsets[1:], strict=False):
        ids = torch.from_numpy(rows.ids[first:last].astype(np.int64))[None]
        with torch.no_grad():
            output = MODEL(ids, output_hidden_states=True)
        kept = torch.from_numpy(rows.mask[first:last] > 0)
        resid.append(torch.stack(output.hidden_states[:-1], dim=2)[0, kept])
        final.append(output.logits[0, kept])
    states, wanted = torch.cat(resid), torch.cat(final).softmax(-1)
    for step in range(steps):
        for number, (layer, optimizer) in enumerate(zip(layers, optimizers, strict=True)):
            optimizer.param_groups[0]["lr"] = rate_of(resid_width()) * (1 - step / steps)
            optimizer.zero_grad()
            own = states[:, number]
            said = logits_of(MODEL, own + layer(own)).log_softmax(-1)
            loss = (wanted * (wanted.log() - said)).sum(-1).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(layer.parameters(), LARGEST_GRADIENT)
            optimizer.step()
    return layers


def resid_width() -> int:
    return int(MODEL.config.hidden_size)


def test_three_steps_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    rows = random_rows(6)
    learned = train_tuned(MODEL, rows, settings(3, step_tokens=10_000), tmp_path)
    for number, layer in enumerate(by_hand(rows, 3)):
        torch.testing.assert_close(
            learned.weight[number], layer.weight.detach(), rtol=1e-3, atol=2e-5
        )
        torch.testing.assert_close(learned.bias[number], layer.bias.detach(), rtol=1e-3, atol=2e-5)


@pytest.mark.slow
def test_it_comes_nearer_to_the_final_layer_than_the_logit_lens(tmp_path: Path) -> None:
    rows, other = random_rows(60), random_rows(20, seed=1)
    learned = train_tuned(MODEL, rows, settings(60, step_tokens=300), tmp_path)
    before, after = mean_kl(None, other), mean_kl(learned, other)
    assert (after[:-1] < 0.8 * before[:-1]).all()
    assert after[-1] == before[-1]


class _Killed(Exception):
    """Stands for whatever ends the process."""


def test_a_killed_training_ends_with_the_same_bytes(tmp_path: Path) -> None:
    rows, n_steps = random_rows(12), CHECKPOINT_STEPS + 5
    whole = train_tuned(MODEL, rows, settings(n_steps), tmp_path / "whole")
    n_forwards = 0

    def stop(*_: object) -> None:
        nonlocal n_forwards
        n_forwards += 1
        if n_forwards == CHECKPOINT_STEPS + 3:
            raise _Killed

    hook = MODEL.base_model.register_forward_pre_hook(stop)
    try:
        with pytest.raises(_Killed):
            train_tuned(MODEL, rows, settings(n_steps), tmp_path / "killed")
        n_forwards = -1000
        resumed = train_tuned(MODEL, rows, settings(n_steps), tmp_path / "killed")
        assert n_forwards == -1000 + 5, "the steps before the checkpoint were done again"
    finally:
        hook.remove()
    assert torch.equal(resumed.weight, whole.weight)
    assert torch.equal(resumed.bias, whole.bias)


def test_another_seed_sees_other_batches(tmp_path: Path) -> None:
    rows = random_rows(12)
    one = train_tuned(MODEL, rows, settings(2), tmp_path / "one")
    other = TuningSettings(2, 60, seed=4, on_halved=lambda what, left: None)
    two = train_tuned(MODEL, rows, other, tmp_path / "two")
    assert not torch.equal(one.weight, two.weight)


def test_text_without_tokens_to_learn_from_is_one_line(tmp_path: Path) -> None:
    rows = random_rows(2)
    rows.mask[:] = 0
    with pytest.raises(UserError, match="special or skipped"):
        train_tuned(MODEL, rows, settings(1), tmp_path)


Told = list[tuple[Halved, int]]


def trained_with(rows: Rows, folder: Path) -> tuple[Tuned, Told]:
    """Two steps of one batch that holds all documents, and what was said of the memory."""
    told: Told = []
    how = TuningSettings(2, 10_000, seed=3, on_halved=lambda *said: told.append(said))
    return train_tuned(MODEL, rows, how, folder), told


def same(found: Tuned, whole: Tuned) -> None:
    """But for rounding."""
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def refuse_many_rows(model: object, resid: torch.Tensor) -> torch.Tensor:
    if len(resid) > 20:
        raise torch.OutOfMemoryError("out of memory")
    return logits_of(MODEL, resid)


@contextmanager
def little_memory(most_tokens: int) -> Iterator[None]:
    """A forward pass of more tokens fails."""

    def refuse(
        module: nn.Module, args: tuple[object, ...], kwargs: dict[str, torch.Tensor]
    ) -> None:
        if kwargs["input_ids"].numel() > most_tokens:
            raise torch.OutOfMemoryError("out of memory")

    hook = MODEL.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def test_out_of_memory_at_the_logits_halves_their_rows_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = random_rows(6)
    whole, _ = trained_with(rows, tmp_path / "whole")
    monkeypatch.setattr(sdlms.lens.tuning, "logits_of", refuse_many_rows)
    found, told = trained_with(rows, tmp_path / "halved")
    assert told == [("rows", 128), ("rows", 64), ("rows", 32), ("rows", 16)]
    same(found, whole)


def test_out_of_memory_in_the_forward_pass_halves_its_documents_and_gives_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = random_rows(6)
    whole, told = trained_with(rows, tmp_path / "whole")
    assert not told
    padded = 6 * int(rows.lengths.max())
    with little_memory(padded // 2):
        found, told = trained_with(rows, tmp_path / "halved")
        assert told == [("tokens", padded // 2)]
        assert f"--tuned takes {padded // 2} tokens in a forward pass" in caplog.text
        monkeypatch.setattr(sdlms.lens.tuning, "logits_of", refuse_many_rows)
        both, told = trained_with(rows, tmp_path / "both")
    assert {what for what, _ in told} == {"rows", "tokens"}
    same(found, whole)
    same(both, whole)


def test_a_document_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    rows = random_rows(6)
    with little_memory(4), pytest.raises(UserError, match="out of memory on a single document"):
        trained_with(rows, tmp_path)


def test_measured_documents_are_left_out() -> None:
    rows = random_rows(5)
    left = without(rows, [rows.document_ids[1], rows.document_ids[4], "unknown"])
    assert left.document_ids == [rows.document_ids[n] for n in (0, 2, 3)]
    assert left.n_tokens == int(rows.lengths[[0, 2, 3]].sum())
