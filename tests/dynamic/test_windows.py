"""Windows show every token once, in its context, and a seed decides which."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sdlms.dynamic.streams import Documents, read_documents
from sdlms.dynamic.windows import Drawn, WindowSettings, by_task, check_windows, draw, head
from sdlms.errors import UserError
from sdlms.models.tokens import Text
from tests.conftest import TOKENIZER

END = 0
SETTINGS = WindowSettings(window=16, stride=8, max_tokens=100, calibration_tokens=64)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(TOKENIZER)


def task_of(name: str, n_documents: int) -> list[Text]:
    """Documents of 5 to about 40 tokens, each with words of its own."""
    return [
        Text(f"{name}-{n}", name, f"{name} {n} " + "and then some more words " * (n % 7))
        for n in range(n_documents)
    ]


@pytest.fixture(scope="module")
def tasks(tokenizer: PreTrainedTokenizerFast) -> list[Documents]:
    return read_documents(tokenizer, [task_of("prose", 40), task_of("qa", 40)])


def same(first: Drawn, second: Drawn) -> bool:
    pairs = zip(first.windows, second.windows, strict=True)
    return np.array_equal(first.calibration, second.calibration) and all(
        np.array_equal(one, other) for one, other in pairs
    )


@given(
    st.integers(2, 20),
    st.integers(1, 20),
    st.integers(1, 200),
    st.integers(0, 3),
    st.integers(0, 9),
)
def test_each_scored_token_is_one_of_the_stream_in_the_right_context(
    tokenizer: PreTrainedTokenizerFast,
    tasks: list[Documents],
    window: int,
    stride: int,
    max_tokens: int,
    n_calibration: int,
    seed: int,
) -> None:
    settings = WindowSettings(window, min(stride, window), max_tokens, n_calibration * window)
    windows = draw(tasks, seed, settings).windows
    assert windows.first == max(window - settings.stride, 1)
    assert windows.ids.shape[1] == window
    assert (
        windows.scored.shape == windows.document.shape == (len(windows.ids), window - windows.first)
    )
    assert windows.task_names == ["prose", "qa"]
    assert (np.diff(windows.task) >= 0).all()
    for task, documents in enumerate(tasks):
        assert windows.scored[windows.task == task].sum() == max_tokens
        own = {text.id: text for text in documents.texts}
        for row in np.flatnonzero(windows.task == task):
            ids, targets = windows.ids[row], windows.ids[row, windows.first :]
            assert not windows.scored[row][targets == END].any()
            assert (windows.document[row] == -1).tolist() == (~windows.scored[row]).tolist()
            for position in np.flatnonzero(windows.scored[row]):
                at = windows.first + position
                text = own[windows.document_ids[windows.document[row, position]]]
                begun = ids[: at + 1].tolist()
                if END in begun:  # all that is seen of the document is its beginning
                    last = len(begun) - begun[::-1].index(END)
                    head = tokenizer(text.text)["input_ids"][: at + 1 - last]
                    assert begun[last:] == head
        assert windows.scored[windows.task == task].any(axis=1)[-1]


@pytest.mark.parametrize(("window", "stride"), [(16, 8), (16, 5), (16, 15), (9, 1)])
def test_laid_over_one_another_windows_are_whole_documents(
    tokenizer: PreTrainedTokenizerFast, tasks: list[Documents], window: int, stride: int
) -> None:
    """The stream is put together again, and read as one who knows nothing of windows would."""
    windows = draw(tasks, 3, WindowSettings(window, stride, 150, 64)).windows
    own = windows.task == 1
    ids, scored, document = windows.ids[own], windows.scored[own], windows.document[own]
    stream = np.concatenate([ids[0], *ids[1:, -stride:]])
    is_scored = np.concatenate([np.zeros(windows.first, bool), scored.ravel()])
    last = int(np.flatnonzero(is_scored)[-1])
    assert is_scored.sum() == 150
    assert np.array_equal(
        is_scored[windows.first : last + 1], stream[windows.first : last + 1] != END
    )
    ends = [*np.flatnonzero(stream == END), len(stream)]
    of_token = np.concatenate([np.full(windows.first, -1), document.ravel()])
    texts = {text.id: text.text for text in tasks[1].texts}
    n_whole = 0
    for begin, end in pairwise(ends):
        numbers = set(of_token[begin + 1 : end][is_scored[begin + 1 : end]].tolist())
        if end <= last and len(numbers) == 1:
            expected = tokenizer(texts[windows.document_ids[numbers.pop()]])["input_ids"]
            assert stream[begin + 1 : end].tolist() == expected
            n_whole += 1
    assert n_whole > 3


def test_windows_step_by_the_stride(tasks: list[Documents]) -> None:
    windows = draw(tasks, 0, SETTINGS).windows
    assert (windows.first, windows.n_prompt) == (8, 7)
    for task in (0, 1):
        own = windows.ids[windows.task == task]
        assert len(own) > 10
        for before, after in pairwise(own):
            assert np.array_equal(before[8:], after[:8])


def test_windows_that_do_not_overlap_miss_their_first_token(tasks: list[Documents]) -> None:
    settings = WindowSettings(window=8, stride=8, max_tokens=70, calibration_tokens=0)
    windows = draw(tasks, 0, settings).windows
    assert windows.first == windows.n_prompt == 1
    assert windows.scored.sum() == 140


def test_the_same_seed_draws_the_same_and_another_one_other_documents(
    tokenizer: PreTrainedTokenizerFast, tasks: list[Documents]
) -> None:
    fresh = read_documents(tokenizer, [task_of("prose", 40), task_of("qa", 40)])
    first = draw(tasks, 0, SETTINGS)
    assert same(first, draw(fresh, 0, SETTINGS))
    others = [draw(tasks, seed, SETTINGS) for seed in (1, 2, 3)]
    for other in others:
        assert not np.array_equal(first.calibration, other.calibration)
        assert set(first.windows.document_ids) != set(other.windows.document_ids)


def test_the_offset_varies_too(tokenizer: PreTrainedTokenizerFast) -> None:
    (alone,) = read_documents(tokenizer, [task_of("prose", 40)[-1:]])
    long = Documents("prose", [Text("a", "prose", "words and words " * 50)], alone.tokenizer)
    settings = WindowSettings(window=16, stride=8, max_tokens=20, calibration_tokens=0)
    starts = {tuple(draw([long], seed, settings).windows.ids[0].tolist()) for seed in range(20)}
    assert len(starts) > 2


def test_what_a_task_gives_does_not_depend_on_the_other_tasks(tasks: list[Documents]) -> None:
    settings = WindowSettings(window=16, stride=8, max_tokens=100, calibration_tokens=0)
    both, alone = draw(tasks, 5, settings).windows, draw(tasks[1:], 5, settings).windows
    own = both.task == 1
    assert np.array_equal(both.ids[own], alone.ids)
    assert np.array_equal(both.scored[own], alone.scored)
    names = np.array(both.document_ids)[both.document[own]]
    expected = np.array(alone.document_ids)[alone.document]
    assert np.array_equal(names[both.scored[own]], expected[alone.scored])


def test_calibration_has_documents_of_its_own(
    tokenizer: PreTrainedTokenizerFast, tasks: list[Documents]
) -> None:
    """Every document names itself with a number, so that its tokens tell which it is."""
    for seed in range(5):
        drawn = draw(tasks, seed, SETTINGS)
        assert drawn.calibration.shape == (4, 16)
        assert drawn.calibration.dtype == np.int64
        read = tokenizer.decode(drawn.calibration.ravel()).split(tokenizer.eos_token)
        begun = {" ".join(piece.split()[:2]) for piece in read[1:-1]}
        evaluated = {name.replace("-", " ") for name in drawn.windows.document_ids}
        assert begun and not begun & evaluated


def test_documents_are_read_in_their_own_order_from_a_place_of_the_seed_s_choice(
    tokenizer: PreTrainedTokenizerFast, tasks: list[Documents]
) -> None:
    """Calibration goes before, in documents of its own; behind the last one stands the first."""
    ids = [[END, *tokenizer(text.text)["input_ids"]] for text in tasks[0].texts]
    n_documents, share = len(ids), 32
    found = {}
    for seed in range(12):
        drawn = draw(tasks, seed, SETTINGS)
        begun = tokenizer.decode(drawn.calibration.ravel()[1:20]).split()
        assert begun[0] == "prose"
        first = int(begun[1])
        order = [(first + n) % n_documents for n in range(n_documents)]
        stream = [token_id for document in order for token_id in ids[document]]
        assert drawn.calibration.ravel()[:share].tolist() == stream[:share]
        n_scored = np.cumsum([len(ids[document]) - 1 for document in order])
        n_sampled = int(np.searchsorted(n_scored, share)) + 1
        rest = [token_id for document in order[n_sampled:] for token_id in ids[document]]
        windows = next(by_task(drawn.windows))
        starts = [windows.ids[0].tolist() == rest[offset : offset + 16] for offset in range(8)]
        assert any(starts)
        numbers = dict.fromkeys(windows.document[windows.scored].tolist())
        read = [int(windows.document_ids[number].split("-")[1]) for number in numbers]
        assert {(after - before) % n_documents for before, after in pairwise(read)} == {1}
        assert not set(order[:n_sampled]) & set(read)
        found[seed] = (first, read)
    assert len({first for first, _ in found.values()}) > 6
    assert any(read != sorted(read) for _, read in found.values())  # past the end


def test_calibration_is_of_all_tasks_in_equal_shares(
    tokenizer: PreTrainedTokenizerFast, tasks: list[Documents]
) -> None:
    drawn = draw(tasks, 0, WindowSettings(16, 8, 50, 320))
    assert drawn.calibration.shape[0] >= 20
    text = tokenizer.decode(drawn.calibration.ravel()[:160])
    assert "prose" in text and "qa" not in text
    text = tokenizer.decode(drawn.calibration.ravel()[-150:])
    assert "qa" in text and "prose" not in text


def test_without_calibration_there_is_none(tasks: list[Documents]) -> None:
    drawn = draw(tasks, 0, WindowSettings(16, 8, 50, 0))
    assert drawn.calibration.shape == (0, 16)


def test_long_documents_are_not_cut(tokenizer: PreTrainedTokenizerFast) -> None:
    long = Text("long", "prose", "a road and a river " * 2000)
    (documents,) = read_documents(tokenizer, [[long]])
    n_tokens = len(tokenizer(long.text)["input_ids"]) + 1
    settings = WindowSettings(window=512, stride=256, max_tokens=10**6, calibration_tokens=0)
    windows = draw([documents], 0, settings).windows
    assert n_tokens > 5 * 512
    assert n_tokens - windows.scored.sum() < 512 + 256  # the offset, and a rest under a stride
    assert windows.document_ids == ["long"]


def test_a_text_of_exactly_one_window_will_do(tokenizer: PreTrainedTokenizerFast) -> None:
    text = Text("one", "prose", "a road and a river")
    n_tokens = len(tokenizer(text.text)["input_ids"]) + 1
    (documents,) = read_documents(tokenizer, [[text]])
    for seed in range(5):
        settings = WindowSettings(n_tokens, n_tokens // 2, 10**6, 0)
        windows = draw([documents], seed, settings).windows
        assert windows.ids.shape == (1, n_tokens)
        assert windows.scored.all()


def test_every_document_that_is_listed_is_scored(tasks: list[Documents]) -> None:
    for seed in range(5):
        windows = draw(tasks, seed, SETTINGS).windows
        counts = np.bincount(windows.document[windows.scored])
        assert len(counts) == len(windows.document_ids) == len(set(windows.document_ids))
        assert (counts > 0).all()


def test_by_task_windows_are_parted_and_documents_keep_their_numbers(
    tasks: list[Documents],
) -> None:
    windows = draw(tasks, 0, SETTINGS).windows
    parts = list(by_task(windows))
    assert [set(part.task.tolist()) for part in parts] == [{0}, {1}]
    for name in ("ids", "scored", "document", "task"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(joined, getattr(windows, name))
    for part in parts:
        assert (part.first, part.document_ids) == (windows.first, windows.document_ids)
        assert part.task_names == windows.task_names


@pytest.mark.parametrize("most", [1, 8, 9, 50, 99, 100, 10**6])
def test_the_head_is_the_fewest_windows_that_hold_so_much(
    tasks: list[Documents], most: int
) -> None:
    windows = draw(tasks, 0, SETTINGS).windows
    found = head(windows, most)
    assert (found.first, found.task_names) == (windows.first, windows.task_names)
    for task in (0, 1):
        own, counts = found.task == task, windows.scored[windows.task == task].sum(axis=1)
        n_kept = int(own.sum())
        assert counts[:n_kept].sum() >= min(most, counts.sum()) and n_kept >= 1
        assert counts[: n_kept - 1].sum() < most  # one window less would be too few
        for name in ("ids", "scored"):
            before = getattr(windows, name)[windows.task == task][:n_kept]
            assert np.array_equal(getattr(found, name)[own], before)
        read = np.array(found.document_ids)[found.document[own]][found.scored[own]]
        before = np.array(windows.document_ids)[windows.document[windows.task == task][:n_kept]]
        assert np.array_equal(read, before[found.scored[own]])
    assert (found.document[~found.scored] == -1).all()
    assert (np.bincount(found.document[found.scored]) > 0).all()
    assert len(found.document_ids) == found.document.max() + 1


class TestRefusals:
    def test_text_shorter_than_a_window(
        self, tokenizer: PreTrainedTokenizerFast, tasks: list[Documents]
    ) -> None:
        short = read_documents(tokenizer, [[Text("a", "poems", "a road and a river")]])
        n_tokens = len(tokenizer("a road and a river")["input_ids"]) + 1
        with pytest.raises(UserError) as error:
            draw([*tasks, *short], 0, WindowSettings(512, 256, 100, 0))
        assert str(error.value) == (
            f"task 'poems': its text has {n_tokens} tokens, fewer than one window of 512. "
            "Set a smaller --window, or give longer text in more documents."
        )

    def test_text_of_which_calibration_leaves_too_little(
        self, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        (documents,) = read_documents(tokenizer, [task_of("prose", 8)])
        with pytest.raises(UserError) as error:
            draw([documents], 0, WindowSettings(16, 8, 100, 10**6))
        assert str(error.value).startswith("task 'prose': its text has 0 tokens beside the ")
        assert "Set a smaller --window or --calibration-tokens, or give" in str(error.value)

    def test_text_of_special_tokens_alone(self, tokenizer: PreTrainedTokenizerFast) -> None:
        marks = Text("a", "prose", tokenizer.eos_token * 40)
        (documents,) = read_documents(tokenizer, [[marks]])
        with pytest.raises(UserError, match="task 'prose': every token is special"):
            draw([documents], 0, WindowSettings(16, 8, 100, 0))

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                (513, 8, 9, 0),
                "--window must be at least 2 and at most the model's context, 512, got",
            ),
            ((1, 1, 9, 0), "--window must be at least 2"),
            ((64, 0, 9, 0), "--stride must be from 1 to --window, 64, got 0"),
            ((64, 65, 9, 0), "--stride must be from 1 to --window, 64, got 65"),
            ((64, 32, 0, 0), "--max-tokens must be at least 1, got 0"),
            ((64, 32, 9, -1), "--calibration-tokens -1 is less than one window of 64 tokens"),
            ((64, 32, 9, 63), "--calibration-tokens 63 is less than one window of 64 tokens."),
        ],
    )
    def test_settings(self, settings: tuple[int, int, int, int], message: str) -> None:
        with pytest.raises(UserError) as error:
            check_windows(WindowSettings(*settings), 512)
        assert message in str(error.value) and "\n" not in str(error.value)

    def test_settings_that_will_do(self) -> None:
        for settings in ((512, 256, 1, 512), (2, 2, 1, 0), (64, 1, 9, 64)):
            check_windows(WindowSettings(*settings), 512)
        check_windows(WindowSettings(10**6, 1, 1, 0), None)
