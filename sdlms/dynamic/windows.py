"""Text as a language model is asked to predict it: windows that move over a stream of documents.

Documents are packed as the embedded models were trained, each after an end-of-text token, so that
a window may begin in one document and end in another. All windows have one length; the first tokens
of each were scored in the window before and are context only.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sdlms.dynamic.streams import Documents, Stream, packed
from sdlms.errors import UserError


@dataclass(frozen=True)
class WindowSettings:
    """How text is cut.

    Attributes:
        window: tokens that the model sees at once.
        stride: tokens from one window to the next; so many are scored in each.
        max_tokens: scored per task.
        calibration_tokens: of all tasks together, in documents of their own; 0 for none.
    """

    window: int
    stride: int
    max_tokens: int
    calibration_tokens: int

    @property
    def n_context(self) -> int:
        """Tokens at the start of a window that are not scored: the first has no predecessor."""
        return max(self.window - self.stride, 1)

    @property
    def n_needed(self) -> int:
        """Tokens of a stream that are enough for any offset, with a full window at its end."""
        n_windows = -(-self.max_tokens // (self.window - self.n_context))
        return self.window + (n_windows + 2) * self.stride


class Windows(NamedTuple):
    """What a model is to predict, all tasks one after another.

    Attributes:
        ids: `[window, token]` int64.
        first: position of the first token that may be scored; all before it are context.
        scored: `[window, token - first]` bool, false for special tokens and beyond the budget.
        document: `[window, token - first]` int64, index into `document_ids`; -1 where not scored.
        task: `[window]` int64, index into `task_names`.
        document_ids: of the documents in which a token is scored, in no order that means anything.
        task_names: in the order in which they were given.
    """

    ids: NDArray[np.int64]
    first: int
    scored: NDArray[np.bool_]
    document: NDArray[np.int64]
    task: NDArray[np.int64]
    document_ids: list[str]
    task_names: list[str]

    @property
    def n_prompt(self) -> int:
        """Tokens from which `sequence` chooses; the one after predicts the first that is scored."""
        return max(self.first - 1, 1)


class Drawn(NamedTuple):
    """What one seed reads.

    Attributes:
        calibration: `[window, token]` int64, of documents that are in no window.
        windows: what is predicted.
    """

    calibration: NDArray[np.int64]
    windows: Windows


class _Cut(NamedTuple):
    """The windows of one task; `document` counts within it."""

    ids: NDArray[np.int64]
    scored: NDArray[np.bool_]
    document: NDArray[np.int64]


def check_windows(settings: WindowSettings, context: int | None) -> None:
    """Check settings before anything is loaded.

    Args:
        settings: as resolved.
        context: longest input of the model; None where its config does not say.

    Raises:
        UserError: the model cannot see so much at once, tokens would be left out, or there are too
            few to calibrate with.
    """
    window, stride, calibration = settings.window, settings.stride, settings.calibration_tokens
    if window < 2 or (context is not None and window > context):
        most = "" if context is None else f" and at most the model's context, {context}"
        raise UserError(f"--window must be at least 2{most}, got {window}")
    if not 1 <= stride <= window:
        raise UserError(f"--stride must be from 1 to --window, {window}, got {stride}")
    if settings.max_tokens < 1:
        raise UserError(f"--max-tokens must be at least 1, got {settings.max_tokens}")
    if calibration < 0 or 0 < calibration < window:
        raise UserError(
            f"--calibration-tokens {calibration} is less than one window of {window} tokens. "
            "Allow more, or set a smaller --window."
        )


def draw(tasks: Sequence[Documents], seed: int, settings: WindowSettings) -> Drawn:
    """What one seed reads: its own place to begin, calibration sample and windows.

    Each task is read from a document of the seed's choice, in its own order, the end followed by
    the beginning. The first documents are for calibration, in equal shares of the tasks; the others
    are one stream, through which windows move from a place within the first stride until
    `max_tokens` are scored.
    What a task gives depends on the seed and its own name and documents, and through the share of
    calibration on the number of tasks.

    Args:
        tasks: at least one.
        seed: any integer from 0.
        settings: `check_windows` has seen them.

    Raises:
        UserError: a task's text is shorter than one window once calibration has its share.
    """
    share = -(-settings.calibration_tokens // len(tasks))
    samples, cuts = [], []
    for documents in tasks:
        generator = _generator(seed, documents.task)
        n_documents = len(documents.texts)
        first = int(generator.integers(n_documents))
        # Neighbours stay neighbours: paragraphs of one file go on with its text.
        stream = documents.in_order([*range(first, n_documents), *range(first)])
        samples.append(packed(stream, share).ids)
        rest = packed(stream, settings.n_needed)
        _check_length(documents.task, len(rest.ids), len(samples[-1]), settings)
        cuts.append(_cut(documents.task, rest, settings, generator))
    sample = np.concatenate(samples)
    n_sampled = len(sample) // settings.window
    calibration = sample[: n_sampled * settings.window].reshape(n_sampled, settings.window)
    return Drawn(calibration, _joined(tasks, cuts, settings.n_context))


def _generator(seed: int, task: str) -> np.random.Generator:
    """Random numbers that depend on the seed and the task's name only."""
    digest = hashlib.sha256(task.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def _check_length(task: str, n_left: int, n_sampled: int, settings: WindowSettings) -> None:
    """Refuse text that fills no window."""
    if n_left >= settings.window:
        return
    taken = f" beside the {n_sampled:,} of calibration" if n_sampled else ""
    ways = "--window or --calibration-tokens" if n_sampled else "--window"
    raise UserError(
        f"task '{task}': its text has {n_left:,} tokens{taken}, fewer than one window of "
        f"{settings.window:,}. Set a smaller {ways}, or give longer text in more documents."
    )


def _cut(
    task: str, stream: Stream, settings: WindowSettings, generator: np.random.Generator
) -> _Cut:
    """Windows over a stream until enough is scored; a rest shorter than a stride is left out."""
    n_places = len(stream.ids) - settings.window + 1
    offset = int(generator.integers(settings.stride)) % n_places
    starts = np.arange(offset, n_places, settings.stride)
    positions = starts[:, None] + np.arange(settings.window)
    targets = positions[:, settings.n_context :]
    scored = stream.scored[targets]
    order = np.cumsum(scored).reshape(scored.shape)
    scored &= order <= settings.max_tokens
    if not scored.any():
        raise UserError(f"task '{task}': every token is special. Give other text.")
    used = slice(0, int(np.flatnonzero(scored.any(axis=1))[-1]) + 1)
    document = np.where(scored, stream.document[targets], -1)
    return _Cut(stream.ids[positions[used]], scored[used], document[used])


def _joined(tasks: Sequence[Documents], cuts: Sequence[_Cut], first: int) -> Windows:
    """All tasks' windows, with documents numbered through."""
    document_ids: list[str] = []
    numbered = []
    for documents, cut in zip(tasks, cuts, strict=True):
        own, places = np.unique(cut.document[cut.scored], return_inverse=True)
        places += len(document_ids)
        document_ids += [documents.texts[document].id for document in own.tolist()]
        numbers = np.full_like(cut.document, -1)
        numbers[cut.scored] = places
        numbered.append(numbers)
    return Windows(
        ids=np.concatenate([cut.ids for cut in cuts]),
        first=first,
        scored=np.concatenate([cut.scored for cut in cuts]),
        document=np.concatenate(numbered),
        task=np.repeat(np.arange(len(cuts)), [len(cut.ids) for cut in cuts]),
        document_ids=document_ids,
        task_names=[documents.task for documents in tasks],
    )


def by_task(windows: Windows) -> Iterator[Windows]:
    """The windows of each task, in order; documents keep their numbers."""
    for task in range(len(windows.task_names)):
        own = windows.task == task
        yield windows._replace(
            ids=windows.ids[own],
            scored=windows.scored[own],
            document=windows.document[own],
            task=windows.task[own],
        )


def head(windows: Windows, max_tokens: int) -> Windows:
    """The first windows of each task, until so many tokens are scored; at least one.

    Args:
        windows: all of them.
        max_tokens: scored per task.
    """
    kept = np.zeros(len(windows.ids), dtype=np.bool_)
    for task in range(len(windows.task_names)):
        own = np.flatnonzero(windows.task == task)
        before = np.cumsum(windows.scored[own].sum(axis=1)) - windows.scored[own].sum(axis=1)
        kept[own[before < max_tokens]] = True
    scored, document = windows.scored[kept], windows.document[kept]
    found, places = np.unique(document[scored], return_inverse=True)
    numbers = np.full_like(document, -1)
    numbers[scored] = places
    return windows._replace(
        ids=windows.ids[kept],
        scored=scored,
        document=numbers,
        task=windows.task[kept],
        document_ids=[windows.document_ids[number] for number in found.tolist()],
    )
