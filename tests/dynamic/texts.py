"""Windows of embedded text, and windows of random tokens, for the tests of this folder."""

import numpy as np
from transformers import AutoTokenizer

from sdlms.dynamic.streams import read_documents
from sdlms.dynamic.windows import Drawn, Windows, WindowSettings, draw
from sdlms.models.tokens import Text
from sdlms.tasks import load_tasks
from tests.conftest import TOKENIZER


def drawn_text(settings: WindowSettings, seed: int = 0) -> Drawn:
    """Of two tasks that were held out from training."""
    tasks = load_tasks(("heldout",), None, "text")[2:4]
    texts = [[Text(one.id, task.name, one.text) for one in task.documents] for task in tasks]
    return draw(read_documents(AutoTokenizer.from_pretrained(TOKENIZER), texts), seed, settings)


def random_windows(
    n_windows: int = 7, window: int = 12, first: int = 4, d_vocab: int = 50
) -> Windows:
    """Tokens at random, about one in five not scored, in two tasks of a few documents."""
    generator = np.random.default_rng(0)
    task = np.repeat([0, 1], [n_windows // 2, n_windows - n_windows // 2])
    scored = generator.random((n_windows, window - first)) < 0.8
    document = np.repeat(np.arange(n_windows) // 2 + task, window - first).reshape(scored.shape)
    _, places = np.unique(document[scored], return_inverse=True)
    numbers = np.full_like(document, -1)
    numbers[scored] = places
    return Windows(
        ids=generator.integers(1, d_vocab, (n_windows, window)),
        first=first,
        scored=scored,
        document=numbers,
        task=task,
        document_ids=[f"document-{number}" for number in range(places.max() + 1)],
        task_names=["prose", "qa"],
    )
