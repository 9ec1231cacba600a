"""What is stored is there again: a small memory, damaged files, a restart."""

from pathlib import Path

import pytest
import torch

from sdlms.explorer.cache.limits import CacheLimits
from sdlms.lens.tuned import Tuned
from tests.explorer.explorers import (
    click,
    core_of,
    counted_forwards,
    n_tokens_of,
    running,
    say,
    small_model,
    two_turns,
)


def test_restart_answers_from_the_disk_without_the_model(tmp_path: Path) -> None:
    loaded = small_model()
    with running(loaded, tmp_path) as explorer:
        talk = two_turns(explorer)
        explorer.update(talk, "A title", True)
        assert explorer.wait_until_filled(30)
        before = [click(explorer, talk, p)[1] for p in (3, 20)]
        shown = explorer.conversation(talk)
    with running(loaded, tmp_path) as explorer:
        (listed,) = explorer.conversations()
        assert (listed["title"], listed["persisted"]) == ("A title", True)
        assert listed["size_bytes"] > 0
        assert explorer.conversation(talk) == shown
        with counted_forwards(loaded) as read:
            header, states = click(explorer, talk, 20)
            assert (header["source"], header["recomputed"]) == ("disk", False)
            assert [click(explorer, talk, 3)[1], states] == before
            last, _ = click(explorer, talk, n_tokens_of(explorer, talk) - 1, pins=[5])
        assert not read
        assert not last["recomputed"]
        assert say(explorer, "And now?", talk)["finish"] in ("stop", "length")


def test_evicted_conversations_are_computed_again_and_flagged() -> None:
    limits = CacheLimits(memory_bytes=20_000)
    with running(small_model(), limits=limits) as explorer:
        talks = [two_turns(explorer) for _ in range(3)]
        explorer.wait_until_filled(30)
        header, states = click(explorer, talks[0], 12)
        assert header["recomputed"]
    with running(small_model()) as explorer:
        _, expected = click(explorer, two_turns(explorer), 12)
    assert_close(states, expected, 1e-4)


def test_evicted_rows_come_back_from_the_disk(tmp_path: Path) -> None:
    limits = CacheLimits(memory_bytes=20_000)
    with running(small_model(), tmp_path, limits=limits) as explorer:
        talks = [two_turns(explorer) for _ in range(3)]
        assert explorer.wait_until_filled(30)
        for talk in talks:
            header, _ = click(explorer, talk, 12)
            assert (header["source"], header["recomputed"]) == ("disk", False)


def test_a_flipped_byte_is_seen_computed_again_and_flagged(tmp_path: Path) -> None:
    loaded = small_model()
    with running(loaded, tmp_path) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        expected = {p: click(explorer, talk, p)[1] for p in range(0, 20)}
    (stored,) = tmp_path.rglob(f"{talk}.h5")
    content = bytearray(stored.read_bytes())
    middle = range(len(content) // 4, len(content), 997)
    for place in middle:
        content[place] ^= 0x55
    stored.chmod(0o600)
    stored.write_bytes(content)
    with running(loaded, tmp_path) as explorer:
        headers = []
        for position, states in expected.items():
            header, found = click(explorer, talk, position)
            headers.append(header)
            assert_close(found, states, 1e-3)
        assert any(header["recomputed"] for header in headers)
        # What was computed again is stored again.
        assert not click(explorer, talk, 3)[0]["recomputed"]


@pytest.mark.parametrize("store_hidden", ["none", "int8"])
def test_other_ways_to_store_hidden_states(tmp_path: Path, store_hidden: str) -> None:
    loaded = small_model()
    with running(loaded, tmp_path, store_hidden=store_hidden) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        _, before = click(explorer, talk, 20)
    with running(loaded, tmp_path, store_hidden=store_hidden) as explorer:
        header, states = click(explorer, talk, 20)
        assert (header["source"], header["recomputed"]) == ("disk", False)
        assert states == before
        pins = [state["cells"][0]["pins"][0] for state in click(explorer, talk, 20, pins=[9])[1]]
        assert all(1 <= pin["rank"] <= 3072 for pin in pins)
        last = n_tokens_of(explorer, talk) - 1
        # Nothing was lost: "none" promises no states after a restart.
        assert not click(explorer, talk, last)[0]["recomputed"]


def test_pins_agree_with_the_row_however_states_are_stored(tmp_path: Path) -> None:
    loaded = small_model()
    with running(loaded, tmp_path, store_hidden="int8") as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
    with running(loaded, tmp_path, store_hidden="int8") as explorer:
        _, states = click(explorer, talk, 20)
        cells = [state["cells"][-1] for state in states]
        pins = list(dict.fromkeys(t["token_id"] for cell in cells for t in cell["top"]))[:12]
        pins += [cells[0]["next"]["token_id"], 9]
        _, states = click(explorer, talk, 20, pins=pins)
        for cell in (cell for state in states for cell in state["cells"]):
            stored = {t["token_id"]: t for t in cell["top"]}
            stored |= {cell["next"]["token_id"]: cell["next"]}
            for pin in cell["pins"]:
                known = stored.get(pin["token_id"])
                if known is None:
                    assert pin["rank"] >= len(cell["top"])
                    assert pin["probability"] <= cell["top"][-1]["probability"] * 1.00001
                else:
                    assert pin["rank"] == known["rank"]
                    assert pin["probability"] == pytest.approx(known["probability"], rel=1e-5)


def test_another_tuned_lens_does_not_read_the_rows_of_the_first(tmp_path: Path) -> None:
    loaded = small_model()
    lenses = [Tuned(torch.zeros(3, 48, 48), torch.full((3, 48), float(n))) for n in range(2)]
    with running(loaded, tmp_path, tuned=lenses[0]) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        _, first = click(explorer, talk, 9, lens="tuned")
    with running(loaded, tmp_path) as explorer:  # none: its rows stay
        click(explorer, talk, 9)
    with running(loaded, tmp_path, tuned=lenses[0]) as explorer:
        header, again = click(explorer, talk, 9, lens="tuned")
        assert (header["source"], again) == ("disk", first)
    with running(loaded, tmp_path, tuned=lenses[1]) as explorer:
        _, other = click(explorer, talk, 9, lens="tuned")
        assert other[0] != first[0]


def assert_close(found: list[dict], expected: list[dict], atol: float) -> None:  # type: ignore[type-arg]
    """The same probabilities of the same tokens in all cells."""
    for own, other in zip(found, expected, strict=True):
        for cell, same in zip(own["cells"], other["cells"], strict=True):
            shown = torch.tensor([each["probability"] for each in cell["top"]])
            wanted = torch.tensor([each["probability"] for each in same["top"]])
            torch.testing.assert_close(shown, wanted, atol=atol, rtol=0)
            assert cell["top"][0]["token_id"] == same["top"][0]["token_id"]
            assert (cell["next"] or {}).get("token_id") == (same["next"] or {}).get("token_id")


def test_what_left_the_disk_while_it_was_open_is_stored_again_to_be_kept(tmp_path: Path) -> None:
    with running(small_model(), tmp_path) as explorer:
        talk = two_turns(explorer)
        assert explorer.wait_until_filled(30)
        say(explorer, "Hello")
        storing = core_of(explorer).cache._storing
        assert storing._work is not None
        storing._evict(storing._work, talk)
        assert talk not in core_of(explorer).cache.ids()
        explorer.update(talk, None, True)
        assert explorer.conversation(talk)["persisted"]
    with running(small_model(), tmp_path) as explorer:
        assert explorer.conversation(talk)["persisted"]
