"""Documents measured in batches: as each alone, every row at its place, bad numbers refused."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sdlms.errors import UserError
from sdlms.lens.measuring import Lens
from sdlms.lens.residuals import residuals
from sdlms.lens.rows import decided_at
from sdlms.lens.states import states_of
from sdlms.lens.streaming import CHECKPOINT, Measuring
from sdlms.lens.tuned import Tuned
from sdlms.storage.lens_file import LensHeader, LensReader, create_lens
from sdlms.storage.rows import Rows
from tests.lens.lens_files import rows_of
from tests.models.tiny_models import random_model

MODEL = random_model("llama", AutoModelForCausalLM)
STATES = states_of(3, range(3))
ROWS = rows_of([5, 0, 9, 1, 7, 9], ["a"] * 6)
PINS = (3, 7)
MEMORY = Path(__file__).with_name("measuring_memory.py")
TUNED = Tuned(torch.randn(3, 16, 16) / 9, torch.randn(3, 16))


def measuring(scratch: Path, budget: int, lenses: Mapping[str, Tuned | None]) -> Measuring:
    return Measuring(
        model=MODEL, lens=Lens(MODEL, 4), lenses=lenses, states=STATES, pins=PINS, budget=budget,
        scratch=scratch, on_halved=lambda budget: None,
    )  # fmt: skip


def create(path: Path, rows: Rows, lenses: Mapping[str, Tuned | None]) -> None:
    header = LensHeader(
        model="", revision="", n_layers=3, lenses=tuple(lenses), states=tuple(STATES), n_top=4,
        targets=tuple((pin, str(pin)) for pin in PINS), vocabulary=("x",) * 50, dtype="",
        unembed="",
    )  # fmt: skip
    create_lens(path, header, rows)


@pytest.mark.parametrize("budget", [1, 12, 2048])
def test_each_document_has_the_rows_it_has_alone(tmp_path: Path, budget: int) -> None:
    lenses = {"logit": None, "tuned": TUNED}
    create(tmp_path / "lens.h5", ROWS, lenses)
    measuring(tmp_path, budget, lenses).fill(tmp_path / "lens.h5", ROWS)
    with LensReader(tmp_path / "lens.h5") as reader, residuals(MODEL, STATES) as stream:
        for first, last in zip(ROWS.offsets[:-1], ROWS.offsets[1:], strict=True):
            if first == last:
                continue
            ids = torch.from_numpy(ROWS.ids[first:last]).long()
            next_ids = torch.cat([ids[1:], torch.tensor([-1])])
            resid = stream.run(ids[None])[0]
            for name, tuned in lenses.items():
                states = resid if tuned is None else tuned.translate(resid, STATES)
                alone = Lens(MODEL, 4).measure(states, next_ids, PINS)
                expected = {
                    "top_ids": alone.top_ids,
                    "top_probabilities": alone.top_probabilities,
                    "entropy_nats": alone.entropy_nats,
                    "kl_to_final_nats": alone.kl_to_final_nats,
                    "next_log_probability": alone.next_log_probability,
                    "next_rank": alone.next_rank,
                    "target_log_probability": alone.pin_log_probability,
                    "target_rank": alone.pin_rank,
                    "decided_at": decided_at(alone.top_ids, STATES),
                }
                for each, values in expected.items():
                    found = reader.read(name, each, int(first), int(last))
                    np.testing.assert_allclose(found, values, atol=1e-5, err_msg=each)


def test_blocks_that_a_checkpoint_covers_are_left_alone(tmp_path: Path) -> None:
    path, lenses = tmp_path / "lens.h5", {"logit": None}
    create(path, ROWS, lenses)
    measuring(tmp_path, 2048, lenses).fill(path, ROWS)
    state = json.loads((tmp_path / CHECKPOINT).read_text())
    assert state["blocks"] == 1
    path.unlink()
    create(path, ROWS, lenses)
    blank = path.read_bytes()
    measuring(tmp_path, 2048, lenses).fill(path, ROWS)
    assert path.read_bytes() == blank


def test_what_overflows_is_named(tmp_path: Path) -> None:
    rows = ROWS.subset([2])
    overflowing = Tuned(torch.zeros(3, 16, 16), torch.zeros(3, 16))
    overflowing.bias[1, 0] = torch.inf
    lenses = {"tuned": overflowing}
    create(tmp_path / "lens.h5", rows, lenses)
    message = f"document {rows.document_ids[0]}, token 0: the logits of block 0 are not finite"
    with pytest.raises(UserError, match=message):
        measuring(tmp_path, 9, lenses).fill(tmp_path / "lens.h5", rows)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, MEMORY, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["logits_bytes"] > 400e6 and found["grown_bytes"] < found["logits_bytes"] / 4
