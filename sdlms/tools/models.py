"""List and show the models that ship with sdlms."""

import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from sdlms.progress import readable_bytes
from sdlms.storage.cards import Card, checked_files, embedded_models, find_card

app = typer.Typer(help=__doc__, no_args_is_help=True, rich_markup_mode=None, add_completion=False)

COLUMNS: dict[str, Callable[[Card], str]] = {
    "model": lambda card: card.name,
    "parameters": lambda card: f"{card.parameters:,}",
    "layers": lambda card: str(card.shape["n_layers"]),
    "d_model": lambda card: str(card.shape["d_model"]),
    "heads": lambda card: str(card.shape["n_heads"]),
    "activation": lambda card: str(card.shape["activation"]),
    "context": lambda card: str(card.shape["context"]),
    "size": lambda card: readable_bytes(card.size_bytes),
    "training tokens": lambda card: f"{card.training_tokens:,}",
    "mean loss": lambda card: f"{card.mean_loss_nats:.4f}",
}


@app.command("list")
def list_command() -> None:
    """List all models, smallest first.

    Losses are means over the probe tasks, in nats per token.
    """
    cards = sorted(map(find_card, embedded_models()), key=lambda card: (card.parameters, card.name))
    rows = [list(COLUMNS), *([cell(card) for cell in COLUMNS.values()] for card in cards)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *rest in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(rest, widths[1:], strict=True))
        typer.echo("  ".join([f"{name:<{widths[0]}}", *cells]))


@app.command()
def show(model: Annotated[str, typer.Argument(help="A model's name; see: models list")]) -> None:
    """Show a model's card and check its files.

    Exit 3 if a file is missing, or differs from what the card says.
    """
    card = find_card(model)
    typer.echo(f"{card.name}  ({card.folder})")
    losses = {**card.loss_per_token_nats, "mean": round(card.mean_loss_nats, 4)}
    fields = {"shape": card.shape, **card.fields, "loss_per_token_nats": losses}
    for name, value in fields.items():
        if name not in ("name", "sha256"):  # the first line; the files, below
            for line in _lines(name, value):
                typer.echo(line)
    typer.echo("files:")
    if not _show_files(card):
        raise typer.Exit(3)


def _lines(name: str, value: Any, indent: str = "") -> Iterator[str]:
    """A field of the card; one that holds fields itself is a section."""
    if isinstance(value, dict):
        yield f"{indent}{name}:"
        for key, inner in value.items():
            yield from _lines(key, inner, f"{indent}  ")
    else:
        yield f"{indent}{name}: {json.dumps(value, ensure_ascii=False)}"


def _show_files(card: Card) -> bool:
    """Every file with its digest, and whether that is the card's; returns whether all are."""
    files = list(checked_files(card))
    width = max(len(file.name) for file in files)
    for file in files:
        size = readable_bytes(file.size_bytes) if file.sha256 else ""
        digest = f"sha256 {file.sha256}  " if file.sha256 else ""
        typer.echo(f"  {file.name:<{width}}  {size:>8}  {digest}{file.verdict}")
    return all(file.verdict in ("as in the card", "not in the card") for file in files)
