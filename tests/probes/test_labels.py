"""Labels meet documents: by id, by task, token by token; what cannot be told apart is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlms.errors import UserError
from sdlms.probes.labels import UNLABELLED, labelled_by_table, labelled_by_task
from sdlms.storage.labels import Label

IDS = ["d0", "d1", "d2", "d3"]
LENGTHS = np.array([3, 1, 2, 4])


def test_tasks_are_classes_in_order_of_their_names() -> None:
    found = labelled_by_task(["qa", "math", "qa", "code"])
    assert found.names == ["code", "math", "qa"]
    assert found.classes.tolist() == [2, 1, 2, 0]
    assert found.documents.tolist() == [0, 1, 2, 3]
    assert found.targets == [("code", 0), ("math", 1), ("qa", 2)]
    assert found.holding().tolist() == [1, 1, 2]


def test_of_two_classes_the_second_is_told_from_the_first() -> None:
    assert labelled_by_task(["1", "0", "1"]).targets == [("1", 1)]


def test_rows_meet_documents_by_id_in_any_order() -> None:
    rows = [Label("d3", None, "x"), Label("zz", None, "w"), Label("d0", None, "y")]
    rows += [Label("d2", None, "x"), Label("z", None, "x")]
    found = labelled_by_table(rows, IDS, LENGTHS)
    assert found.documents.tolist() == [0, 2, 3]
    assert found.names == ["x", "y"]  # `w` is on no document of the run
    assert found.classes.tolist() == [1, 0, 0]
    assert found.tokens is None
    assert found.n_unmatched == 2


def test_tokens_keep_their_places_and_the_rest_is_unlabelled() -> None:
    rows = [Label("d3", 3, "x"), Label("d0", 1, "y"), Label("d3", 0, "y"), Label("d1", 0, "y")]
    found = labelled_by_table(rows, IDS, LENGTHS)
    assert found.tokens is not None
    assert [row.tolist() for row in found.tokens] == [[-1, 1, -1], [1], [1, -1, -1, 0]]
    assert found.classes.tolist() == [1, 1, 0]  # fewer documents have x than y
    assert found.holding().tolist() == [1, 3]


@given(st.lists(st.lists(st.integers(-1, 3), min_size=1, max_size=6), min_size=1, max_size=12))
def test_a_documents_class_is_the_one_fewest_documents_have(tokens: list[list[int]]) -> None:
    rows = [
        Label(str(document), token, "abcd"[value])
        for document, values in enumerate(tokens)
        for token, value in enumerate(values)
        if value >= 0
    ]
    present = {label for _, _, label in rows}
    if len(present) < 2:
        return
    ids = [str(i) for i in range(len(tokens))]
    found = labelled_by_table(rows, ids, np.array([len(values) for values in tokens]))
    for index, document in enumerate(found.documents.tolist()):
        own = {"abcd"[value] for value in tokens[document] if value >= 0}
        n_holding = {
            name: sum("abcd".index(name) in values for values in tokens) for name in sorted(own)
        }
        assert found.names[found.classes[index]] == min(n_holding, key=n_holding.__getitem__)


def test_what_the_mask_hides_is_gone() -> None:
    masks = [np.array(m, dtype=bool) for m in ([1, 0, 1], [0], [1, 1], [0, 1, 1, 1])]
    rows = [Label("d0", 1, "x"), Label("d1", 0, "y"), Label("d2", 0, "y"), Label("d3", 0, "x")]
    rows += [Label("d3", 2, "y"), Label("d2", 1, "x")]
    found = labelled_by_table(rows, IDS, LENGTHS).readable(masks)
    assert found.documents.tolist() == [2, 3]
    assert found.tokens is not None
    assert [row.tolist() for row in found.tokens] == [[1, 0], [UNLABELLED, UNLABELLED, 1, -1]]
    assert found.holding().tolist() == [1, 2]
    assert found.classes.tolist() == [0, 1]  # anew: x is rare now
    by_task = labelled_by_task(["x", "y", "x", "y"]).readable(masks)
    assert by_task.documents.tolist() == [0, 2, 3]
    assert by_task.classes.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([Label("q", None, "x")], "none of its 1 rows matches a document of the run; its ids look"),
        ([Label("d0", None, "x"), Label("q", None, "y")], "all that is labelled is 'x'; two"),
        ([Label("d0", 0, "x"), Label("d1", 1, "y")], "document d1 has 1 tokens, there is no token"),
    ],
)
def test_tables_that_are_refused(rows: list[Label], message: str) -> None:
    with pytest.raises(UserError, match=message):
        labelled_by_table(rows, IDS, LENGTHS)


def test_one_task_is_refused() -> None:
    with pytest.raises(UserError, match=r"all that is labelled is 'qa'; .* Capture another task"):
        labelled_by_task(["qa", "qa"])
