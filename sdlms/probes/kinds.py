"""The kinds of probes, by name: what each reads, how it is made, and which class it is."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

from sdlms.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor


class Probe(Protocol):
    """A probe that can be saved: `from_parts(settings(), tensors())` predicts the same bits."""

    def predict(self, x: "Tensor", mask: "Tensor | None" = None) -> "Tensor":
        """Probabilities of class 1."""

    def settings(self) -> dict[str, Any]:
        """Numbers that JSON can hold."""

    def tensors(self) -> "dict[str, Tensor]":
        """What was learned."""

    @classmethod
    def from_parts(cls, settings: Mapping[str, Any], tensors: "Mapping[str, Tensor]") -> Self:
        """The probe that both came from."""


@dataclass(frozen=True)
class Kind:
    """One kind of probe.

    Attributes:
        name: as `--kinds` takes it.
        module: where its class is.
        class_name: of its class.
        needs_tokens: whether it reads all tokens of a document, not one vector.
        iterative: whether it is trained epoch by epoch, many members together.
    """

    name: str
    module: str
    class_name: str
    needs_tokens: bool
    iterative: bool

    def probe_class(self) -> type[Probe]:
        """Its class; imports torch, and for some kinds more."""
        found = getattr(importlib.import_module(self.module), self.class_name)
        return cast("type[Probe]", found)


_ALL = (
    Kind("logistic", "sdlms.probes.logistic", "LogisticProbe", False, False),
    Kind("mlp", "sdlms.probes.mlp", "MlpProbe", False, True),
    Kind("attention", "sdlms.probes.attention", "AttentionProbe", True, True),
    Kind("multimax", "sdlms.probes.multimax", "MultiMaxProbe", True, True),
    Kind("gated_bipolar", "sdlms.probes.gated_bipolar", "GatedBipolarProbe", True, True),
    Kind("mass_mean", "sdlms.probes.mass_mean", "MassMeanProbe", False, False),
)
KINDS = {kind.name: kind for kind in _ALL}


def kind_of(name: str) -> Kind:
    """The kind with this name.

    Raises:
        UserError: there is none.
    """
    if name not in KINDS:
        raise UserError(f"unknown kind of probe '{name}'.{did_you_mean(name, KINDS)}")
    return KINDS[name]


def kind_of_probe(probe: Probe) -> Kind:
    """The kind that a probe's class belongs to.

    Raises:
        ValueError: it is no class of the table.
    """
    for kind in KINDS.values():
        if (type(probe).__module__, type(probe).__name__) == (kind.module, kind.class_name):
            return kind
    raise ValueError(f"{type(probe).__name__} is not in the table of kinds")
