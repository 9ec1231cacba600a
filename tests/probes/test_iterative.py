import dataclasses

import pytest
import torch
from torch import Tensor

from sdlms.acts.handle import Acts
from sdlms.errors import UserError
from sdlms.probes.attention import AttentionProbe
from sdlms.probes.iterative import IterativeProbe
from sdlms.probes.kinds import KINDS
from sdlms.probes.mlp import MlpProbe
from tests.probes.toy_lessons import KINDS as ITERATIVE
from tests.probes.toy_lessons import toy_network


def probe_of(kind: str, max_epochs: int = 25) -> IterativeProbe:
    settings = toy_network(kind, max_epochs=max_epochs).settings
    return KINDS[kind].probe_class()(settings)


def documents(n: int = 48) -> tuple[Tensor, Tensor, Tensor]:
    """Activations, mask and labels: unit 0 is raised in one token of every second document."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n, 6, 7, generator=generator)
    y = torch.arange(n) % 2 == 0
    x[y, 1, 0] += 6
    mask = torch.arange(6) < torch.randint(2, 7, (n, 1), generator=generator)
    return x, mask, y


@pytest.mark.parametrize("kind", ITERATIVE)
def test_a_clear_label_is_learned_from_tensors_and_acts_alike(kind: str) -> None:
    x, mask, y = documents()
    if kind == "mlp":
        x, mask = x[:, 1], None
    fitted = probe_of(kind).fit(x, y, mask, seed=1)
    found = fitted.predict(x, mask)
    assert found.shape == (48,) and found.dtype == torch.float32
    assert ((found > 0.5) == y).float().mean() > 0.9
    acts = Acts(x, "bh" if mask is None else "bsh", mask)
    assert torch.equal(probe_of(kind).fit(acts, y, seed=1).predict(acts), found)
    assert not torch.equal(probe_of(kind).fit(acts, y, seed=2).predict(acts), found)


@pytest.mark.parametrize("kind", ITERATIVE)
def test_the_parts_make_the_same_probe(kind: str) -> None:
    x, mask, y = documents()
    fitted = probe_of(kind, max_epochs=2).fit(x, y, mask)
    again = type(fitted).from_parts(fitted.settings(), fitted.tensors())
    one, other = fitted.predict(x, mask), again.predict(x, mask)
    assert torch.equal(one.nan_to_num(-1), other.nan_to_num(-1))
    assert again.settings() == fitted.settings()
    broken = {n: t for n, t in fitted.tensors().items() if n != "top"}
    with pytest.raises(KeyError, match="top"):
        type(fitted).from_parts(fitted.settings(), broken)


def test_tokens_are_judged_where_the_mask_is_1_and_padding_is_kept() -> None:
    x, mask, y = documents()
    mask[:, 5] = False
    found = probe_of("mlp").fit(x, y, mask).predict(x, mask)
    assert found.shape == mask.shape
    assert torch.equal(found.isnan(), ~mask)


def test_labels_of_tokens_are_learned() -> None:
    x, mask, _ = documents()
    y = (x[..., 2] > 0) & mask
    found = probe_of("mlp", max_epochs=40).fit(x, y, mask).predict(x, mask)
    assert ((found > 0.5) == y)[mask].float().mean() > 0.9


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ITERATIVE)
def test_what_is_masked_has_no_say_whatever_it_is(kind: str, value: float) -> None:
    x, mask, y = documents()
    mask[::3, 0] = False  # in front of tokens, where no padding is cut off
    mask[:, 1] = True
    poisoned = torch.where(mask[..., None], x, value)
    one, other = (probe_of(kind, 4).fit(values, y, mask) for values in (x, poisoned))
    for name, tensor in one.tensors().items():
        assert torch.equal(tensor, other.tensors()[name]), name
    expected, found = one.predict(x, mask), other.predict(poisoned, mask)
    assert torch.equal(expected.nan_to_num(-1), found.nan_to_num(-1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ITERATIVE)
def test_what_is_no_number_is_refused_by_its_name(kind: str, value: float) -> None:
    x, mask, y = documents()
    mask[:, 1] = True
    fitted = probe_of(kind, 1).fit(x, y, mask)
    x[5, 1, 2] = value
    acts = Acts(x, "bsh", mask, [9], [f"d{i}" for i in range(48)])
    message = r"^an activation of document 5 \('d5', layer 9\) is NaN or infinite\. Leave"
    with pytest.raises(UserError, match=message):
        probe_of(kind, 1).fit(acts, y)
    with pytest.raises(UserError, match=message):
        fitted.predict(acts)


def test_tokens_of_one_class_in_every_document_are_learned() -> None:
    """Both classes are needed among tokens, not among documents."""
    x, mask, _ = documents()
    mask[:, :2] = True
    y = torch.zeros(mask.shape, dtype=torch.bool)
    y[:, 1] = True
    x[:, 1, 2] += 6
    found = probe_of("mlp", max_epochs=40).fit(x, y, mask).predict(x, mask)
    assert ((found > 0.5) == y)[mask].float().mean() > 0.9


def test_a_class_without_a_token_to_train_on_is_refused() -> None:
    x, mask, _ = documents()
    y = ~mask  # true where nothing is read
    with pytest.raises(UserError, match="no token of class 1 to train on"):
        MlpProbe().fit(x, y, mask)
    with pytest.raises(UserError, match="no token of class 0 to train on"):
        MlpProbe().fit(x, mask, mask)


@pytest.mark.parametrize("kind", ITERATIVE)
def test_any_float_type_is_taken_and_units_are_checked(kind: str) -> None:
    x, mask, y = documents()
    one, other = (probe_of(kind, 2).fit(values, y, mask) for values in (x, x.double()))
    expected, found = one.predict(x, mask), other.predict(x.double(), mask)
    assert torch.equal(expected.nan_to_num(-1), found.nan_to_num(-1))
    with pytest.raises(ValueError, match="x has 5 units, the probe 7"):
        one.predict(x[..., :5], mask)


def test_a_training_without_a_loss_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    x, _, y = documents()
    config = dataclasses.replace(toy_network("mlp", max_epochs=2).settings, learning_rate=1e38)
    probe = MlpProbe(config).fit(x[:, 1], y)
    assert "mlp: the validation loss never was a number" in caplog.text
    assert probe.converged is False
    assert probe.predict(x[:, 1]).isnan().all()


def test_it_says_whether_it_converged() -> None:
    x, _, y = documents()
    assert probe_of("mlp").converged is None
    assert probe_of("mlp", max_epochs=2).fit(x[:, 1], y).converged is False
    config = dataclasses.replace(toy_network("mlp", max_epochs=300).settings, patience=2)
    assert MlpProbe(config).fit(x[:, 0], y).converged is True


@pytest.mark.parametrize(
    ("n_true", "message"), [(0, "0 documents of class 1"), (47, "1 document of class 0")]
)
def test_too_few_documents_of_a_class_are_one_clear_line(n_true: int, message: str) -> None:
    x, _, _ = documents()
    with pytest.raises(UserError, match=message):
        MlpProbe().fit(x[:, 1], torch.arange(48) < n_true)


def test_what_does_not_fit_together_is_said() -> None:
    x, mask, y = documents()
    with pytest.raises(ValueError, match="with a mask"):
        AttentionProbe().fit(x, y)
    with pytest.raises(ValueError, match="reads tokens"):
        AttentionProbe().fit(x[:, 0], y)
    with pytest.raises(ValueError, match="mask of their own"):
        AttentionProbe().fit(Acts(x, "bsh", mask), y, mask)
    with pytest.raises(ValueError, match="one layer"):
        MlpProbe().fit(Acts(x, "blh"), y)
    with pytest.raises(ValueError, match="48 documents"):
        MlpProbe().fit(x[:, 0], y[:-1])
    with pytest.raises(ValueError, match="48 documents"):
        MlpProbe().fit(x, mask[:, :3], mask)
    with pytest.raises(ValueError, match="0 and 1"):
        MlpProbe().fit(x[:, 0], torch.arange(48))
    with pytest.raises(ValueError, match="not fitted"):
        MlpProbe().predict(x[:, 0])
