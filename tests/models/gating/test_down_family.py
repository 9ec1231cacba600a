"""The family `down` reads up matrices whole and kept rows of the down projection only."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from sdlms.models.architectures import architecture_for, blocks_of
from sdlms.models.gated import How, gated
from tests.models.tiny_models import random_model


@pytest.mark.parametrize("backend", ["torch", "auto"])
@pytest.mark.parametrize("name", ["gpt_neox-parallel", "gpt2", "llama", "opt"])
def test_rows_that_are_not_kept_are_not_read(name: str, backend: str) -> None:
    """They are NaN here: a mask would pass them on."""
    model = random_model(name, AutoModelForCausalLM)
    block = blocks_of(model.base_model)[1]
    down = block.get_submodule(architecture_for(model.config).down_projection)
    turned = down.weight.shape[0] == 16
    with torch.no_grad():
        (down.weight.t() if turned else down.weight)[::2] = 1e-3  # small: never among the largest
    n_neurons = max(down.weight.shape)
    how = How(execution="sparse", backend=backend, layers=(1,))
    x = torch.rand(1, n_neurons, generator=torch.Generator().manual_seed(0)) + 1
    with gated(model, "post-norm", 0.4, how=how) as gates, torch.no_grad():
        stand_in = block.get_submodule(architecture_for(model.config).down_projection)
        expected = stand_in(x[None])
        rows = gates._mlps[0]._rows.rows
        spared = rows[::2].clone()
        rows[::2] = torch.nan
        assert torch.equal(stand_in(x[None]), expected)
        assert expected.isfinite().all()
        rows[1::2] = torch.nan
        assert stand_in(x[None]).isnan().any()
        rows[::2] = spared
