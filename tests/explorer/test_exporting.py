import csv
import io
import json
import math

import pytest

from sdlms.explorer.refusals import OutOfRange
from sdlms.explorer.service import Explorer
from tests.explorer.explorers import (
    click,
    core_of,
    n_tokens_of,
    running,
    say,
    small_model,
    two_turns,
)


def test_json_holds_the_conversation_and_what_clicks_say(explorer: Explorer, talk: str) -> None:
    found = json.loads("".join(explorer.export(talk, "json")))
    assert found["tokens"] == explorer.conversation(talk)["tokens"]
    rows = found["lenses"]["logit"]
    assert [row["position"] for row in rows] == list(range(n_tokens_of(explorer, talk) - 1))
    header, states = click(explorer, talk, 20, context_size=0)
    assert rows[20]["decided_at"] == header["decided_at"][0]
    for cell, state in zip(rows[20]["states"], states, strict=True):
        assert {**cell, "pins": []} == state["cells"][0]


def test_csv_has_a_line_per_position_and_state(explorer: Explorer, talk: str) -> None:
    lines = list(csv.DictReader(io.StringIO("".join(explorer.export(talk, "csv")))))
    n_rows = n_tokens_of(explorer, talk) - 1
    assert len(lines) == 4 * n_rows
    line = lines[4 * 20 + 3]
    _, states = click(explorer, talk, 20, context_size=0)
    cell = states[3]["cells"][0]
    assert (line["position"], line["state"], line["layer"]) == ("20", "block 2", "2")
    assert [int(line[f"token_id_{n}"]) for n in (1, 2)] == [t["token_id"] for t in cell["top"][:2]]
    assert json.loads(line["token_1"]) == cell["top"][0]["text"]
    assert float(line["probability_1"]) == pytest.approx(cell["top"][0]["probability"], rel=1e-6)
    assert math.exp(float(line["next_log_probability"])) == pytest.approx(
        cell["next"]["probability"], rel=1e-5
    )
    assert int(line["next_rank"]) == cell["next"]["rank"]


@pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2", "@SUM(A1)", '"quoted"\nline'])
def test_no_text_of_a_csv_is_a_formula(text: str) -> None:
    with running(small_model()) as explorer:
        talk = say(explorer, text)["conversation_id"]
        explorer.wait_until_filled(30)
        rows = list(csv.reader(io.StringIO("".join(explorer.export(talk, "csv")))))
    places = [n for n, name in enumerate(rows[0]) if name.startswith("token") and "id" not in name]
    assert len(places) == 11
    assert all(row[place].startswith('"') for row in rows[1:] for place in places)


@pytest.mark.parametrize("kind", ["json", "csv", "html"])
def test_rows_that_are_not_filled_are_left_out(kind: str) -> None:
    with running(small_model()) as explorer, core_of(explorer).computer.generating():
        talk = two_turns(explorer)
        text = "".join(explorer.export(talk, kind))  # type: ignore[arg-type]
        if kind == "json":
            assert json.loads(text)["lenses"] == {"logit": []}
        if kind == "csv":
            assert text.count("\n") == 1


def test_unknown_formats_are_refused(explorer: Explorer, talk: str) -> None:
    with pytest.raises(OutOfRange):
        explorer.export(talk, "exe")  # type: ignore[arg-type]
