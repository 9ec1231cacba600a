"""Windows fit the model where nobody says, and its tokenizer must belong to it."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedConfig

from sdlms.dynamic.reading import WINDOW, read_text, resolved_windows
from sdlms.dynamic.streams import read_documents
from sdlms.dynamic.windows import Drawn, WindowSettings, draw
from sdlms.errors import UserError
from sdlms.models.loading import find_model, load_config
from sdlms.models.tokens import Text

LENGTHS = WindowSettings(window=32, stride=16, max_tokens=50, calibration_tokens=64)
TASKS = [
    [Text(f"{task}-{n}", task, f"{task} {n} " + "and then some more words " * n) for n in range(20)]
    for task in ("prose", "qa")
]


def config_of(context: int) -> PreTrainedConfig:
    """Of a model that sees so many tokens."""
    return PreTrainedConfig(max_position_embeddings=context)


@pytest.mark.parametrize(
    ("given", "context", "found"),
    [
        ((0, 0), 96, (96, 48)),
        ((0, 0), 4096, (WINDOW, WINDOW // 2)),
        ((40, 0), 4096, (40, 20)),
        ((3, 0), 4096, (3, 1)),
        ((2, 0), 4096, (2, 1)),
        ((0, 7), 96, (96, 7)),
        ((96, 96), 96, (96, 96)),
    ],
)
def test_zero_stands_for_what_fits(
    given: tuple[int, int], context: int, found: tuple[int, int]
) -> None:
    settings = resolved_windows(WindowSettings(*given, 9, 512), config_of(context))
    assert settings == WindowSettings(*found, 9, 512)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (WindowSettings(97, 0, 9, 0), "the model's context, 96, got 97"),
        (WindowSettings(1, 0, 9, 0), "--window must be at least 2"),
        (WindowSettings(0, 97, 9, 0), "--stride must be from 1 to --window, 96, got 97"),
        (WindowSettings(0, 0, 9, 95), "--calibration-tokens 95 is less than one window of 96"),
    ],
)
def test_contradictions_are_refused(settings: WindowSettings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolved_windows(settings, config_of(96))


def test_the_context_of_a_model_of_text_and_images_is_that_of_its_text() -> None:
    config = SimpleNamespace(get_text_config=lambda: config_of(96))
    found = resolved_windows(WindowSettings(0, 0, 9, 0), config)  # type: ignore[arg-type]
    assert found.window == 96


def test_each_seed_reads_what_draw_gives() -> None:
    source = find_model("sdlms-small", None)
    found = read_text(source, load_config(source), TASKS, LENGTHS, [0, 5])
    assert list(found) == [0, 5]
    documents = read_documents(AutoTokenizer.from_pretrained(source.folder), TASKS)
    for seed, drawn in found.items():
        expected: Drawn = draw(documents, seed, LENGTHS)
        assert np.array_equal(drawn.calibration, expected.calibration)
        for one, other in zip(drawn.windows, expected.windows, strict=True):
            assert np.array_equal(one, other)
    assert not np.array_equal(found[0].calibration, found[5].calibration)


@pytest.mark.parametrize("n_known", [1000, 2])
def test_tokens_that_the_model_does_not_know(tmp_path: Path, n_known: int) -> None:
    own = find_model("sdlms-small", None)
    folder = tmp_path / "stranger"
    shutil.copytree(own.folder, folder)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").chmod(0o644)
    (folder / "config.json").write_text(json.dumps({**values, "vocab_size": n_known}))
    source = find_model(str(folder), None)
    with pytest.raises(UserError, match=f"the model knows {n_known:,}|knows {n_known} tokens"):
        read_text(source, load_config(source), TASKS, LENGTHS, [0])


def test_text_that_is_too_short_is_refused() -> None:
    source = find_model("sdlms-small", None)
    tasks = [[Text("a", "poems", "a road and a river")]]
    lengths = WindowSettings(64, 32, 9, 0)
    with pytest.raises(UserError, match="task 'poems': its text has "):
        read_text(source, load_config(source), tasks, lengths, [0])
