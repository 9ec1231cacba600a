import pytest
import torch

from sdlms.sae.auxiliary import Revival
from sdlms.sae.lens_check import without_traces

N_TOKENS, N_LATENTS, N_UNITS = 40, 24, 8


@pytest.mark.parametrize("n_dead", [1, 4, 15])
def test_the_gradient_is_that_of_sae_lens_loss(n_dead: int) -> None:
    """Fewer dead latents than a token takes, as many, and more."""
    with without_traces():
        from sae_lens import TopKTrainingSAE, TopKTrainingSAEConfig

    torch.manual_seed(0)
    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=N_UNITS, d_sae=N_LATENTS, k=3))
    dead = torch.zeros(N_LATENTS, dtype=torch.bool)
    dead[torch.randperm(N_LATENTS)[:n_dead]] = True
    acts, decoded = torch.randn(N_TOKENS, N_UNITS), torch.randn(N_TOKENS, N_UNITS)
    _, scores = sae.encode_with_hidden_pre(acts)
    sae.calculate_topk_aux_loss(acts, decoded, scores, dead).backward()

    decoder = sae.W_dec.detach()
    grads = {
        "W_enc": torch.zeros(N_LATENTS, N_UNITS),
        "W_dec": torch.zeros(N_LATENTS, N_UNITS),
        "b_enc": torch.zeros(N_LATENTS),
    }
    revival = Revival(dead, N_UNITS // 2, torch.float32)
    scored = (scores.detach(), decoder.norm(dim=1))
    revival.add_gradients(grads, decoder, scored, (acts, decoded - acts))
    wanted = {"W_enc": sae.W_enc.grad.T, "W_dec": sae.W_dec.grad, "b_enc": sae.b_enc.grad}
    for name, grad in wanted.items():
        found = grads[name] * 2 / N_TOKENS
        assert torch.allclose(found, grad, atol=1e-5 * float(grad.abs().max()))
        assert not found[~dead].any()
