"""Where a token looked: the attention weights that it had when the model read it first."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event as Flag

import numpy as np

from sdlms.errors import UserError
from sdlms.explorer.answers import check_position
from sdlms.explorer.computing import Urgency
from sdlms.explorer.core import Core
from sdlms.explorer.refusals import OutOfRange
from sdlms.explorer.rereading import NEVER, check_wanted
from sdlms.explorer.shapes import Json
from sdlms.explorer.shelf import Opened
from sdlms.models.architectures import n_layers
from sdlms.models.attention_rows import AttentionReading


def attention(
    core: Core,
    opened: Opened,
    position: int,
    layers: Sequence[int] | None,
    given_up: Flag = NEVER,
) -> Json:
    """The weights of a position by layer and head, over the positions that it could look at.

    Of more weights than one answer may have, the last layers are sent, and of the keys the last
    ones: `left_out_layers` and `n_left_out` say what is not there.

    Raises:
        Refusal: there is no such position or layer, the model gives no weights, or nobody waits
            for them any more.
    """
    check_position(opened, position)
    n = n_layers(core.loaded.config)
    chosen = list(range(n)) if layers is None else sorted(set(layers))
    if absent := [layer for layer in chosen if not 0 <= layer < n]:
        raise OutOfRange(f"layer {absent[0]} does not exist; the model has 0 to {n - 1}")
    positions = opened.conversation.seen(position)
    ids = [opened.conversation.tokens[each].id for each in positions]
    try:
        with core.rereading.turn(given_up):
            reading = AttentionReading(core.loaded.model, ids)
            while reading.n_pieces:  # others compute between two of them
                core.computer.run(Urgency.CLICK, reading.read_piece)
                check_wanted(given_up)
            weights = core.computer.run(Urgency.CLICK, reading.row)
    except UserError as error:
        raise OutOfRange(str(error)) from None
    n_heads, most = weights.shape[1], core.settings.max_attention_weights
    n_keys = min(len(positions), max(1, most // n_heads))
    n_left_out = max(0, len(chosen) - max(1, most // (n_heads * n_keys)))
    sent = chosen[n_left_out:]
    for layer in sent:
        if not np.isfinite(weights[layer]).all():
            raise OutOfRange(
                f"attention of layer {layer} is not finite; start with --dtype float32"
            )
    rows = weights[..., -n_keys:].clip(0, 1)
    return {
        "position": position,
        "positions": positions[-n_keys:],
        "n_left_out": len(positions) - n_keys,
        "layers": [{"layer": layer, "heads": rows[layer].tolist()} for layer in sent],
        "left_out_layers": chosen[:n_left_out],
    }
