import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from sdlms.acts.handle import Acts
from sdlms.errors import UserError
from sdlms.numerics.metrics import auroc
from sdlms.probes.logistic import LogisticProbe


def documents(n_documents: int = 300, n_units: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n_documents, n_units, generator=generator) * torch.arange(1, n_units + 1) + 7
    noise = torch.randn(n_documents, generator=generator)
    return x, x[:, 0] - 7 + noise > 0


def tokens() -> tuple[Tensor, Tensor, Tensor]:
    """`[document, token, unit]`, mask, and labels of tokens."""
    x, y = documents(40 * 9)
    mask = torch.arange(9) < 3 + torch.arange(40)[:, None] % 7
    return x.view(40, 9, 6), mask, y.view(40, 9)


def test_probabilities_are_those_of_scikit_learn() -> None:
    x, y = documents()
    columns = ((x - x.mean(dim=0)) / x.std(dim=0, correction=0)).numpy()
    model = LogisticRegression(C=0.3, tol=1e-8, max_iter=1000).fit(columns, y.numpy())
    found = LogisticProbe(0.3).fit(x, y).predict(x)
    assert (found.dtype, found.shape) == (torch.float32, (300,))
    np.testing.assert_allclose(found, model.predict_proba(columns)[:, 1], atol=2e-4)


def test_tensors_and_acts_of_any_type_give_one_probe() -> None:
    x, y = documents()
    expected = LogisticProbe().fit(x.bfloat16().float(), y).predict(x)
    for same in (x.bfloat16(), Acts(x.bfloat16(), dims="bh"), x.bfloat16().double()):
        assert torch.equal(LogisticProbe().fit(same, y.int()).predict(x), expected)


def test_each_mask_1_token_is_an_example() -> None:
    x, mask, y = tokens()
    flat = LogisticProbe().fit(x[mask], y[mask]).predict(x[mask])
    x = torch.where(mask[..., None], x, torch.nan)
    for source, given_mask in ((x, mask), (Acts(x, dims="bsh", mask=mask), None)):
        probe = LogisticProbe().fit(source, y, given_mask)
        found = probe.predict(source, given_mask)
        assert found.shape == mask.shape
        assert torch.equal(found.isnan(), ~mask)
        np.testing.assert_allclose(found[mask], flat, atol=1e-3)


def test_a_documents_label_is_that_of_its_tokens() -> None:
    x, mask, _ = tokens()
    y = torch.arange(40) % 3 == 0
    one = LogisticProbe().fit(x, y, mask).predict(x, mask)
    other = LogisticProbe().fit(x, y[:, None].expand(40, 9), mask).predict(x, mask)
    assert torch.equal(one[mask], other[mask])


def test_signal_is_found_on_other_documents() -> None:
    x, y = documents(2000)
    scores = LogisticProbe().fit(x[:1000], y[:1000]).predict(x[1000:])
    assert auroc(scores.numpy(), y[1000:].numpy()) > 0.8


def test_parts_survive_safetensors_and_json_bit_equal(tmp_path: Path) -> None:
    x, y = documents()
    probe = LogisticProbe(0.7).fit(x, y)
    save_file(probe.tensors(), tmp_path / "probe.safetensors")
    settings = json.loads(json.dumps(probe.settings()))
    again = LogisticProbe.from_parts(settings, load_file(tmp_path / "probe.safetensors"))
    assert torch.equal(again.predict(x), probe.predict(x))
    assert again.settings() == probe.settings()
    assert settings["converged"] is True


def test_fitting_again_forgets_what_was() -> None:
    x, y = documents()
    probe = LogisticProbe().fit(x, ~y)
    assert torch.equal(probe.fit(x, y).predict(x), LogisticProbe().fit(x, y).predict(x))


def test_bad_input_is_named() -> None:
    x, y = documents(30)
    broken = x.clone()
    broken[17, 2] = float("nan")
    for source in (broken, Acts(broken, dims="bh")):
        with pytest.raises(UserError, match="document 17"):
            LogisticProbe().fit(source, y)
        with pytest.raises(UserError, match="document 17"):
            LogisticProbe().fit(x, y).predict(source)
    many, mask, labels = tokens()
    many[5, 1] = float("inf")
    with pytest.raises(UserError, match="document 5"):
        LogisticProbe().fit(many, labels, mask)
    with pytest.raises(UserError, match="both classes"):
        LogisticProbe().fit(x, torch.ones(30))


def test_misuse_is_refused() -> None:
    x, y = documents(30)
    probe = LogisticProbe()
    for use in (probe.tensors, probe.settings, lambda: probe.predict(x)):
        with pytest.raises(ValueError, match="not fitted"):
            use()
    with pytest.raises(ValueError, match="5 units"):
        probe.fit(x, y).predict(x[:, :5])
    with pytest.raises(ValueError, match="c must"):
        LogisticProbe(0)
