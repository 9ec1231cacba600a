"""Answers are described completely: what the explorer says is what OpenAPI says, no field more."""

from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from sdlms.explorer.http import answer_schemas
from sdlms.explorer.http.answer_schemas import Answer, Failure, Match


def test_every_description_forbids_what_it_does_not_name() -> None:
    models = [each for each in vars(answer_schemas).values() if isinstance(each, type)]
    described = [each for each in models if issubclass(each, BaseModel) and each is not BaseModel]
    assert len(described) > 20
    assert all(issubclass(each, Answer) for each in described)
    with pytest.raises(ValidationError):
        Failure.model_validate({"detail": "a", "more": 1})


@pytest.mark.parametrize("change", [{"rank": 0}, {"probability": 1.5}, {"position": -1}])
def test_ranks_count_from_one_and_probabilities_lie_within_their_range(
    change: dict[str, Any],
) -> None:
    match = {"position": 0, "state": 0, "layer": -1, "name": "embedding", "rank": 1}
    TypeAdapter(Match).validate_python({**match, "probability": 1.0})
    with pytest.raises(ValidationError):
        TypeAdapter(Match).validate_python({**match, "probability": 1.0, **change})
