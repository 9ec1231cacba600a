"""Tiny random models with the embedded tokenizer, and the real command line, for all tests."""

import gc
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from sdlms.cli import ENVIRONMENT

for _name, _value in ENVIRONMENT.items():  # as the command line sets it
    os.environ.setdefault(_name, _value)
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# The same examples everywhere, and no clock: other work on the machine must not fail a test.
settings.register_profile(
    "sdlms", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("sdlms")

TOKENIZER = Path(__file__).parent.parent / "sdlms/assets/models/sdlms-medium"
Cli = Callable[..., int]
COUNTED_CASES = 3
SEEN_CASES: Counter[str] = Counter()


def is_counted(item: pytest.Item) -> bool:
    """Whether a test says which lines are run: quick ones, and of many cases the first few."""
    name = item.nodeid.partition("[")[0]
    SEEN_CASES[name] += 1
    return item.get_closest_marker("slow") is None and SEEN_CASES[name] <= COUNTED_CASES


def pytest_collection_finish() -> None:
    """What thousands of tests are made of is not searched for garbage while they run."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Lines are counted where it costs little: a test takes half as long again by it."""
    plugin = item.config.pluginmanager.getplugin("_cov")
    controller = getattr(plugin, "cov_controller", None)
    if controller is None or is_counted(item):
        return (yield)
    controller.pause()
    try:
        return (yield)
    finally:
        controller.resume()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """What one test's command line sets up must not talk in the next."""
    yield
    logger = logging.getLogger("sdlms")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)
    logger.propagate = True


def save_tiny_model(folder: Path, activation: str = "gelu", model_type: str = "gpt_neox") -> Path:
    """A random causal model of four blocks, 24 wide, 64 neurons, context 96."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type,
        vocab_size=3072,
        hidden_size=24,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=96,
        hidden_act=activation,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def architecture_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a model of some `model_type`."""
    made: dict[str, Path] = {}

    def model(model_type: str) -> Path:
        if model_type not in made:
            folder = tmp_path_factory.mktemp("models") / model_type
            made[model_type] = save_tiny_model(folder, model_type=model_type)
        return made[model_type]

    return model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GELU model's folder."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_relu_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ReLU model's folder."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-relu", "relu")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDLMS_ARTIFACTS", raising=False)
    yield tmp_path


@pytest.fixture
def cli(work: Path) -> Cli:
    """Run the command line in process, in an empty folder; returns the exit code."""
    from sdlms.cli import main

    def run(*arguments: object) -> int:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        return int(stopped.value.code or 0)

    return run
