"""Run a model with MLPs that keep a part of their neurons for each token, and put it back after.

    from sdlms.models.gated import gated, learn

    with gated(model, "post-norm", keep=0.3):
        model.generate(**inputs)

Rules: `sdlms.models.gating.rules`. The linear maps of the MLPs are replaced, not the MLPs, so that
every architecture of the table is served; `replacing` and `recording` work inside (not of neurons
that a compact matrix leaves out).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from inspect import signature
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from sdlms.errors import UserError
from sdlms.models.architectures import architecture_for, check_causal
from sdlms.models.gating.calibration import learn
from sdlms.models.gating.compact_family import SequenceMlp, StaticMlp
from sdlms.models.gating.down_family import DownMlp
from sdlms.models.gating.inputs_family import InputsMlp
from sdlms.models.gating.layouts import LinearMap, mlps_of
from sdlms.models.gating.learned import Learned
from sdlms.models.gating.rules import Family, check_keep, rule_of
from sdlms.models.gating.stand_ins import StandIn
from sdlms.models.gating.terms import Backends, GatedMlp, How, Terms
from sdlms.models.replacing import Arguments, first_argument

__all__ = ["Gates", "How", "Learned", "gated", "learn"]

FAMILIES: dict[Family, type[GatedMlp]] = {"down": DownMlp, "inputs": InputsMlp}
COMPACT: dict[str, type[GatedMlp]] = {"static": StaticMlp, "sequence": SequenceMlp}


@contextmanager
def gated(
    model: PreTrainedModel,
    rule: str,
    keep: float,
    *,
    learned: Learned | None = None,
    how: How = How(),  # noqa: B008 - frozen
) -> Iterator["Gates"]:
    """Gate the MLPs of a model inside the block.

    On leaving, however the block ends, the model has its own modules again and bit-equal weights.
    Meanwhile no second copy of the weights is held (unless `how.hold_both`). At keep 1 nothing is
    replaced (unless `how.force_at_one`). Contexts may be nested on different layers.

    Inside, one thread at a time may run the model, and its weights must stay where they are: to
    load a state dict, or to move or convert the model, raises ValueError, perhaps half done; leave
    the block and do it again. A deep copy of the model is dense. But `static` and `sequence`,
    unless masked, put neurons in another order: `state_dict`, `save_pretrained` and `copy.deepcopy`
    raise ValueError then (not with `hold_both`), and so do gradients, and `recording` or
    `replacing` of the neurons (`mlp_act`). `execution="sparse"` has no gradients either; `auto` has
    those of masks. `sequence` serves no prompts in several calls and no assisted decoding.

    Args:
        model: A causal model, or the base model of one.
        rule: One of `sdlms.models.gating.rules.RULES`.
        keep: The fraction to keep, in (0, 1].
        learned: What `learn` gave, for rules that need a calibration sample or blocks.
        how: Everything else.

    Yields:
        Tells what was really kept, and takes another `keep`.

    Raises:
        UserError: The rule or keep does not exist; the model is an encoder, or its MLPs cannot be
            gated; the rule needs what `learned` does not hold; a layer is gated already.
        ValueError: A layer does not exist. On leaving: a gated weight was replaced meanwhile;
            everything else is as it was then.
    """
    family = rule_of(rule).family
    check_keep(keep)
    check_causal(model.config)
    mlps = mlps_of(model, how.layers)
    _check_learned(rule, learned, [mlp.layer for mlp in mlps])
    made = COMPACT[rule] if family == "compact" else FAMILIES[family]
    terms = Terms(rule, how, learned, Backends(how.backend))
    gates = Gates(model, [made(mlp, terms) for mlp in mlps], terms)
    with ExitStack() as stack:
        stack.callback(gates._close)
        gates.keep = keep
        yield gates


class _Note:
    """A forward pre-hook that notes arguments. In a deep copy of its module it notes nothing."""

    def __init__(self, see: Callable[[Arguments], None]) -> None:
        self._see = see

    def __call__(self, module: nn.Module, *arguments: Any) -> None:
        self._see(arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Note":
        return _Note(lambda arguments: None)


def _see_shape(layer: GatedMlp, arguments: Arguments) -> None:
    """Batch and token of a block's forward."""
    layer.see_shape(first_argument(arguments).shape[:2])


def _see_forward(layers: list[GatedMlp], names: list[str], arguments: Arguments) -> None:
    """Attention mask and cache of a model's forward, whose positional arguments have names."""
    args, kwargs = arguments
    given = dict(zip(names, args, strict=False)) | kwargs
    mask, cache = given.get("attention_mask"), given.get("past_key_values")
    real = mask if isinstance(mask, Tensor) and mask.dim() == 2 else None
    starts = cache is None or int(cache.get_seq_length()) == 0
    for layer in layers:
        layer.see_forward(real, starts=starts)


