"""Multi-layer perceptron with one hidden layer, on a document's vector or on each token."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sdlms.numerics.splits import TRAIN
from sdlms.numerics.standardize import RunningMoments
from sdlms.probes.batches import Batches
from sdlms.probes.iterative import IterativeProbe
from sdlms.probes.members import Members
from sdlms.probes.network import Schedule, no_penalty
from sdlms.probes.ordering import reading_groups
from sdlms.probes.pieces import Piece
from sdlms.probes.seeding import generator_for
from sdlms.probes.stacked import Dropout, Params, linear, shared_hidden, torch_linear
from sdlms.probes.targets import Split


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
    A member reads (x - mean) / std of what its own seed trains on. So that all members of a layer
    can read the same rows, these are (x - centre) / scale, and the rest is folded into the first
    layer: centre and scale cancel, and serve float32 alone.

    Attributes:
        centre: `[layer, unit]` float32.
        scale: `[layer, unit]` float32, > 0.
        mean: `[layer, seed, unit]` float32, of what the seed trains on.
        std: `[layer, seed, unit]` float32, standard deviation, > 0.
        settings: width and schedule.
    """

    kind: ClassVar[str] = "mlp"
    needs_tokens: ClassVar[bool] = False

    centre: Tensor
    scale: Tensor
    mean: Tensor
    std: Tensor
    settings: MlpSettings = field(default_factory=MlpSettings)

    @classmethod
    def scaled_to(
        cls, data: Batches, trained: NDArray[np.bool_], settings: MlpSettings | None = None
    ) -> "MlpNetwork":
        """The network for the mean and standard deviation of what each seed trains on.

        One pass over the documents that any seed trains on; their mean and standard deviation are
        centre and scale, so that of one seed alone nothing is folded.

        Args:
            data: vectors of documents, or tokens, of which those of mask 1 count.
            trained: `[seed, document]` whether the seed trains on the document; each on some.
            settings: width and schedule; None for the usual ones.
        """
        any_seed: NDArray[np.bool_] = np.asarray(trained.any(axis=0, keepdims=True))
        chosen = np.concatenate([any_seed, trained])
        moments = [[RunningMoments(data.n_units) for _ in chosen] for _ in range(data.n_layers)]
        # Cut before it is chosen from: a seed's sums then do not depend on the other seeds.
        everything = np.arange(data.n_documents)
        groups = reading_groups(everything, data.lengths, MlpSettings.read_documents)
        read = [group[chosen[0, group]] for group in groups]
        for batch in data.batches([group for group in read if len(group)]):
            for own, layer in zip(moments, batch.x.cpu(), strict=True):
                for one, rows in zip(own, chosen[:, batch.documents], strict=True):
                    which = torch.from_numpy(rows)
                    x = layer[which]
                    one.add(x if batch.mask is None else x[batch.mask.cpu()[which]])
        mean = torch.stack([torch.stack([one.mean for one in own]) for own in moments]).float()
        std = torch.stack([torch.stack([one.std for one in own]) for own in moments]).float()
        return cls(mean[:, 0], std[:, 0], mean[:, 1:], std[:, 1:], settings or MlpSettings())

    @classmethod
    def alone(cls, mean: Tensor, std: Tensor, settings: MlpSettings | None = None) -> "MlpNetwork":
        """The network of one seed, for its mean and std `[layer, unit]`: nothing is folded."""
        return cls(mean, std, mean[:, None], std[:, None], settings or MlpSettings())

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
        centre, scale = (t[members.layers, None].to(rows) for t in (self.centre, self.scale))
        rows = (rows - centre) / scale
        hidden = shared_hidden(self._folded(params, members), rows, members, None)
        return linear(params["top"], params["top_bias"], hidden)[:, 0]

    @cached_property
    def _ratio(self) -> Tensor:
        """`[layer, seed, unit]` the common scale in standard deviations of the seed."""
        return self.scale[:, None] / self.std

    @cached_property
    def _shift(self) -> Tensor:
        """`[layer, seed, unit]` the mean of the seed in terms of centre and scale."""
        return (self.mean - self.centre[:, None]) / self.scale[:, None]

    def _folded(self, params: Params, members: Members) -> tuple[Tensor, Tensor]:
        """The first layer, as it reads rows in terms of centre and scale."""
        weight = params["weight"]
        layer, seed = torch.from_numpy(members.layer), torch.from_numpy(members.seed)
        # Moved before they are repeated for every label.
        ratio, shift = (t.to(weight)[layer, seed] for t in (self._ratio, self._shift))
        weight = weight * ratio[:, None]
        return weight, params["bias"] - (weight @ shift.unsqueeze(-1))[..., 0]

    def penalty(self, params: Params) -> Tensor:
        """`[member]` zeros."""
        return no_penalty(params)

    def member_tensors(self, params: Params, layer: int, seed: int) -> Params:
        """A member's parameters with the mean and std `[1, unit]` of what it was trained on."""
        return {**params, "mean": self.mean[layer, seed, None], "std": self.std[layer, seed, None]}


class MlpProbe(IterativeProbe[MlpSettings]):
    """Tells two classes apart by an MLP on a document's vector, or on each of its tokens."""

    kind: ClassVar[str] = "mlp"
    reads: ClassVar[str] = "weight"
    config_class = MlpSettings

    def network(self, tensors: Params) -> MlpNetwork:
        """The MLP with the mean and std that it was trained with."""
        return MlpNetwork.alone(tensors["mean"], tensors["std"], self.config)

    def network_for(self, data: Batches, split: Split) -> MlpNetwork:
        """The MLP for the mean and std of the training documents."""
        return MlpNetwork.scaled_to(data, split.roles == TRAIN, self.config)
