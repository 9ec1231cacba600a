"""What is published of the embedded models: cards follow from weights, claims hold."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from corpus.tasks import TASKS  # noqa: E402
from evaluation.facts_check import answers_of, read_facts  # noqa: E402
from evaluation.intervals import bin_counts  # noqa: E402
from evaluation.losses import losses_of  # noqa: E402
from family import load_tokenizer  # noqa: E402
from model_card import load_model  # noqa: E402

from sdlms.storage.cards import embedded_models, find_card  # noqa: E402
from sdlms.tasks import load_tasks  # noqa: E402
from tests.conftest import Cli  # noqa: E402

FAMILY = ("sdlms-small", "sdlms-medium", "sdlms-large")
# Another machine adds in another order; a wrong file is off by far more.
TOLERANCE = 0.02


def test_the_family_is_complete_and_small() -> None:
    assert set(embedded_models()) == {*FAMILY, "sdlms-medium-relu"}
    cards = [find_card(model) for model in embedded_models()]
    weights = [card.folder / "model.safetensors" for card in cards]
    assert sum(path.stat().st_size for path in weights) <= 10_000_000
    assert {card.training_tokens for card in cards} == {13_998_080}
    assert all(card.shape["context"] >= 512 for card in cards)


@pytest.mark.parametrize("task", TASKS)
def test_loss_falls_with_size(task: str) -> None:
    losses = [find_card(model).loss_per_token_nats[task] for model in FAMILY]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == len(FAMILY)


@pytest.mark.parametrize("model", ["sdlms-small", "sdlms-medium-relu"])
def test_the_card_says_what_the_weights_give(model: str) -> None:
    (task,) = load_tasks(("reasoning",), None, "text")
    texts = [document.text for document in task.documents]
    losses = losses_of(load_model(model), load_tokenizer(model), texts)
    published = find_card(model).loss_per_token_nats["reasoning"]
    assert losses.mean == pytest.approx(published, abs=TOLERANCE)


def test_seen_facts_are_known_and_every_bin_holds_some() -> None:
    facts, name = read_facts(), "sdlms-medium"
    model, tokenizer = load_model(name), load_tokenizer(name)
    found = answers_of(model, tokenizer, facts.prompts("baseline"), facts.answers).probability
    assert found[facts.seen].mean() >= 0.9
    published = find_card(name).fields["facts"]["seen"]
    assert found[facts.seen].mean() == pytest.approx(published, abs=TOLERANCE)
    rephrased = answers_of(model, tokenizer, facts.paraphrased, facts.answers).probability
    assert min(bin_counts(found)) >= 1
    assert min(bin_counts(np.concatenate([found, rephrased]))) >= 30


@pytest.mark.parametrize("model", embedded_models())
def test_every_layer_of_every_model_can_be_captured(cli: Cli, work: Path, model: str) -> None:
    settings = ("--layers", "all", "--no-save", "--max-tokens", 700)
    assert cli("capture", "--model", model, *settings) == 0
    (table,) = work.glob("artifacts/*/sparsity.csv")
    n_rows = len(table.read_text().splitlines()) - 1
    assert n_rows == find_card(model).shape["n_layers"] * len(TASKS)
