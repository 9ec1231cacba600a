"""The same activations to disk with the tools that researchers use today."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from benchmarks.peers import (
    CONTEXT,
    NAMES,
    SEQUENCES,
    SaeLens,
    hooked_transformer,
    lens_at_its_best,
    lens_by_default,
)
from benchmarks.timing import Report, alternate
from benchmarks.workload import (
    BUDGET,
    LAYERS,
    Size,
    capture_batches,
    header,
    load_model,
    make_rows,
    mixed_lengths,
)
from sdlms.acts.capturing import Capturing
from sdlms.storage.files import sha256_of
from sdlms.storage.rows import Rows

DEFAULT_WAY_TOKENS = 8_000  # its list of caches and its logits fill the memory
ONE_ROUNDING = {"atol": 2e-6, "rtol": 2**-10}  # of float16


@dataclass(frozen=True)
class Ours:
    """Captures with sdlms into a file of its own."""

    model: PreTrainedModel
    rows: Rows
    layers: Sequence[int]
    folder: Path
    full_floats: bool = False

    @property
    def path(self) -> Path:
        """Where the activations go."""
        return self.folder / "ours.h5"

    def save(self) -> dict[str, float]:
        """What the peers do: activations to disk. Synced, checkpointed, checked for overflow."""
        for path in self.folder.iterdir():
            path.unlink()
        what = header(
            self.model.config.intermediate_size, self.layers, full_floats=self.full_floats
        )
        threads = torch.get_num_threads()
        capturing = Capturing(self.model, what, threads, BUDGET, self.folder, lambda _: None)
        capturing.save(self.path, self.rows, "capture")
        return {}

    def save_and_hash(self) -> dict[str, float]:
        """The same, and its sha256."""
        self.save()
        sha256_of(self.path)
        return {}


def test_transformer_lens_at_its_best(
    size: Size, model_folder: Path, tmp_path: Path, publish: Callable[[Report], None]
) -> None:
    """Three layers' neurons as float16, same batches."""
    lens = hooked_transformer(model_folder)
    rows = make_rows(mixed_lengths(size.tokens // 2), size.d_vocab)
    batches = capture_batches(rows)
    ours = _ours(model_folder, rows, LAYERS, tmp_path)
    theirs = tmp_path / "lens.h5"

    lens_at_its_best(lens, rows, batches, theirs)
    ours.save()
    _check_lens(ours, theirs, list(range(rows.n_documents)))
    rounds = alternate(
        {
            "sdlms": ours.save,
            "sdlms with sha256": ours.save_and_hash,
            "TransformerLens": lambda: lens_at_its_best(lens, rows, batches, theirs),
        },
        size.rounds,
        tidy=os.sync,  # nobody's writing is left for the next one's time
    )
    report = Report("TransformerLens at its best", facts=_facts(rows))
    report.add_rounds(rounds)
    peer = rounds.wall["TransformerLens"]
    report.add_ratio("TransformerLens / sdlms", peer, rounds.wall["sdlms"], ">= 1.2")
    cpu = rounds.cpu
    report.add_ratio("the same in CPU seconds", cpu["TransformerLens"], cpu["sdlms"])
    report.add_ratio("TransformerLens / sdlms with sha256", peer, rounds.wall["sdlms with sha256"])
    publish(report)


def test_transformer_lens_by_default(
    size: Size, model_folder: Path, tmp_path: Path, publish: Callable[[Report], None]
) -> None:
    """The way its documentation shows; stored as float16, which spares gzip half of its work."""
    lens = hooked_transformer(model_folder)
    n_tokens = min(DEFAULT_WAY_TOKENS, size.tokens // 2)
    rows = make_rows(mixed_lengths(n_tokens), size.d_vocab)
    batches = capture_batches(rows)
    ours = _ours(model_folder, rows, LAYERS, tmp_path)
    theirs = tmp_path / "lens.h5"
    lens_by_default(lens, rows, batches, theirs)
    ours.save()
    _check_lens(ours, theirs, [document for batch in batches for document in batch])
    rounds = alternate(
        {
            "sdlms with sha256": ours.save_and_hash,
            "TransformerLens": lambda: lens_by_default(lens, rows, batches, theirs),
        },
        size.rounds,
        tidy=os.sync,  # nobody's writing is left for the next one's time
    )
    report = Report("TransformerLens by default", facts=_facts(rows))
    report.add_rounds(rounds)
    theirs_, ours_ = rounds.wall["TransformerLens"], rounds.wall["sdlms with sha256"]
    report.add_ratio("TransformerLens / sdlms with sha256", theirs_, ours_, ">= 4")
    publish(report)


def test_sae_lens_runner(
    size: Size, model_folder: Path, tmp_path: Path, publish: Callable[[Report], None]
) -> None:
    """One layer's neurons, float32 on both sides, documents of one length."""
    pytest.importorskip("sae_lens", exc_type=ImportError)
    logging.getLogger("sae_lens").setLevel(logging.ERROR)
    n_tokens = max(size.tokens // 2 // (CONTEXT * SEQUENCES), 1) * CONTEXT * SEQUENCES
    rows = make_rows([CONTEXT] * (n_tokens // CONTEXT), size.d_vocab)
    full = _ours(model_folder, rows, [LAYERS[1]], tmp_path, full_floats=True)
    half = _ours(model_folder, rows, [LAYERS[1]], tmp_path)
    peers = {
        "sae-lens, HookedTransformer": SaeLens(hooked_transformer(model_folder), rows, tmp_path),
        "sae-lens, AutoModelForCausalLM": SaeLens(str(model_folder), rows, tmp_path),
    }
    full.save()
    for peer in peers.values():
        peer.run()
        _check_sae_lens(full, peer)
    sides = {
        "sdlms, float32": full.save,
        "sdlms, float16 (its default)": half.save,
        **{name: peer.run for name, peer in peers.items()},
    }
    rounds = alternate(sides, size.rounds, tidy=os.sync)
    for peer in peers.values():
        _check_sae_lens(full, peer)
    report = Report(
        "sae-lens CacheActivationsRunner",
        facts={**_facts(rows), "layer": LAYERS[1], "equal_to": "float32 within 1e-5"},
    )
    report.add_rounds(rounds)
    for name in peers:
        report.add_ratio(f"{name} / sdlms, float32", rounds.wall[name], rounds.wall[_FULL], _GOAL)
        report.add_ratio(f"{name}, in CPU seconds", rounds.cpu[name], rounds.cpu[_FULL])
    publish(report)


_FULL = "sdlms, float32"
_GOAL = ">= 1.5"


def _ours(
    folder: Path,
    rows: Rows,
    layers: Sequence[int],
    parent: Path,
    *,
    full_floats: bool = False,
) -> Ours:
    """A capture with sdlms of the saved model."""
    own = parent / f"ours_{'float32' if full_floats else 'float16'}"
    own.mkdir()
    return Ours(load_model(folder), rows, layers, own, full_floats)


def _facts(rows: Rows) -> dict[str, Any]:
    """What both sides worked on."""
    return {
        "tokens": rows.n_tokens,
        "documents": rows.n_documents,
        "batch_tokens": BUDGET,
        "equal_to": "one rounding step of float16",
    }


def _check_lens(ours: Ours, theirs: Path, documents: Sequence[int]) -> None:
    """Both files hold the same activations; TransformerLens' documents come in this order."""
    order = np.concatenate([np.arange(*ours.rows.offsets[d : d + 2]) for d in documents])
    with h5py.File(ours.path) as own, h5py.File(theirs) as other:
        for layer, name in zip(LAYERS, NAMES, strict=True):
            expected = own[f"mlp_act/layer_{layer}"][:][order].astype(np.float32)
            found = other[name][:].astype(np.float32)
            np.testing.assert_allclose(found, expected, **ONE_ROUNDING)


def _check_sae_lens(ours: Ours, peer: SaeLens) -> None:
    """Its rows in their order are our documents in ours, within 1e-5."""
    from datasets import load_from_disk

    stored = load_from_disk(str(peer.folder)).with_format("numpy")
    assert len(stored) == ours.rows.n_documents
    np.testing.assert_array_equal(np.concatenate(list(stored["token_ids"])), ours.rows.ids)
    with h5py.File(ours.path) as own:
        expected = own[f"mlp_act/layer_{LAYERS[1]}"][:]
    found = np.concatenate(list(stored[peer.hook]))
    np.testing.assert_allclose(found, expected, atol=1e-5)
