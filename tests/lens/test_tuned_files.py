"""Tuned lenses on disk: ours come back bit-equal, the library's are read, others are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sdlms.errors import UserError
from sdlms.lens.tuned import Tuned
from sdlms.lens.tuned_files import (
    CONFIG,
    DOCUMENTS,
    PUBLISHED,
    TRANSLATORS,
    read_documents,
    read_tuned,
    write_tuned,
)

MODEL: dict[str, Any] = {
    "name": "someone/model",
    "revision": None,
    "n_layers": 2,
    "weights": {"model.safetensors": "ab12"},
}


def lens() -> Tuned:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(2, 4, 4, generator=generator)
    return Tuned(weight, torch.randn(2, 4, generator=generator))


def publish(folder: Path, **changes: Any) -> Path:
    """A lens as the library's `TunedLens.save` writes it."""
    folder.mkdir()
    layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])
    layers.load_state_dict(
        {f"{n}.weight": lens().weight[n] for n in range(2)}
        | {f"{n}.bias": lens().bias[n] for n in range(2)}
    )
    torch.save(layers.state_dict(), folder / PUBLISHED)
    config = {
        "base_model_name_or_path": "someone/model",
        "d_model": 4,
        "num_hidden_layers": 2,
        "bias": True,
        "base_model_revision": None,
        "unembed_hash": "cd34",
        "lens_type": "linear_tuned_lens",
    }
    (folder / CONFIG).write_text(json.dumps(config | changes))
    return folder


def test_ours_comes_back_bit_equal_and_gives_equal_bytes(tmp_path: Path) -> None:
    names = write_tuned(tmp_path / "a", lens(), MODEL)
    write_tuned(tmp_path / "b", lens(), MODEL)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    found = read_tuned(tmp_path / "a", MODEL, 4)
    assert torch.equal(found.weight, lens().weight)
    assert torch.equal(found.bias, lens().bias)


def test_what_it_was_trained_on_comes_back(tmp_path: Path) -> None:
    ids = ["0123456789abcdef", "00000000000000ff"]
    names = write_tuned(tmp_path / "a", lens(), MODEL, ids)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == names
    assert read_documents(tmp_path / "a") == frozenset(ids)
    write_tuned(tmp_path / "b", lens(), MODEL, reversed(ids))
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert torch.equal(read_tuned(tmp_path / "a", MODEL, 4).weight, lens().weight)
    assert read_documents(publish(tmp_path / "lens")) is None
    for content in (b"0123456789abcdef\nxyz\n", b"0123456789abcdef\n\xff\n", b"a\0\n"):
        (tmp_path / "a" / DOCUMENTS).write_bytes(content)
        with pytest.raises(UserError, match=r"documents\.txt: line . is no id of a document"):
            read_documents(tmp_path / "a")


def test_the_librarys_format_is_read(tmp_path: Path) -> None:
    found = read_tuned(publish(tmp_path / "lens"), MODEL, 4)
    assert torch.equal(found.weight, lens().weight)
    assert torch.equal(found.bias, lens().bias)


def test_a_published_lens_without_biases_has_zeros(tmp_path: Path) -> None:
    folder = publish(tmp_path / "lens", bias=False)
    torch.save({f"{n}.weight": lens().weight[n] for n in range(2)}, folder / PUBLISHED)
    assert not read_tuned(folder, MODEL, 4).bias.any()


def test_another_models_name_in_a_published_lens_is_doubted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = publish(tmp_path / "lens", base_model_name_or_path="someone/else")
    read_tuned(folder, MODEL, 4)
    assert "belongs to someone/else" in caplog.text


def test_other_weights_are_refused(tmp_path: Path) -> None:
    write_tuned(tmp_path, lens(), MODEL)
    with pytest.raises(UserError, match="other weights"):
        read_tuned(tmp_path, MODEL | {"weights": {"model.safetensors": "ffff"}}, 4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"d_model": 8}, "of width 8; .* Train one: sdlms logit-lens --tuned"),
        ({"num_hidden_layers": 3}, "3 layers"),
        ({"lens_type": "spline"}, "'spline' is unknown"),
        ({"format": "sdlms tuned lens", "version": 2}, "version 2"),
        ({"format": "another"}, "'another'"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_tuned(publish(tmp_path / "lens", **changes), MODEL, 4)


def test_a_missing_or_broken_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no tuned lens"):
        read_tuned(tmp_path, MODEL, 4)
    folder = publish(tmp_path / "lens")
    whole = (folder / PUBLISHED).read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        (folder / PUBLISHED).write_bytes(content)
        with pytest.raises(UserError, match=PUBLISHED) as error:
            read_tuned(folder, MODEL, 4)
        assert "\n" not in str(error.value)
    (folder / PUBLISHED).unlink()
    with pytest.raises(UserError, match="no such file"):
        read_tuned(folder, MODEL, 4)
    for content in (b"{", b"[]"):
        (folder / CONFIG).write_bytes(content)
        with pytest.raises(UserError, match=CONFIG):
            read_tuned(folder, MODEL, 4)


class Harmful:
    """What a pickle could run if it were allowed to."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must never be run",))


def test_a_pickle_that_runs_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = publish(tmp_path / "lens")
    torch.save({"0.weight": Harmful()}, folder / PUBLISHED)
    with pytest.raises(UserError, match="not a file of tensors"):
        read_tuned(folder, MODEL, 4)
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"0.weight": torch.zeros(4, 4)}, r"lacks 1\.weight"),
        ({"0.weight": torch.zeros(3, 4), "1.weight": torch.zeros(4, 4)}, "other shapes"),
        (
            {"0.weight": torch.zeros(4, 4), "1.weight": torch.zeros(4, 4), "x": torch.zeros(1)},
            "holds x too",
        ),
        ([torch.zeros(4, 4)], "dictionary of tensors"),
    ],
)
def test_other_tensors_are_refused(tmp_path: Path, state: Any, said: str) -> None:
    folder = publish(tmp_path / "lens")
    torch.save(state, folder / PUBLISHED)
    with pytest.raises(UserError, match=said):
        read_tuned(folder, MODEL, 4)


def test_translators_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    broken = lens()
    broken.weight[0, 0, 0] = torch.nan
    write_tuned(tmp_path, broken, MODEL)
    with pytest.raises(UserError, match="not finite"):
        read_tuned(tmp_path, MODEL, 4)


def test_arrays_that_contradict_the_config_are_refused(tmp_path: Path) -> None:
    write_tuned(tmp_path, Tuned(torch.zeros(2, 4, 4), torch.zeros(2, 4)), MODEL)
    other = tmp_path / "other"
    write_tuned(other, Tuned(torch.zeros(2, 3, 3), torch.zeros(2, 3)), MODEL)
    (tmp_path / TRANSLATORS).write_bytes((other / TRANSLATORS).read_bytes())
    with pytest.raises(UserError, match="other shapes"):
        read_tuned(tmp_path, MODEL, 4)
