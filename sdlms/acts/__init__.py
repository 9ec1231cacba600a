"""Acts: lazy activations of a model, a finished run, or a tensor.

from sdlms.acts import collect, load_acts
"""

from sdlms.acts.handle import Acts, realize_all
from sdlms.acts.opening import (
    collect,
    collect_activations,
    load_activations,
    load_acts,
    tokens_of,
)

__all__ = [
    "Acts",
    "collect",
    "collect_activations",
    "load_activations",
    "load_acts",
    "realize_all",
    "tokens_of",
]
