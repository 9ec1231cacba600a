"""The training of the embedded family: attention, the order of windows, rates, and resuming."""

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import train_model  # noqa: E402
from chunked_attention import CHUNKED  # noqa: E402
from family import CONTEXT, SIZES, config_of  # noqa: E402
from train_model import Plan, rate_share, train, window_order  # noqa: E402
from transformers import GPTNeoXForCausalLM  # noqa: E402

D_VOCAB = 64


@pytest.fixture(autouse=True)
def eager() -> Iterator[None]:
    """Compiling takes longer than these tests; what is computed is the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")
    torch.set_num_threads(threads)


def random_ids(n_windows: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(D_VOCAB, (n_windows * CONTEXT + 7,), generator=generator).to(torch.int16)


@pytest.mark.parametrize("n_tokens", [1, 100, 128, 300, CONTEXT])
def test_chunked_attention_is_causal_attention(n_tokens: int) -> None:
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(config_of("sdlms-small", D_VOCAB)).eval()
    ids = torch.randint(D_VOCAB, (2, n_tokens))
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        model.set_attn_implementation(CHUNKED)
        chunked = model(input_ids=ids).logits
    torch.testing.assert_close(chunked, expected, rtol=1e-5, atol=1e-5)


def test_every_pass_reads_every_window_once() -> None:
    order = window_order(10, 25, seed=3)
    assert sorted(order[:10].tolist()) == sorted(order[10:20].tolist()) == list(range(10))
    assert len(set(order[20:].tolist())) == 5
    assert order.tolist() == window_order(10, 25, seed=3).tolist()
    assert order.tolist() != window_order(10, 25, seed=4).tolist()


def test_rates_rise_then_fall_to_the_floor() -> None:
    n_steps = 1_000
    shares = [rate_share(step, n_steps) for step in range(n_steps)]
    peak = shares.index(max(shares))
    assert shares[peak] == 1.0
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert math.isclose(shares[-1], train_model.FLOOR, abs_tol=1e-4)


# torch's own, on the import of its compiler.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_an_interrupted_training_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = random_ids(8)
    whole = Plan(
        name="sdlms-small",
        n_tokens=5 * train_model.BATCH * CONTEXT,
        seed=1,
        checkpoints=tmp_path / "whole",
        checkpoint_every=100,
    )
    expected = train(whole, ids, D_VOCAB).state_dict()
    broken = replace(whole, checkpoints=tmp_path / "broken", checkpoint_every=2)
    save = train_model.save_checkpoint

    def save_then_die(path: Path, state: dict[str, object]) -> None:
        save(path, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(train_model, "save_checkpoint", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(broken, ids, D_VOCAB)
    monkeypatch.undo()
    resumed = train(broken, ids, D_VOCAB).state_dict()
    assert all(torch.equal(resumed[name], weight) for name, weight in expected.items())
    other = train(replace(whole, checkpoints=tmp_path / "other", seed=2), ids, D_VOCAB).state_dict()
    assert not all(torch.equal(other[name], weight) for name, weight in expected.items())


def test_other_text_never_resumes_a_checkpoint(tmp_path: Path) -> None:
    plan = Plan(name="sdlms-small", n_tokens=4096, seed=1, checkpoints=tmp_path, checkpoint_every=1)
    ids = random_ids(4)
    changed = ids.clone()
    changed[0] += 1
    assert plan.checkpoint(ids) == plan.checkpoint(ids.clone())
    assert plan.checkpoint(ids) != plan.checkpoint(changed)


def test_the_family_grows_and_fits_ten_megabytes() -> None:
    counts = {name: GPTNeoXForCausalLM(config_of(name, 3_072)).num_parameters() for name in SIZES}
    assert counts["sdlms-small"] < counts["sdlms-medium"] < counts["sdlms-large"]
    assert counts["sdlms-medium"] == counts["sdlms-medium-relu"]
    assert 2 * sum(counts.values()) < 10_000_000
