from pathlib import Path

import numpy as np

from sdlms.explorer.conversation import Conversation
from sdlms.explorer.copying import copy_rows
from sdlms.explorer.shelf import Opened
from tests.explorer.explorers import core_of, opened_of, running, small_model, two_turns


def test_rows_of_the_common_beginning_are_copied_but_for_the_last_prediction() -> None:
    with running(small_model()) as explorer:
        core, talk = core_of(explorer), two_turns(explorer)
        assert explorer.wait_until_filled(30)
        source = opened_of(explorer, talk)
        target = Opened(Conversation("other", core.loaded.prompting))
        explorer._shelf.add(target)
        copy_rows(core, source, target, 9)
        for group, n_rows in (("hidden", 9), ("logit", 8)):
            assert core.cache.present("other", group, 30).sum() == n_rows
            found, wanted = (core.cache.get(i, group, range(n_rows)) for i in ("other", talk))
            for name, rows in wanted.arrays.items():
                np.testing.assert_array_equal(found.arrays[name], rows)


def test_rows_that_are_not_there_are_left_out() -> None:
    with running(small_model()) as explorer:
        core, talk = core_of(explorer), two_turns(explorer)
        assert explorer.wait_until_filled(30)
        core.cache.truncate(talk, 4, "logit")
        target = Opened(Conversation("other", core.loaded.prompting))
        explorer._shelf.add(target)
        copy_rows(core, opened_of(explorer, talk), target, 9)
        assert core.cache.present("other", "logit", 30).sum() == 4


def test_states_that_nobody_kept_are_not_lost_in_the_copy(tmp_path: Path) -> None:
    with running(small_model(), tmp_path) as explorer:
        core, talk = core_of(explorer), two_turns(explorer)
        assert explorer.wait_until_filled(30)
        core.cache.truncate(talk, 5, "hidden")
        target = Opened(Conversation("other", core.loaded.prompting))
        explorer._shelf.add(target)
        copy_rows(core, opened_of(explorer, talk), target, 9)
        target.n_recorded = 9
        assert [target.was_recorded(p) for p in range(10)] == [True] * 5 + [False] * 5
