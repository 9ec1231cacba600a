"""The text that a gated model reads, cut before any weights are loaded."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdlms.dynamic.streams import read_documents
from sdlms.dynamic.windows import Drawn, WindowSettings, check_windows, draw
from sdlms.models.architectures import text_config
from sdlms.models.inputs import check_vocabulary
from sdlms.models.loading import ModelSource, load_tokenizer
from sdlms.models.tokens import Text

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

WINDOW = 512


def resolved_windows(settings: WindowSettings, config: "PreTrainedConfig") -> WindowSettings:
    """How text is cut: 0 stands for 512 tokens or the model's context, and for half a window.

    Raises:
        UserError: the model cannot see so much at once, or the settings contradict each other.
    """
    context = int(text_config(config).max_position_embeddings)
    window = settings.window or min(WINDOW, context)
    stride = settings.stride or max(1, window // 2)
    found = WindowSettings(window, stride, settings.max_tokens, settings.calibration_tokens)
    check_windows(found, context)
    return found


def read_text(
    source: ModelSource,
    config: "PreTrainedConfig",
    tasks: Sequence[Sequence[Text]],
    settings: WindowSettings,
    seeds: Sequence[int],
) -> dict[int, Drawn]:
    """What each seed reads.

    Args:
        source: the model; its tokenizer is loaded.
        config: of the model.
        tasks: the documents of each.
        settings: resolved.
        seeds: of windows and calibration.

    Raises:
        UserError: the tokenizer cannot be loaded or does not belong to the model, or a task's text
            is too short.
    """
    documents = read_documents(load_tokenizer(source), tasks)
    drawn = {seed: draw(documents, seed, settings) for seed in seeds}
    for each in drawn.values():
        largest = max(each.windows.ids.max(), each.calibration.max(initial=0))
        check_vocabulary(source, config, int(largest))
    return drawn
