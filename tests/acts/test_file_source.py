"""Of a file no byte is read that is not needed; `explain` says how many those are."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from sdlms.acts.explain import cost_of
from sdlms.acts.file_source import FileSource, file_source
from sdlms.acts.handle import Acts, realize_all
from sdlms.errors import UserError
from sdlms.runs.writing import RunOptions, RunWriter
from tests.acts.samples import LAYERS, acts_of, eager_of, file_of, sample, write_sample

LENGTHS = [40, 0, 7, 91, 30]
N_TOKENS = sum(LENGTHS)
ROW = 3 * 2  # 3 units of bfloat16
DATA = sample(LENGTHS, dtype=torch.bfloat16)


@pytest.fixture(params=[1, 64, 8192])
def source(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> FileSource:
    """Read in blocks of several sizes."""
    monkeypatch.setattr("sdlms.acts.sources.BLOCK_TOKENS", request.param)
    return file_of(tmp_path / "a.h5", DATA)


def last_rows() -> int:
    """Documents that have a token of mask 1."""
    return sum(any(mask) for mask in eager_of(DATA).mask)


WHOLE = N_TOKENS * ROW
COSTS: dict[str, tuple[Callable[[Acts], Acts], int]] = {
    "everything": (lambda a: a, 3 * WHOLE + N_TOKENS),
    "one layer": (lambda a: a.select_layers(3), WHOLE + N_TOKENS),
    "one layer with its axis": (lambda a: a.select_layers([4]), WHOLE + N_TOKENS),
    "two layers, the other way": (lambda a: a.select_layers([4, 1]), 2 * WHOLE + N_TOKENS),
    "documents": (lambda a: a.slice_batch([4, 0]), 70 * (3 * ROW + 1)),
    "a document twice": (lambda a: a.slice_batch([2, 2]), 14 * (3 * ROW + 1)),
    "no documents": (lambda a: a.slice_batch([]), 0),
    "an empty document": (lambda a: a.slice_batch([1]), 0),
    "last of all layers": (lambda a: a.last_pool(), N_TOKENS + 4 * 3 * ROW),
    "last of one": (lambda a: a.last_pool().select_layers(1), N_TOKENS + 4 * ROW),
    "last of some": (lambda a: a.slice_batch([2, 3]).last_pool(), 98 + 2 * 3 * ROW),
    "last, layers pooled": (lambda a: a.max_pool("l").last_pool(), N_TOKENS + 4 * 3 * ROW),
    "mean": (lambda a: a.mean_pool(), 3 * (WHOLE + N_TOKENS)),
    "max of one layer": (lambda a: a.select_layers(1).max_pool(), WHOLE + N_TOKENS),
    "mean of some": (lambda a: a.slice_batch(slice(2, None)).mean_pool(), 128 * 3 * (ROW + 1)),
    "layers pooled": (lambda a: a.mean_pool("l"), 3 * WHOLE + N_TOKENS),
    "both pooled": (lambda a: a.mean_pool().mean_pool("l"), 3 * WHOLE + N_TOKENS),
    "both, order kept": (lambda a: a.max_pool("l").mean_pool(), 3 * WHOLE + N_TOKENS),
    "cast": (lambda a: a.cast("float32").select_layers(1), WHOLE + N_TOKENS),
}  # fmt: skip


@pytest.mark.parametrize("what", COSTS)
def test_what_is_read_is_what_was_announced_and_no_more(source: FileSource, what: str) -> None:
    build, expected = COSTS[what]
    assert last_rows() == 4
    acts = build(acts_of(source))
    predicted = cost_of(source, acts._plan)[1].bytes_read
    acts.realize()
    assert source.bytes_read == predicted == expected


def test_several_pools_take_one_pass(source: FileSource) -> None:
    acts = acts_of(source)
    found = realize_all(acts.mean_pool(), acts.max_pool(), acts.last_pool(), acts.sum_pool())
    assert source.bytes_read == 3 * (WHOLE + N_TOKENS)
    for pooled, alone in zip(
        found, (acts.mean_pool(), acts.max_pool(), acts.last_pool(), acts.sum_pool()), strict=True
    ):
        expected = alone.realize().tensor
        torch.testing.assert_close(pooled.tensor, expected, rtol=0, atol=0, equal_nan=True)


def test_the_mask_alone_is_one_byte_per_token(source: FileSource) -> None:
    assert acts_of(source).slice_batch([0, 2]).mask is not None
    assert source.bytes_read == 47


def test_batches_and_layers_read_everything_once(source: FileSource) -> None:
    acts = acts_of(source).mean_pool()
    list(acts.iter_batches(2))
    assert source.bytes_read == 3 * (WHOLE + N_TOKENS)
    list(acts.iter_layers())
    assert source.bytes_read == 6 * (WHOLE + N_TOKENS)


def test_token_ids_come_in_the_order_of_the_documents(source: FileSource) -> None:
    from sdlms.acts.description import whole

    ranges = whole(source.description, np.array([2, 1, 0]))
    expected = np.concatenate([np.arange(41, 48), np.arange(1, 41)])
    assert np.array_equal(source.ids(ranges), expected)


def test_a_file_describes_itself(source: FileSource) -> None:
    found = source.description
    assert (found.dims, found.site, found.layers, found.n_units) == (
        "blsh",
        "resid_post",
        LAYERS,
        3,
    )
    assert (found.dtype, found.lengths.tolist()) == (torch.bfloat16, LENGTHS)
    assert found.header.model == "tiny" and found.header.control == "reinit"
    assert source.place == "a.h5 resid_post"


def test_a_file_that_changed_is_noticed(tmp_path: Path) -> None:
    acts = acts_of(file_of(tmp_path / "a.h5", DATA)).mean_pool()
    (tmp_path / "a.h5").unlink()
    with pytest.raises(UserError, match=r"cannot read .*a\.h5 \(No such file"):
        acts.realize()
    write_sample(tmp_path / "a.h5", sample(LENGTHS, 1, dtype=torch.bfloat16))
    with pytest.raises(UserError, match="changed since it was loaded"):
        acts.realize()


def test_a_key_is_that_of_the_content_where_it_is_known(tmp_path: Path) -> None:
    one = file_of(tmp_path / "a.h5", DATA)
    other = file_of(tmp_path / "b.h5", DATA)
    assert one.fingerprint() == FileSource(one.file, "resid_post").fingerprint()
    assert one.fingerprint() != other.fingerprint()  # nobody knows that they hold the same
    known = [FileSource(s.file, "resid_post", "1" * 64).fingerprint() for s in (one, other)]
    assert known[0] == known[1] != one.fingerprint()
    assert FileSource(one.file, "resid_post", "2" * 64).fingerprint() != known[0]


# Finding a file or a run


def made_run(artifacts: Path, stage: str = "capture", save: bool = True) -> Path:
    with RunWriter(stage, {"seed": 0}, RunOptions(artifacts=artifacts)) as out:
        out.start({}, {})
        if save:
            write_sample(out.path / "activations.h5", DATA)
            out.output("activations.h5")
        name = out.path.name
    found = [path for path in artifacts.iterdir() if path.name[:15] in name]
    return max(found, key=lambda path: path.name)


def test_a_run_is_found_by_path_name_and_latest(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    for reference in (run, str(run), run.name, "latest"):
        found = file_source(reference, tmp_path, None)
        assert found.file.path == run.resolve() / "activations.h5" or found.file.path == (
            run / "activations.h5"
        )
        assert found.digest is not None


def test_latest_is_the_latest_run_that_captures(tmp_path: Path) -> None:
    """A run of another stage that is newer has no activations."""
    run = made_run(tmp_path)
    with RunWriter("probe", {"seed": 0}, RunOptions(artifacts=tmp_path)) as out:
        out.start({}, {})
    assert file_source("latest", tmp_path, None).file.path.parent.name == run.name


def test_a_run_that_was_moved_keeps_its_key(tmp_path: Path) -> None:
    run = made_run(tmp_path / "one")
    before = file_source(run, tmp_path, None).fingerprint()
    moved = run.rename(tmp_path / "elsewhere")
    assert file_source(moved, tmp_path, None).fingerprint() == before


def test_a_run_without_activations_is_one_clear_line(tmp_path: Path) -> None:
    run = made_run(tmp_path, save=False)
    with pytest.raises(UserError, match=r"holds no activations.h5. Capture without --no-save"):
        file_source(run, tmp_path, None)


def chunk(file: h5py.File) -> None:
    values, kept = file["/resid_post/layer_3"][:], dict(file["/resid_post/layer_3"].attrs)
    del file["/resid_post/layer_3"]
    data = file.create_dataset("/resid_post/layer_3", data=values, chunks=(10, 3))
    data.attrs.update(kept)


EDITS: dict[str, Callable[[h5py.File], object]] = {
    "newer": lambda file: file.attrs.modify("version", 2),
    "foreign": lambda file: file.attrs.clear(),
    "part missing": lambda file: file.pop("/documents/id"),
    "attribute missing": lambda file: file.attrs.pop("sites"),
    "layer missing": lambda file: file.pop("/resid_post/layer_3"),
    "chunked": chunk,
}
CONTENTS: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda content: content[: len(content) // 2],
    "text": lambda content: b"activations\n",
    "empty": lambda content: b"",
}


def damaged(tmp_path: Path, what: str) -> Path:
    path = write_sample(tmp_path / "a.h5", sample([50] * 40))
    if what in EDITS:
        with h5py.File(path, "a") as file:
            EDITS[what](file)
    elif what in CONTENTS:
        path.write_bytes(CONTENTS[what](path.read_bytes()))
    else:
        path = tmp_path / what
    if what == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("newer", r"is 'sdlms activations' version 2; this sdlms reads .* version 1"),
        ("foreign", r"is 'None' version None; this sdlms reads 'sdlms activations'"),
        ("part missing", "damaged"),
        ("attribute missing", "damaged"),
        ("layer missing", "damaged"),
        ("truncated", "cannot read .*truncated"),
        ("text", "cannot read .*file signature not found"),
        ("empty", "cannot read"),
        ("chunked", "/resid_post/layer_3 is chunked or compressed; .* h5repack -l CONTI"),
        ("folder", "is no complete run"),
        ("absent", r"no run '.*absent'"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path, what: str, message: str) -> None:
    path = damaged(tmp_path, what)
    with pytest.raises(UserError, match=message) as refused:
        file_source(path, tmp_path, None)
    assert "\n" not in str(refused.value)


def test_a_file_whose_rows_end_early_is_one_clear_line(tmp_path: Path) -> None:
    """Cut after it was opened: then its size differs, and that is said."""
    source = file_of(tmp_path / "a.h5", DATA)
    with (tmp_path / "a.h5").open("r+b") as file:
        file.truncate(2000)
    with pytest.raises(UserError, match="changed since it was loaded"):
        acts_of(source).realize()


def test_of_several_sites_one_is_to_be_chosen(tmp_path: Path) -> None:
    from sdlms.storage.activations import Header, create_activations
    from tests.acts.samples import rows_with

    units = {("mlp_act", 1): 4, ("resid_post", 1): 3}
    store = {"mlp_act": "float16", "resid_post": "bfloat16"}
    header = Header("m", "", units, store, "gelu", gated=False)  # type: ignore[arg-type]
    create_activations(tmp_path / "a.h5", header, rows_with([2]))
    with pytest.raises(UserError, match="choose one: site='mlp_act', or --site mlp_act"):
        file_source(tmp_path / "a.h5", tmp_path, None)
    with pytest.raises(UserError, match="holds no site 'attn_out', but mlp_act, resid_post"):
        file_source(tmp_path / "a.h5", tmp_path, "attn_out")
    found = file_source(tmp_path / "a.h5", tmp_path, "mlp_act")
    assert (found.description.n_units, found.description.dtype) == (4, torch.float16)
    other = file_source(tmp_path / "a.h5", tmp_path, "resid_post")
    assert other.fingerprint() != found.fingerprint()
