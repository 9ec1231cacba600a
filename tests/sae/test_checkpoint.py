"""A checkpoint is whole at any moment, or it is the one before; it is read back bit by bit."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdlms.errors import UserError
from sdlms.sae import checkpoint
from sdlms.sae.checkpoint import INDEX, has_checkpoint, read_checkpoint, write_checkpoint
from sdlms.sae.preparation import Prepared
from sdlms.sae.pupil import Pupil
from sdlms.sae.sweep import Place, pupils_of
from tests.sae.sweeps import CPU, prepared_acts, small_members, sparse_acts

PLACE = Place(torch.float32, CPU, "auto")


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepared_acts(sparse_acts())


def anew(prepared: Prepared) -> list[Pupil]:
    return pupils_of(small_members(), prepared, PLACE)


def learn(prepared: Prepared, pupils: list[Pupil]) -> None:
    """One update of all, and their evaluation."""
    batch, validation = next(prepared.stream.batches()), prepared.validation
    for pupil in pupils:
        index = (pupil.member.layer - 1) // 2
        pupil.learner.step(batch[index])
        pupil.evaluate(batch[index], validation[index], 0)


def same(one: Pupil, other: Pupil) -> bool:
    (ours, text), (theirs, other_text) = one.saved(), other.saved()
    equal = all((ours[name] == theirs[name]).all() for name in ours)
    return equal and sorted(ours) == sorted(theirs) and text == other_text


def test_it_is_read_back_bit_by_bit(prepared: Prepared, tmp_path: Path) -> None:
    pupils = anew(prepared)
    for _ in range(4):
        learn(prepared, pupils)
    pupils[1].end("enough")
    assert not has_checkpoint(tmp_path / "c")
    write_checkpoint(tmp_path / "c", 4, pupils)
    assert has_checkpoint(tmp_path / "c")
    found = anew(prepared)
    assert read_checkpoint(tmp_path / "c", found) == 4
    assert [pupil.learns for pupil in found] == [True, False, True, True]
    assert all(same(one, other) for one, other in zip(pupils, found, strict=True))


def test_only_the_newest_is_kept(prepared: Prepared, tmp_path: Path) -> None:
    pupils = anew(prepared)
    (tmp_path / ".1_0.safetensors.partial").write_text("torn")
    for n_done in (1, 2):
        write_checkpoint(tmp_path, n_done, pupils)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [*(f"2_{i}.safetensors" for i in range(4)), INDEX]


class Killed(BaseException):
    """As kill -9 leaves the disk."""


def test_killed_at_any_change_on_the_disk_it_is_the_old_one_or_the_new(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pupils = anew(prepared)
    write_checkpoint(tmp_path / "first", 1, pupils)
    old = anew(prepared)
    read_checkpoint(tmp_path / "first", old)
    learn(prepared, pupils)
    left = [0]

    def dying(call: Callable[..., object]) -> Callable[..., object]:
        def counted(*words: object, **named: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return call(*words, **named)

        return counted

    monkeypatch.setattr(checkpoint, "write_tensors", dying(checkpoint.write_tensors))
    monkeypatch.setattr(checkpoint, "write_atomically", dying(checkpoint.write_atomically))
    monkeypatch.setattr(Path, "unlink", dying(Path.unlink))
    found_steps = []
    for n_calls in range(60):
        folder = tmp_path / str(n_calls)
        shutil.copytree(tmp_path / "first", folder)
        left[0] = n_calls
        try:
            write_checkpoint(folder, 2, pupils)
            is_killed = False
        except Killed:
            is_killed = True
        found = anew(prepared)
        found_steps.append(read_checkpoint(folder, found))
        expected = old if found_steps[-1] == 1 else pupils
        assert all(same(one, other) for one, other in zip(expected, found, strict=True))
        if not is_killed:
            break
    assert not is_killed
    assert sorted(set(found_steps)) == [1, 2]
    assert found_steps == sorted(found_steps)


@pytest.mark.parametrize("name", [INDEX, "1_2.safetensors"])
def test_what_is_damaged_is_named(prepared: Prepared, tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path, 1, anew(prepared))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:20])
    with pytest.raises(UserError, match=f"{name}: .*damaged"):
        read_checkpoint(tmp_path, anew(prepared))
