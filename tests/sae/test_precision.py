import pytest
import torch

from sdlms.errors import UserError
from sdlms.models.device import dtype_of
from sdlms.sae.precision import products_dtype

CPU = torch.device("cpu")


def test_auto_is_the_device_rule_of_all_stages() -> None:
    assert products_dtype(CPU, "auto") == dtype_of("auto", CPU)
    assert products_dtype(CPU, "float32") == torch.float32
    assert products_dtype(CPU, "bfloat16") == torch.bfloat16


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_float16_is_refused_everywhere(device: str) -> None:
    with pytest.raises(UserError, match="--dtype float16"):
        products_dtype(torch.device(device), "float16")
