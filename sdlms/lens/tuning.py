"""Train a tuned lens: each translator learns to say what the model will say in the end.

The loss of a translator is KL(model's prediction || lens' prediction), the mean over tokens; the
model's own weights stay as they are. Translators share the forward passes and nothing else. Source:
Belrose et al. 2023 (arXiv:2303.08112), section 3; Adam instead of SGD.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import kl_div, linear, log_softmax

from sdlms.errors import UserError
from sdlms.lens.residuals import Residuals, residuals
from sdlms.lens.states import states_of
from sdlms.lens.tuned import Tuned
from sdlms.models.architectures import n_layers, n_units
from sdlms.models.batching import is_out_of_memory, run_batches, take_batch
from sdlms.models.forward import padded_inputs
from sdlms.models.unembedding import logits_of
from sdlms.progress import LOGGER, Progress
from sdlms.storage.rows import Rows
from sdlms.storage.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHECKPOINT = "tuning.safetensors"
CHECKPOINT_STEPS = 25
LARGEST_RATE = 1e-2  # of Adam; falls to 0 in a straight line
LARGEST_GRADIENT = 1.0  # norm over one translator, as in the library
ROWS_AT_ONCE = 256  # of logits, for which gradients are kept
Halved = Literal["rows", "tokens"]
SAID = {"rows": "rows of logits at once", "tokens": "tokens in a forward pass"}


@dataclass(frozen=True)
class TuningSettings:
    """How long a lens is trained.

    Attributes:
        steps: updates.
        step_tokens: tokens of an update, about.
        seed: of the order of documents.
        on_halved: told where memory runs out: of what less is worked on at once, `rows` of logits
            or `tokens` of a forward pass (padding included), and how many there are now.
    """

    steps: int
    step_tokens: int
    seed: int
    on_halved: Callable[[Halved, int], None]


class _Translators:
    """The translators while they learn."""

    def __init__(self, n_layers: int, d_model: int, device: torch.device) -> None:
        """Begin with the logit lens: maps that add nothing."""
        weights = [torch.zeros(d_model, d_model, device=device) for _ in range(n_layers)]
        biases = [torch.zeros(d_model, device=device) for _ in range(n_layers)]
        self.pairs = list(zip(weights, biases, strict=True))
        self.parameters = [part.requires_grad_() for pair in self.pairs for part in pair]
        self.rate = rate_of(d_model)
        self.optimizer = torch.optim.Adam(self.parameters, lr=self.rate)
        self.step = 0

    def update(self, steps: int) -> None:
        """One step of Adam on the gradients that are there."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * (1 - self.step / steps)
        for pair in self.pairs:
            torch.nn.utils.clip_grad_norm_(pair, LARGEST_GRADIENT)
        self.optimizer.step()
        self.step += 1

    def save(self, path: Path) -> None:
        """Keep everything that the next step depends on."""
        tensors = {"step": np.array([self.step])}
        for number, parameter in enumerate(self.parameters):
            state = self.optimizer.state[parameter]
            tensors[f"{number}.value"] = parameter.detach().cpu().numpy()
            for name in ("exp_avg", "exp_avg_sq"):
                tensors[f"{number}.{name}"] = state[name].cpu().numpy()
        write_tensors(path, tensors, {})

    def restore(self, path: Path) -> None:
        """Go on where `save` was called last; from the beginning where it never was."""
        if not path.exists():
            return
        tensors, _ = read_tensors(path)
        self.step = int(tensors["step"][0])
        for number, parameter in enumerate(self.parameters):
            parameter.data.copy_(torch.from_numpy(tensors[f"{number}.value"]))
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(self.step)),
                **{
                    name: torch.from_numpy(tensors[f"{number}.{name}"]).to(parameter.device)
                    for name in ("exp_avg", "exp_avg_sq")
                },
            }

    def tuned(self) -> Tuned:
        """What was learned."""
        weights, biases = zip(*self.pairs, strict=True)
        return Tuned(torch.stack(weights).detach().cpu(), torch.stack(biases).detach().cpu())


def rate_of(d_model: int) -> float:
    """The learning rate of a width.

    Each of a state's d numbers adds a step of this size to each output, so that wider models take
    smaller steps. On the embedded models (d 48 to 192) rates around 1 / d learn fastest; at 768
    this is the 1e-3 of the tuned-lens library.
    """
    return min(LARGEST_RATE, 1 / d_model)


def train_tuned(
    model: "PreTrainedModel", rows: Rows, settings: TuningSettings, scratch: Path
) -> Tuned:
    """Train a lens on documents, in batches of like length drawn in seeded order.

    Args:
        model: a causal model in evaluation mode.
        rows: the documents; tokens of mask 0 are read but not learned from.
        settings: how long.
        scratch: folder of the checkpoint, made if need be; a killed training goes on from there
            and ends with the same bytes.

    Returns:
        The lens, on the CPU.

    Raises:
        UserError: no token may be learned from, a few rows do not fit the memory, or training left
            the numbers.
    """
    readable = np.add.reduceat(rows.mask.astype(np.int64), rows.offsets[:-1])
    documents = np.flatnonzero((rows.lengths > 0) & (readable > 0))
    if not len(documents):
        raise UserError("--tuned: every token of the training text is special or skipped.")
    depth = n_layers(model.config)
    states = states_of(depth, range(depth))
    device = next(model.parameters()).device
    translators = _Translators(depth, n_units(model.config, "resid_pre"), device)
    scratch.mkdir(parents=True, exist_ok=True)
    translators.restore(scratch / CHECKPOINT)
    progress = Progress("tuned lens", settings.steps, "steps", done=translators.step)
    with residuals(model, states) as recorded, progress:
        step = _Step(model, recorded, rows, translators, settings)
        for batch in _batches(documents, rows.lengths, settings, translators.step):
            step.run(batch)
            translators.update(settings.steps)
            progress.advance(1)
            if translators.step % CHECKPOINT_STEPS == 0:
                translators.save(scratch / CHECKPOINT)
    tuned = translators.tuned()
    if not all(bool(torch.isfinite(part).all()) for part in tuned):
        raise UserError("--tuned: training left the numbers (NaN). Use --dtype float32.")
    return tuned


