import pytest

from sdlms.errors import UserError
from sdlms.models.settings import check_at_least, check_batching, check_sites


def test_sites_are_known_and_some() -> None:
    check_sites(["mlp_act", "resid_pre"])
    with pytest.raises(UserError, match="--site is empty"):
        check_sites([])
    with pytest.raises(UserError, match=r"unknown site 'mlp_at'\. Did you mean 'mlp_act'\?"):
        check_sites(["mlp_at"])


def test_a_number_that_is_too_small_is_named_as_its_flag() -> None:
    check_at_least("max_tokens", 1, 1)
    with pytest.raises(UserError, match="--max-tokens must be >= 1, got 0"):
        check_at_least("max_tokens", 0, 1)


def test_free_memory_needs_something_to_decide() -> None:
    check_batching(0, "8GB", "none")
    check_batching(100, "auto", "none")
    check_batching(100, "8GB", "auto")  # it limits the weights
    with pytest.raises(UserError, match="--free-memory '8 apples' is neither"):
        check_batching(0, "8 apples", "none")
    with pytest.raises(UserError, match="--batch-tokens 100 and --free-memory 8GB both set"):
        check_batching(100, "8GB", "none")
