"""A study of two documents of random tokens by the smallest embedded model."""

from sdlms.lens.states import states_of
from sdlms.lens.study import Study
from sdlms.lens.targets import Target
from sdlms.models.inputs import Inputs
from sdlms.models.loading import find_model, load_config, load_tokenizer
from sdlms.models.tokens import Tokens
from tests.lens.lens_files import rows_of

ROWS = rows_of([40, 60], ["a", "b"])


def small_study() -> Study:
    """Of three layers and width 48; the first document was cut by 7 tokens."""
    source = find_model("sdlms-small", None)
    return Study(
        inputs=Inputs(source, load_config(source), Tokens(ROWS, {ROWS.document_ids[0]: 7})),
        record={"name": "sdlms-small"},
        tokenizer=load_tokenizer(source),
        states=states_of(3, [1]),
        top_k=10,
        targets=[Target(7, " x")],
        saved=None,
        training=None,
    )