def _batches(
    documents: NDArray[np.int64],
    lengths: NDArray[np.int64],
    settings: TuningSettings,
    n_done: int,
) -> Iterator[list[int]]:
    """The documents of every step that is left; each epoch shuffles batches of like length."""
    number, epoch = 0, 0
    while number < settings.steps:
        generator = np.random.default_rng([settings.seed, epoch])
        for batch in _epoch(documents, lengths, settings.step_tokens, generator):
            if number >= settings.steps:
                return
            if number >= n_done:
                yield batch
            number += 1
        epoch += 1


def _epoch(
    documents: NDArray[np.int64],
    lengths: NDArray[np.int64],
    budget: int,
    generator: np.random.Generator,
) -> list[list[int]]:
    """All documents once, those of like length together, batches in random order."""
    shuffled = generator.permutation(documents)
    rest = shuffled[np.argsort(lengths[shuffled], kind="stable")].tolist()
    batches = []
    while rest:
        batches.append(take_batch(rest, lengths, budget))
        rest = rest[len(batches[-1]) :]
    return [batches[number] for number in generator.permutation(len(batches))]


class _Step:
    """The gradients of one batch, in parts where memory is short."""

    def __init__(
        self,
        model: "PreTrainedModel",
        recorded: Residuals,
        rows: Rows,
        translators: _Translators,
        settings: TuningSettings,
    ) -> None:
        self._model, self._recorded, self._rows = model, recorded, rows
        self._translators, self._on_halved = translators, settings.on_halved
        self._tokens_at_once, self._rows_at_once = settings.step_tokens, ROWS_AT_ONCE

    def run(self, documents: list[int]) -> None:
        """Leave the gradients of the mean loss of each translator."""
        while True:
            try:
                self._backward(documents)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                return
            self._fewer_rows()

    def _backward(self, documents: list[int]) -> None:
        """Forward passes, as few as fit, and after each of them the losses of its tokens."""
        self._translators.optimizer.zero_grad()
        n_tokens = int(np.count_nonzero(self._rows.subset(documents).mask))
        forward, told = self._residuals, self._fewer_tokens
        passes = run_batches(documents, self._rows.lengths, self._tokens_at_once, forward, told)
        for _, resid, self._tokens_at_once in passes:
            self._add_gradients(resid, n_tokens)
            del resid  # before the next pass needs the memory

    def _add_gradients(self, resid: Tensor, n_tokens: int) -> None:
        """Those of each translator's loss, some rows at a time.

        Args:
            resid: `[token, state, d_model]`.
            n_tokens: over which the loss is the mean.
        """
        for first in range(0, len(resid), self._rows_at_once):
            some = resid[first : first + self._rows_at_once]
            with torch.no_grad():
                wanted = log_softmax(logits_of(self._model, some[:, -1]).float(), dim=-1)
            for number, (weight, bias) in enumerate(self._translators.pairs):
                own = some[:, number].float()
                logits = logits_of(self._model, own + linear(own, weight, bias)).float()
                said = log_softmax(logits, dim=-1)
                loss = kl_div(said, wanted, reduction="sum", log_target=True) / n_tokens
                loss.backward()  # type: ignore[no-untyped-call]

    def _residuals(self, documents: list[int]) -> Tensor:
        """`[token, state, d_model]` of the tokens that are learned from."""
        device = next(self._model.parameters()).device
        ids, _ = padded_inputs(self._rows, documents, device, causal=True)
        resid = self._recorded.run(ids)
        kept = torch.zeros(ids.shape, dtype=torch.bool)
        for row, document in enumerate(documents):
            first, last = self._rows.offsets[document], self._rows.offsets[document + 1]
            kept[row, : last - first] = torch.from_numpy(self._rows.mask[first:last] > 0)
        return resid[kept.to(resid.device)]

    def _fewer_rows(self) -> None:
        """Work on half as many rows of logits at once."""
        if self._rows_at_once == 1:
            raise UserError(
                "--tuned: a single row of logits with its gradients does not fit the memory. Use a "
                "smaller model or --dtype bfloat16."
            )
        self._rows_at_once //= 2
        self._say("rows", self._rows_at_once)

    def _fewer_tokens(self, left: int) -> None:
        """Fewer documents are read at once."""
        self._say("tokens", left)

    def _say(self, what: Halved, left: int) -> None:
        """In the log and, through the caller, in the run's record."""
        LOGGER.warning("out of memory: --tuned takes %d %s", left, SAID[what])
        self._on_halved(what, left)


def without(rows: Rows, document_ids: Sequence[str]) -> Rows:
    """The documents that are not among `document_ids`: what is measured is not trained on."""
    measured = set(document_ids)
    return rows.subset([n for n, name in enumerate(rows.document_ids) if name not in measured])
