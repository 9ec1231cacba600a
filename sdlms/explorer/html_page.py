"""A page of one conversation that needs no server: style, script and data stand in the file.

Whatever people or models wrote is escaped: in the text as HTML, in the data as JSON without `<`.
The page's own policy allows its one script and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
from collections.abc import Iterator
from importlib import resources
from itertools import groupby
from typing import Any

from sdlms.explorer.core import Core
from sdlms.explorer.searching import stored_rows
from sdlms.explorer.shapes import number_of
from sdlms.explorer.shelf import Opened
from sdlms.explorer.tokens import Token

LARGEST_ROWS = 200_000  # states of tokens: about 20 MB
N_TOP = 5
DIGITS = 5


def html_pieces(core: Core, opened: Opened) -> Iterator[str]:
    """The page in pieces; of a long conversation the last tokens have their layers."""
    conversation = opened.conversation
    n_rows = LARGEST_ROWS // (core.n_states * len(core.lenses))
    first = max(0, conversation.n_tokens - n_rows)
    style, script = _file("style.css"), _file("script.js")
    yield _head(style, script, conversation.title)
    yield f"<h1>{html.escape(conversation.title)}</h1>\n<p class=about>{_about(core, first)}"
    yield _choice(core.lenses)
    yield '<main><section class=chat aria-label="conversation">\n'
    for index, tokens in groupby(list(conversation.tokens), lambda token: token.message_index):
        said = conversation.messages[index : index + 1] if index >= 0 else []
        yield from _message(said[0].role if said else "", list(tokens))
    yield "</section>\n<section class=panel id=panel aria-live=polite><p>Choose a token.</p>"
    yield '</section></main>\n<script type="application/json" id=rows>'
    named: set[int] = set()
    yield from map(_inside_script, _data(core, opened, first, named))
    texts = {token_id: core.text_of(token_id) for token_id in sorted(named)}
    yield '</script>\n<script type="application/json" id=texts>' + _inside_script(json.dumps(texts))
    yield f"</script>\n<script>{script}</script>\n</body>\n</html>\n"


def _head(style: str, script: str, title: str) -> str:
    """What stands before the text."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
    )


def _about(core: Core, first: int) -> str:
    """What the reader sees."""
    about = (
        f"Model {html.escape(core.loaded.name)}. Choose a token to see what each layer would say "
        "next; the logit lens of early layers is noisy."
    )
    if first:
        about += f" Layers are in this file from position {first} on."
    return about


def _choice(lenses: list[str]) -> str:
    """The switch between the lenses."""
    options = "".join(f"<option>{lens}</option>" for lens in lenses)
    return f" <label>Lens <select id=lens>{options}</select></label></p>\n"


def _message(role: str, tokens: list[Token]) -> Iterator[str]:
    """A message's tokens."""
    yield f"<span class=role>{role}</span>" if role else ""
    for token in tokens:
        names = ["token"]
        names += ["template"] if token.is_template else []
        names += [] if token.in_prompt else ["left"]
        text = html.escape(token.text or f"⟨{token.pieces}⟩")
        yield (
            f'<button class="{" ".join(names)}" data-position="{token.position}" '
            f'aria-pressed="false">{text}</button>'
        )
    yield "\n"


def _data(core: Core, opened: Opened, first: int, named: set[int]) -> Iterator[str]:
    """The rows as JSON, position to states; adds the tokens they name to `named`."""
    yield json.dumps({"states": [state.name for state in core.states]})[:-1]
    for lens in core.lenses:
        yield f', "{lens}": {{'
        separator = ""
        for rows in stored_rows(core, opened, lens, first):
            for at, position in rows.there():
                row = [_cell(rows.arrays, (at, state), named) for state in range(core.n_states)]
                yield f'{separator}"{position}":{json.dumps(row, separators=(",", ":"))}'
                separator = ",\n"
        yield "}"
    yield "}"


def _cell(arrays: dict[str, Any], place: tuple[int, int], named: set[int]) -> list[Any]:
    """The likeliest tokens, their probabilities, entropy, KL, and the actual next token."""
    ids = arrays["top_ids"][place][:N_TOP].tolist()
    named.update(ids)
    shares = [_short(share) for share in arrays["top_probabilities"][place][:N_TOP].tolist()]
    log = float(arrays["next_log_probability"][place])
    return [
        ids,
        shares,
        _short(float(arrays["entropy_nats"][place])),
        _short(float(arrays["kl_to_final_nats"][place])),
        _short(math.exp(log)),
        int(arrays["next_rank"][place]),
    ]


def _short(value: float) -> float | None:
    """A number with few digits; null for what JSON lacks."""
    number = number_of(value)
    return None if number is None else round(number, DIGITS)


def _inside_script(text: str) -> str:
    """JSON that cannot end the element that it stands in."""
    return text.replace("<", "\\u003c")


def _file(name: str) -> str:
    """A file beside this module, in `export/`."""
    return (resources.files("sdlms.explorer") / "export" / name).read_text("utf-8")
