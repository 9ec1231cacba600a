from dataclasses import replace

import pytest
import torch

from sdlms.explorer.core import ROW_NAMES
from sdlms.explorer.refusals import OutOfRange
from sdlms.explorer.settings import ExplorerSettings
from sdlms.lens.tuned import Tuned
from tests.explorer.explorers import core_of, running, small_model, tiny_model
from tests.models.word_tokenizers import word_tokenizer


def test_layers_become_states_in_the_order_of_the_forward_pass() -> None:
    with running(small_model()) as explorer:
        core = core_of(explorer)
        assert core.states_at(None) == [0, 1, 2, 3]
        assert core.states_at([2, -1, 2]) == [0, 3]
        for layers in ([3], [-2], [], [10**9]):
            with pytest.raises(OutOfRange):
                core.states_at(layers)


def test_a_row_has_what_the_cache_stores() -> None:
    with running(small_model()) as explorer:
        core = core_of(explorer)
        names = [column.name for column in core.cache.columns.groups["logit"].columns]
    assert sorted(names) == sorted(ROW_NAMES)


def test_a_vocabulary_smaller_than_top_k_gives_what_there_is() -> None:
    settings = ExplorerSettings(top_k=10_000)
    with running(tiny_model("llama"), settings=settings) as explorer:
        assert core_of(explorer).n_top == 3072


def test_the_tuned_lens_is_named_where_it_is_loaded() -> None:
    tuned = Tuned(torch.zeros(3, 48, 48), torch.zeros(3, 48))
    with running(small_model(), tuned=tuned) as explorer:
        core_of(explorer).check_lens("tuned")
    with running(small_model()) as explorer:
        with pytest.raises(OutOfRange, match="logit"):
            core_of(explorer).check_lens("tuned")


def test_texts_of_tokens_make_up_the_text() -> None:
    with running(small_model()) as explorer:
        core = core_of(explorer)
        ids = core.ids_of("The sky is blue.")
        assert "".join(core.text_of(token_id) for token_id in ids) == "The sky is blue."


def test_tokens_are_those_that_stand_in_running_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of Llama 2, which puts a space before every text that it is given."""
    with running(small_model()) as explorer:
        core = core_of(explorer)
        tokenizer = word_tokenizer("prepend")
        monkeypatch.setattr(core, "loaded", replace(core.loaded, tokenizer=tokenizer))
        words = [tokenizer.convert_ids_to_tokens(core.ids_of(t)) for t in ("Paris", " Paris")]
    assert words == [["Paris"], ["▁Paris"]]
