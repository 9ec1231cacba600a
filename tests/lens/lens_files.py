"""Small `lens.h5` files with chosen or random numbers; no model is behind them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdlms.storage.flat import FlatWriter
from sdlms.storage.lens_file import LensHeader, create_lens, lens_dataset
from sdlms.storage.rows import Rows

STATES = (("resid_pre", 0), ("resid_mid", 0), ("resid_post", 0), ("resid_post", 2))
D_VOCAB = 5


def rows_of(lengths: Sequence[int], tasks: Sequence[str], masked: float = 0.2) -> Rows:
    """Random tokens, some of them special."""
    generator = np.random.default_rng(0)
    n_tokens = sum(lengths)
    return Rows(
        ids=generator.integers(D_VOCAB, size=n_tokens).astype(np.int32),
        mask=(generator.random(n_tokens) >= masked).astype(np.uint8),
        offsets=np.cumsum([0, *lengths]),
        document_ids=[f"{number:016x}" for number in range(len(lengths))],
        document_tasks=list(tasks),
    )


def write_lens(
    path: Path,
    rows: Rows,
    lenses: Sequence[str] = ("logit",),
    vocabulary: Sequence[str] = (" a", "b", "\n", "$x", "ü"),
) -> dict[str, dict[str, np.ndarray]]:
    """A file of random numbers, by lens and data set."""
    header = LensHeader(
        model="m", revision="", n_layers=3, lenses=tuple(lenses), states=STATES, n_top=2,
        targets=((1, "b"), (3, "$x")), vocabulary=tuple(vocabulary), dtype="", unembed="",
    )  # fmt: skip
    create_lens(path, header, rows)
    generator = np.random.default_rng(1)
    held: dict[str, dict[str, np.ndarray]] = {}
    with FlatWriter(path) as writer:
        for lens in lenses:
            for name, (shape, dtype) in header.layouts.items():
                full = (rows.n_tokens, *shape)
                if dtype.kind == "f":
                    values = generator.random(full)
                else:
                    values = generator.integers(D_VOCAB, size=full)
                if name == "decided_at":
                    values = generator.choice([-1, 0, 2], size=full)
                if name == "target_rank":
                    values = generator.integers(1, D_VOCAB + 1, size=full)
                held.setdefault(lens, {})[name] = values = values.astype(dtype)
                writer.write(lens_dataset(lens, name), 0, values)
    return held