def _check_learned(rule: str, learned: Learned | None, layers: list[int]) -> None:
    """Refuse a rule that lacks what it must know."""
    needs = rule_of(rule).needs
    if needs == "nothing":
        return
    if learned is None:
        raise UserError(
            f"rule '{rule}' needs a calibration sample. Pass learned=learn(model, input_ids)."
        )
    if absent := [layer for layer in layers if layer not in learned.layers]:
        raise UserError(f"layer {absent[0]} was not learned. Pass it to learn, or gate others.")
    if rule == "input" and any(learned.layers[layer].allocation is None for layer in layers):
        raise UserError("rule 'input' was not among those that were learned. Name it to learn.")
    unblocked = [layer for layer in layers if learned.layers[layer].block is None]
    if needs == "blocks" and unblocked:
        raise UserError(
            f"rule '{rule}' needs blocks of neurons; layer {unblocked[0]} has none. Pass blocks to "
            "learn, or gate other layers."
        )


class Gates:
    """An open `gated` context."""

    def __init__(self, model: PreTrainedModel, mlps: list[GatedMlp], terms: Terms) -> None:
        self._model, self._mlps, self._terms = model, mlps, terms
        self._hooks = ExitStack()
        self._keep = math.nan
        self._entered = False
        self._paused = False
        self._closed = False
        self._stand_ins: list[tuple[LinearMap, StandIn]] = []

    @property
    def keep(self) -> float:
        """The fraction to keep; may be set while the context is open.

        Raises:
            UserError: keep is not in (0, 1].
            ValueError: the context has ended, or is paused.
        """
        return self._keep

    @keep.setter
    def keep(self, keep: float) -> None:
        self._check_open("keep cannot be set")
        check_keep(keep)
        shares = self._shares(keep)
        gating = keep < 1 or self._terms.how.force_at_one
        if not gating:
            self._leave()
        for layer in self._mlps:
            layer.set_keep(keep, shares[layer.mlp.layer])
        self._keep = keep
        if gating and not self._entered:
            self._enter()

    def _shares(self, keep: float) -> dict[int, float]:
        """What `GatedMlp.set_keep` is told beside keep, for each layer."""
        rule, learned = self._terms.rule, self._terms.learned
        layers = [layer.mlp.layer for layer in self._mlps]
        if learned is not None and rule == "input":
            return learned.weight_shares(keep, layers)
        if learned is not None and rule == "top-p":
            return dict.fromkeys(layers, learned.score_share(keep, layers))
        return dict.fromkeys(layers, keep)

    def kept_fraction(self) -> float:
        """What was kept, in the mean over layers and over their tokens since `reset`.

        NaN before any token; 1 where the model's own modules are in place. Tokens that a rule does
        not gate (prompts, under `sequence`) are not counted.
        """
        fractions = self.by_layer().values()
        return sum(fractions) / len(fractions)

    def by_layer(self) -> dict[int, float]:
        """The same for each layer."""
        own = not self._entered
        return {layer.mlp.layer: 1.0 if own else layer.tally.mean() for layer in self._mlps}

    def reset(self) -> None:
        """Count anew."""
        for layer in self._mlps:
            layer.tally.reset()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The model's own modules are back inside.

        Raises:
            ValueError: The weights are laid out otherwise: neither masked, nor `hold_both`; or the
                context has ended, or is paused.
        """
        self._check_open("a pause cannot begin")
        if self._entered and not (self._terms.masked or self._terms.how.hold_both):
            raise ValueError("paused needs How(hold_both=True) or How(execution='masked')")
        self._paused = True
        try:
            self._take_out()
            yield
        finally:
            self._paused = False
            self._put_in()

    def _check_open(self, what: str) -> None:
        """Refuse what must not happen now."""
        if self._closed or self._paused:
            state = "has ended" if self._closed else "is paused"
            raise ValueError(f"{what}: the gated context {state}")

    def _enter(self) -> None:
        """Lay the weights out and put the stand-ins in."""
        self._entered = True
        for layer in self._mlps:
            layer.lay()
            self._stand_ins.extend(layer.stand_ins())
        self._terms.scratch.free()
        self._hook()
        self._put_in()

    def _hook(self) -> None:
        """Note what MLPs are not told: batch and token where they are flat (OPT); what begins."""
        if architecture_for(self._model.config).mlp is None:
            for layer in self._mlps:
                self._hook_before(layer.mlp.block, partial(_see_shape, layer))
        if self._terms.rule == "sequence":
            base = self._model.base_model
            names = list(signature(base.forward).parameters)
            self._hook_before(base, partial(_see_forward, self._mlps, names))

    def _hook_before(self, module: nn.Module, see: Callable[[Arguments], None]) -> None:
        handle = module.register_forward_pre_hook(_Note(see), with_kwargs=True)
        self._hooks.callback(handle.remove)

    def _put_in(self) -> None:
        for linear, stand_in in self._stand_ins:
            linear.put(stand_in)

    def _take_out(self) -> None:
        for linear, stand_in in self._stand_ins:
            linear.put(stand_in.module)

    def _leave(self) -> None:
        """Put the model's own modules back, with their own weights."""
        with ExitStack() as stack:
            stack.callback(self._forget)
            for layer in self._mlps:
                stack.callback(layer.lay_back)
            stack.callback(self._hooks.close)
            stack.callback(self._take_out)

    def _forget(self) -> None:
        """What `_enter` made."""
        self._terms.scratch.free()
        self._stand_ins = []
        self._entered = False

    def _close(self) -> None:
        self._closed = True
        self._leave()
