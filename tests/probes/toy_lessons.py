"""Small activations in which some labels can be found, and small networks to find them with."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sdlms.acts.handle import Acts
from sdlms.numerics.splits import TEST, TRAIN, VALIDATION
from sdlms.probes.attention import AttentionNetwork, AttentionSettings
from sdlms.probes.batches import ActsBatches
from sdlms.probes.gated_bipolar import GatedBipolarNetwork, GatedBipolarSettings
from sdlms.probes.lesson import Lesson
from sdlms.probes.members import Members
from sdlms.probes.mlp import MlpNetwork, MlpSettings
from sdlms.probes.multimax import MultiMaxNetwork, MultiMaxSettings
from sdlms.probes.network import Network
from sdlms.probes.pieces import Piece
from sdlms.probes.stacked import Dropout, Params
from sdlms.probes.targets import Split, Targets

N_UNITS = 7
# Dropout's scales `[column, unit]` of a document: of a place, its width and rate.
Scales = Callable[..., Tensor]
ByHand = Callable[[Params, Tensor, Scales], Tensor]
KINDS = ["mlp", "attention", "multimax", "gated_bipolar"]


def toy_acts(n_documents: int = 40, n_layers: int = 2, *, tokens: bool = True) -> Acts:
    """Random activations; unit k is raised on one token of a document whose number % 3 is k."""
    generator = torch.Generator().manual_seed(n_documents)
    lengths = torch.randint(2, 9, (n_documents,), generator=generator)
    x = torch.randn(n_documents, n_layers, 9, N_UNITS, generator=generator)
    for document in range(n_documents):
        x[document, :, 1, document % 3] += 3
    if not tokens:
        return Acts(x[:, :, 1], "blh")
    mask = torch.arange(9) < lengths[:, None]
    x = x * mask[:, None, :, None]
    mask[::4, 0] = False
    return Acts(x, "blsh", mask)


def toy_targets(n_documents: int = 40, n_labels: int = 2) -> Targets:
    """Label k is true of documents whose number % 3 is k."""
    documents = np.arange(n_documents)
    return Targets(np.stack([documents % 3 == label for label in range(n_labels)]))


def toy_split(n_documents: int = 40, seeds: tuple[int, ...] = (0, 1)) -> Split:
    """Half for training, a quarter each for validation and testing, another half for each seed."""
    parts = np.resize([TRAIN, TRAIN, VALIDATION, TEST], n_documents)
    rows = [np.random.default_rng(seed).permutation(parts) for seed in seeds]
    return Split(seeds, np.array(rows, dtype=np.int8))


def toy_lesson(
    seeds: tuple[int, ...] = (0, 1),
    *,
    acts: Acts | None = None,
    targets: Targets | None = None,
) -> Lesson:
    """40 documents, 2 layers, 2 labels."""
    data = ActsBatches(toy_acts() if acts is None else acts)
    return Lesson(data, targets or toy_targets(), toy_split(seeds=seeds), order_seed=5)


def toy_network(kind: str, n_layers: int = 2, max_epochs: int = 6, patience: int = 6) -> Network:
    """Few hidden units, large steps."""
    mean = torch.linspace(-1, 1, n_layers * N_UNITS).view(n_layers, N_UNITS)
    schedule = {"max_epochs": max_epochs, "patience": patience, "learning_rate": 0.01}
    schedule |= {"batch_documents": 8, "read_documents": 16, "step_tokens": 20, "least_gain": 0.0}
    if kind == "mlp":
        # All seeds alike, since a seed's row depends on which others there are.
        seeds = mean[:, None].expand(-1, 4, -1)
        settings = MlpSettings(hidden=6, **schedule)
        return MlpNetwork(mean / 2 + 1, mean.abs() + 2, seeds, seeds.abs() + 0.5, settings)
    if kind == "attention":
        widths = {"scorer_hidden": 6, "classifier_hidden": 5, "classifier_second": 4}
        return AttentionNetwork(AttentionSettings(**widths, **schedule))
    if kind == "multimax":
        return MultiMaxNetwork(MultiMaxSettings(hidden=6, heads=3, **schedule))
    return GatedBipolarNetwork(GatedBipolarSettings(hidden=6, gates=3, **schedule))


def toy_piece(tokens: bool = True, n_documents: int = 5) -> Piece:
    """A whole batch of toy activations."""
    acts = toy_acts(n_documents, tokens=tokens).realize()
    return Piece(acts.tensor.transpose(0, 1), acts.mask, np.arange(n_documents) + 10)


def random_params(network: Network, n_members: int, seed: int = 0) -> Params:
    """Parameters that differ from member to member, none of them 0."""
    generator = torch.Generator().manual_seed(seed)
    params = {}
    for name, param in network.initial(N_UNITS, 0).items():
        params[name] = torch.randn(n_members, *param.shape, generator=generator) / 2
    return params


def leaves(params: Params) -> Params:
    """Copies that gather gradients."""
    return {name: param.detach().clone().requires_grad_() for name, param in params.items()}


def standardised(x: Tensor) -> Tensor:
    """A LayerNorm without scale and shift, by its formula."""
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()


def assert_as_by_hand(
    network: Network,
    by_hand: ByHand,
    *,
    train: bool,
) -> None:
    """Logits and gradients of a ragged stack equal those of a loop over members and documents.

    `by_hand(params, x, scales)` is the logit of one document, from one member's parameters, the
    document's mask-1 rows and the dropout's scales for its columns.
    """
    members = Members.grid(2, (3, 8), 2).subset(np.array([0, 1, 3, 4, 6]))
    piece, params = toy_piece(), leaves(random_params(network, len(members)))
    again = leaves(params)
    dropout = Dropout(members, 1) if train else None
    stacked = network.logits(params, piece, members, dropout)
    (stacked.square().sum() + network.penalty(params).sum()).backward()
    firsts = np.concatenate([[0], np.cumsum(piece.counts)])
    rows, loop = [], torch.zeros(())
    for member, (layer, seed) in enumerate(zip(members.layer, members.seed, strict=True)):
        own = {name: param[member] for name, param in again.items()}
        for document, n_rows in enumerate(piece.counts):
            x = piece.x[layer, document][piece.mask[document]]
            columns = slice(firsts[document], firsts[document] + n_rows)

            def scales(place: str, width: int, rate: float, *, by_token: bool = True) -> Tensor:
                if dropout is None:
                    return torch.ones(1, width)
                whole = piece.token_columns if by_token else piece.document_columns
                chosen = columns if by_token else slice(document, document + 1)  # noqa: B023
                return dropout.scales(place, width, rate, whole)[seed, :, chosen].T  # noqa: B023

            rows.append(by_hand(own, x, scales))
        loop = loop + network.penalty({name: own[name][None] for name in own}).sum()
    expected = torch.stack(rows).view(len(members), -1)
    (expected.square().sum() + loop).backward()
    assert torch.allclose(stacked, expected, atol=1e-5)
    for name, param in params.items():
        assert torch.allclose(param.grad, again[name].grad, atol=1e-4, rtol=1e-4), name
        assert param.grad.abs().max() > 1e-4, name
