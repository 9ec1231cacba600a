import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from sdlms.acts.handle import Acts
from sdlms.errors import UserError
from sdlms.numerics.metrics import auroc, brier
from sdlms.probes.mass_mean import MassMeanProbe


def documents(n_documents: int, n_units: int = 5, offset: float = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(n_documents, generator=generator) < 0.3
    x = torch.randn(n_documents, n_units, generator=generator) + offset
    x[:, 0] += 2.0 * y
    return x, y


def test_direction_and_bias_are_those_of_the_class_means() -> None:
    x, y = documents(200, offset=3)
    probe = MassMeanProbe().fit(x, y)
    one, zero = x[y].double().mean(dim=0), x[~y].double().mean(dim=0)
    np.testing.assert_allclose(probe.tensors()["direction"], one - zero, rtol=1e-5, atol=1e-6)
    assert probe.bias == pytest.approx(-float((one - zero) @ (one + zero)) / 2, rel=1e-5)


def test_probabilities_are_those_of_lda_on_the_projections() -> None:
    x, y = documents(400)
    probe = MassMeanProbe().fit(x, y)
    scores = (x.double() @ probe.tensors()["direction"].double())[:, None].numpy()
    model = LinearDiscriminantAnalysis(solver="lsqr").fit(scores, y.numpy())
    found = probe.predict(x)
    assert (found.dtype, found.shape) == (torch.float32, (400,))
    np.testing.assert_allclose(found, model.predict_proba(scores)[:, 1], atol=1e-5)


def test_auroc_is_that_of_the_projection() -> None:
    x, y = documents(400, offset=100)
    probe = MassMeanProbe().fit(x, y)
    projection = (x.double() @ probe.tensors()["direction"].double()).numpy()
    expected = auroc(projection, y.numpy())
    assert auroc(probe.predict(x).numpy(), y.numpy()) == pytest.approx(expected, abs=1e-4)


def test_probabilities_are_calibrated_on_other_documents() -> None:
    x, y = documents(4000)
    found = MassMeanProbe().fit(x[:2000], y[:2000]).predict(x[2000:]).numpy()
    truth = y[2000:].numpy()
    assert found.mean() == pytest.approx(truth.mean(), abs=0.03)
    base = np.full(2000, y[:2000].float().mean(), dtype=np.float32)
    assert brier(found, truth) < 0.7 * brier(base, truth)


def test_a_large_offset_costs_nothing() -> None:
    """The midpoint is taken away before the product: x . direction alone would lose digits."""
    x, y = documents(200)
    moved = (x + 4096).bfloat16().float()
    near = MassMeanProbe().fit(moved - 4096, y).predict(moved - 4096)
    np.testing.assert_allclose(MassMeanProbe().fit(moved, y).predict(moved), near, atol=1e-3)


def test_each_mask_1_token_is_an_example() -> None:
    x, y = documents(40 * 9)
    x, y = x.view(40, 9, 5), y.view(40, 9)
    mask = torch.arange(9) < 3 + torch.arange(40)[:, None] % 7
    flat = MassMeanProbe().fit(x[mask], y[mask]).predict(x[mask])
    for source, given_mask in ((x, mask), (Acts(x, dims="bsh", mask=mask), None)):
        found = MassMeanProbe().fit(source, y, given_mask).predict(source, given_mask)
        assert torch.equal(found.isnan(), ~mask)
        np.testing.assert_allclose(found[mask], flat, atol=1e-6)


def test_scores_without_variance_give_0_and_1() -> None:
    probe = MassMeanProbe().fit(torch.tensor([[0.0], [2.0]]), [False, True])
    assert probe.predict(torch.tensor([[0.0], [0.9], [1.0], [1.1]])).tolist() == [0, 0, 0.5, 1]


def test_equal_means_give_the_base_rate() -> None:
    x = torch.tensor([[1.0], [3.0], [2.0], [2.0], [2.0], [2.0], [1.0], [3.0]])
    y = [True, True, *[False] * 6]
    found = MassMeanProbe().fit(x, y).predict(torch.tensor([[0.0], [9.0]]))
    assert found.tolist() == pytest.approx([0.25, 0.25])


def test_parts_survive_safetensors_and_json_bit_equal(tmp_path: Path) -> None:
    x, y = documents(50)
    probe = MassMeanProbe().fit(x, y)
    save_file(probe.tensors(), tmp_path / "probe.safetensors")
    settings = json.loads(json.dumps(probe.settings()))
    again = MassMeanProbe.from_parts(settings, load_file(tmp_path / "probe.safetensors"))
    assert torch.equal(again.predict(x), probe.predict(x))
    with pytest.raises(ValueError, match="not a mass-mean probe"):
        MassMeanProbe.from_parts({}, {"weight": x})


def test_bad_input_is_named() -> None:
    x, y = documents(30)
    broken = x.clone()
    broken[17, 2] = float("nan")
    with pytest.raises(UserError, match="document 17"):
        MassMeanProbe().fit(broken, y)
    with pytest.raises(UserError, match="both classes"):
        MassMeanProbe().fit(x, torch.zeros(30))
    with pytest.raises(ValueError, match="not fitted"):
        MassMeanProbe().predict(x)
    with pytest.raises(ValueError, match="4 units"):
        MassMeanProbe().fit(x, y).predict(x[:, :4])
