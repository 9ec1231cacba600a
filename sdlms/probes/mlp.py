"""Multi-layer perceptron with one hidden layer, on a document's vector or on each token."""

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.numerics.standardize import RunningMoments
from sdlms.probes.batches import Batches
from sdlms.probes.iterative import IterativeProbe
from sdlms.probes.members import Members
from sdlms.probes.network import Schedule, no_penalty
from sdlms.probes.ordering import reading_groups
from sdlms.probes.pieces import Piece
from sdlms.probes.seeding import generator_for
from sdlms.probes.stacked import Dropout, Params, linear, shared_hidden, torch_linear


@dataclass(frozen=True, kw_only=True)
class MlpSettings(Schedule):
    """Width and schedule of the MLP."""

    hidden: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    max_epochs: int = 100
    patience: int = 10


@dataclass(frozen=True, eq=False)
class MlpNetwork:
    """Linear, ReLU, Linear on z-scored activations.

    Raw activations have outlier units of hugely different scale, and no LayerNorm tames them here.

    Attributes:
        mean: `[layer, unit]` float32, of the activations.
        std: `[layer, unit]` float32, standard deviation, > 0.
        settings: width and schedule.
    """

    kind: ClassVar[str] = "mlp"
    needs_tokens: ClassVar[bool] = False

    mean: Tensor
    std: Tensor
    settings: MlpSettings = field(default_factory=MlpSettings)

    @classmethod
    def scaled_to(
        cls, data: Batches, documents: NDArray[np.int64], settings: MlpSettings | None = None
    ) -> "MlpNetwork":
        """The network for the mean and standard deviation of some documents, in one pass.

        Args:
            data: vectors of documents, or tokens, of which those of mask 1 count.
            documents: indices, at least one; those that are trained on.
            settings: width and schedule; None for the usual ones.
        """
        moments = [RunningMoments(data.n_units) for _ in range(data.n_layers)]
        for group in reading_groups(documents, data.lengths, MlpSettings.read_documents):
            for batch in data.batches([group]):
                for layer, x in zip(moments, batch.x.cpu(), strict=True):
                    layer.add(x if batch.mask is None else x[batch.mask.cpu()])
        mean = torch.stack([layer.mean for layer in moments]).float()
        std = torch.stack([layer.std for layer in moments]).float()
        return cls(mean, std, settings or MlpSettings())

    @property
    def hidden_units(self) -> int:
        """Width of the hidden layer."""
        return self.settings.hidden

    def initial(self, n_units: int, seed: int) -> Params:
        """One member's parameters, as torch.nn.Linear draws them."""
        generator = generator_for(self.kind, "initial", seed)
        weight, bias = torch_linear(self.settings.hidden, n_units, generator)
        top, top_bias = torch_linear(1, self.settings.hidden, generator)
        return {"weight": weight, "bias": bias, "top": top, "top_bias": top_bias}

    def logits(
        self, params: Params, piece: Piece, members: Members, dropout: Dropout | None
    ) -> Tensor:
        """`[member, row]`: one logit for each vector, or for each mask-1 token."""
        rows = piece.rows(members.layers)
        mean, std = (t[members.layers, None].to(rows) for t in (self.mean, self.std))
        rows = (rows - mean) / std
        hidden = shared_hidden((params["weight"], params["bias"]), rows, members, None)
        return linear(params["top"], params["top_bias"], hidden)[:, 0]

    def penalty(self, params: Params) -> Tensor:
        """`[member]` zeros."""
        return no_penalty(params)

    def member_tensors(self, params: Params, layer: int) -> Params:
        """A member's parameters with the mean and std `[1, unit]` of its layer."""
        return {**params, "mean": self.mean[layer, None], "std": self.std[layer, None]}


class MlpProbe(IterativeProbe[MlpSettings]):
    """Tells two classes apart by an MLP on a document's vector, or on each of its tokens."""

    kind: ClassVar[str] = "mlp"
    config_class = MlpSettings

    def network(self, tensors: Params) -> MlpNetwork:
        """The MLP with the mean and std that it was trained with."""
        return MlpNetwork(tensors["mean"], tensors["std"], self.config)

    def network_for(self, data: Batches, documents: NDArray[np.int64]) -> MlpNetwork:
        """The MLP for the mean and std of the training documents."""
        return MlpNetwork.scaled_to(data, documents, self.config)
