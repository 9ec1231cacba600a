"""Around calls of transformers: failures become one line that helps, reports are silenced."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from safetensors import SafetensorError

from sdlms.errors import UserError

MALFORMED = (OSError, ValueError, KeyError, TypeError, ArithmeticError)
"""What transformers raises on a config that it does not check: `null`, 0 attention heads."""


def reason_of(error: Exception, lines: int = 1) -> str:
    """The first lines of an error's text as one; its kind where it has no text."""
    words = " ".join(line.strip() for line in str(error).splitlines()[:lines])
    return words or type(error).__name__


@contextmanager
def one_line_errors(
    model: str, place: str = "the machine's memory", step: str = "load its weights"
) -> Iterator[None]:
    """Failures of transformers, safetensors and torch as what the user can mend.

    Args:
        model: as the user wrote it.
        place: what it may be too large for.
        step: what is done here, behind "cannot".

    Raises:
        UserError: instead of them.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise UserError(
            f"--model {model} does not fit {place}. "
            "Use a smaller one, --dtype bfloat16 or --device-map auto."
        ) from None
    except KeyError as error:
        raise UserError(
            f"--model {model}: its config asks for {error}, which transformers does not know."
        ) from None
    except (*MALFORMED, RuntimeError, SafetensorError) as error:
        raise UserError(f"--model {model}: cannot {step}: {reason_of(error)}") from None


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence reports: that a causal model's head was not loaded, that weights are offloaded."""
    from transformers.utils import logging as transformers_logging

    accelerate = logging.getLogger("accelerate")
    levels = transformers_logging.get_verbosity(), accelerate.level
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    accelerate.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(levels[0])
        accelerate.setLevel(levels[1])
