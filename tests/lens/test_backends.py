"""Which backend a lens has, and why."""

import logging
from pathlib import Path

import pytest
import torch

from sdlms.errors import UserError
from sdlms.lens.backends import backend_of, decided_backend
from sdlms.lens.measuring import Lens
from sdlms.models.kernels.building import kernel
from tests.lens.heads import head_model, related_states


def never(reason: str) -> None:
    raise AssertionError(reason)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    kernel.cache_clear()
    return f"{tmp_path}/none cannot be run (No such file or directory)"


def test_auto_takes_the_kernel_where_it_can() -> None:
    assert backend_of("auto", torch.float32, never).name == "compiled"
    assert backend_of("compiled", torch.bfloat16, never).name == "compiled"
    assert backend_of("torch", torch.float32, never).name == "torch"


def test_what_a_run_records() -> None:
    compiled = {"backend": "compiled", "backend_reason": None}
    assert decided_backend("bfloat16", torch.float32) == compiled
    reason = "the kernel knows weights in float32 and bfloat16, not float16"
    by_torch = {"backend": "torch", "backend_reason": reason}
    assert decided_backend("bfloat16", torch.float16) == by_torch
    assert decided_backend("float32", torch.float32) == {}


def test_without_a_compiler_the_lens_is_torchs_and_the_log_says_so(
    no_compiler: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sdlms")
    assert decided_backend("bfloat16", torch.float32)["backend_reason"] == no_compiler
    assert not caplog.records
    lens = Lens(head_model("gpt2", 16, 200), 5, "bfloat16")
    assert [record.message for record in caplog.records] == [
        f"no compiled kernel for the lens, torch instead: {no_compiler}"
    ]
    rows = lens.measure(related_states(3, 2, 16), torch.tensor([1, 2, -1]))
    assert rows.top_ids.shape == (3, 2, 5)
    with pytest.raises(UserError, match=r"begun with the compiled kernel.*sdlms\[kernels\]") as no:
        Lens(head_model("gpt2", 16, 200), 5, "bfloat16", backend="compiled")
    assert "\n" not in str(no.value)
