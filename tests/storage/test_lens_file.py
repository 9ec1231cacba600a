"""lens.h5: what is written by offset is read again, whatever the shapes."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from sdlms.errors import UserError
from sdlms.storage.flat import FlatWriter
from sdlms.storage.lens_file import (
    LensHeader,
    LensReader,
    create_lens,
    lens_dataset,
    predicted_lens_bytes,
)
from sdlms.storage.rows import Rows

WORDS = ("", " the", "\n", "é", "⟨f0 9f⟩", " Paris")
HEADER = LensHeader(
    model="m",
    revision="",
    n_layers=2,
    lenses=("logit", "tuned"),
    states=(("resid_pre", 0), ("resid_mid", 1), ("resid_post", 1)),
    n_top=4,
    targets=((5, " Paris"), (1, " the")),
    vocabulary=WORDS,
    dtype="float32",
    unembed="bfloat16",
)
ROWS = Rows(
    ids=np.array([1, 5, 3, 2], dtype=np.int32),
    mask=np.array([0, 1, 1, 1], dtype=np.uint8),
    offsets=np.array([0, 3, 4]),
    document_ids=["a", "bc"],
    document_tasks=["math", "qa"],
)


def random_arrays(header: LensHeader, n_tokens: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        name: generator.normal(size=(n_tokens, *shape), scale=99).astype(dtype)
        for name, (shape, dtype) in header.layouts.items()
    }


@pytest.mark.parametrize("header", [HEADER, replace(HEADER, targets=(), lenses=("logit",))])
def test_what_is_written_is_read(tmp_path: Path, header: LensHeader) -> None:
    path = tmp_path / "lens.h5"
    create_lens(path, header, ROWS)
    arrays = random_arrays(header, 4)
    with FlatWriter(path) as writer:
        for lens in header.lenses:
            for name, values in arrays.items():
                writer.write(lens_dataset(lens, name), 2, values[2:])
                writer.write(lens_dataset(lens, name), 0, values[:2])
    with LensReader(path) as reader:
        for lens in header.lenses:
            for name, values in arrays.items():
                np.testing.assert_array_equal(reader.read(lens, name, 1, 3), values[1:3])
        assert (reader.lenses, reader.states) == (header.lenses, header.states)
        assert (reader.n_layers, reader.model) == (2, "m")
        assert reader.targets == list(header.targets)
        assert reader.texts(range(len(WORDS))) == list(WORDS)
        rows = reader.rows()
        assert (rows.document_ids, rows.document_tasks) == (["a", "bc"], ["math", "qa"])
        np.testing.assert_array_equal(rows.ids, ROWS.ids)
        np.testing.assert_array_equal(rows.lengths, [3, 1])


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        create_lens(tmp_path / name, HEADER, ROWS)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_what_is_predicted_is_what_lies_on_the_disk(tmp_path: Path) -> None:
    rows = replace(
        ROWS,
        ids=np.ones(5000, dtype=np.int32),
        mask=np.ones(5000, dtype=np.uint8),
        offsets=np.array([0, 3, 5000]),
    )
    create_lens(tmp_path / "lens.h5", HEADER, rows)
    n_bytes = predicted_lens_bytes(HEADER, 5000)
    assert n_bytes == 5000 * 2 * (3 * (4 * 8 + 4 * 4 + 2 * 8) + 4)
    assert n_bytes < (tmp_path / "lens.h5").stat().st_size < n_bytes + 5000 * 5 + 20_000


def test_a_vocabulary_axis_is_nowhere(tmp_path: Path) -> None:
    create_lens(tmp_path / "lens.h5", replace(HEADER, vocabulary=("word",) * 997), ROWS)
    shapes: list[tuple[int, ...]] = []
    with h5py.File(tmp_path / "lens.h5") as file:
        file.visititems(lambda _, item: shapes.append(getattr(item, "shape", ())) or None)
    assert not any(997 in shape for shape in shapes)


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "lens.h5"
    path.write_bytes(b"no hdf5")
    with pytest.raises(UserError, match="not an HDF5 file, or damaged"):
        LensReader(path)
    path.unlink()
    with pytest.raises(UserError, match="not an HDF5 file, or damaged"):
        LensReader(path)
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "sdlms lens", "version": 2})
    with pytest.raises(UserError, match="'sdlms lens' version 2; this sdlms reads"):
        LensReader(path)


def test_a_lens_that_is_not_there_is_named(tmp_path: Path) -> None:
    create_lens(tmp_path / "lens.h5", replace(HEADER, lenses=("logit",), targets=()), ROWS)
    with LensReader(tmp_path / "lens.h5") as reader:
        with pytest.raises(UserError, match="holds no /tuned/top_ids; its lenses are: logit"):
            reader.read("tuned", "top_ids", 0, 1)
        with pytest.raises(UserError, match="holds no /logit/target_rank"):
            reader.read("logit", "target_rank", 0, 1)
