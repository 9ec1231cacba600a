"""What was selected is found by the table of its run; anything else is one line."""

import re
from math import isnan
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.runs.writing import RunOptions, RunWriter
from sdlms.sae.candidates import candidates_in_run
from sdlms.sae.dictionary import load_dictionary
from sdlms.sae.finding import is_sae_folder, trained_in_folder, trained_in_run
from sdlms.storage.files import sha256_of
from sdlms.storage.tables import write_table
from tests.acts.samples import SITE
from tests.stages.sae_runs import (
    MODEL,
    OTHER,
    SELECTED,
    UNSCREENED,
    WIDTH,
    random_dictionary,
    sae_trained,
    write_dictionary,
)

ALL = ("all",)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return sae_trained(tmp_path_factory.mktemp("runs"), None)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return sae_trained(tmp_path_factory.mktemp("runs"), None, sites=("mlp_act", SITE))


def test_the_selected_member_of_each_layer(run: Run) -> None:
    found = trained_in_run(run, None, ALL, None)
    assert [(each.layer, each.member, each.site) for each in found] == [
        (1, SELECTED, SITE),
        (3, SELECTED, SITE),
    ]
    assert {(each.l0, each.origin) for each in found} == {(3.5, run.name)}
    for each in found:
        assert is_sae_folder(each.folder)
        assert load_dictionary(each.folder).width == WIDTH


def test_members_layers_and_sites_are_chosen(run: Run, both: Run) -> None:
    assert [each.member for each in trained_in_run(run, SITE, ALL, OTHER)] == [OTHER] * 2
    for layers in (("3",), ("75%",), ("80%", "3")):
        assert [each.layer for each in trained_in_run(run, None, layers, None)] == [3]
    assert [each.layer for each in trained_in_run(run, None, ("3", "1"), None)] == [1, 3]
    (found,) = trained_in_run(both, "mlp_act", ("1",), None)
    assert found.folder.parts[-3:] == ("mlp_act", "layer_1", SELECTED)


@pytest.mark.parametrize(
    ("site", "layers", "member", "message"),
    [
        (None, ALL, None, "has SAEs of mlp_act, resid_post; choose one: --site mlp_act"),
        ("attn_out", ALL, None, "--site attn_out: .* has SAEs of mlp_act, resid_post."),
        (SITE, ("2",), None, "layer 2 is not there; .* holds layers 1, 3."),
        (SITE, ("1", "8"), None, "there is no layer 8; the model has layers 0 to 3"),
        (
            SITE,
            ALL,
            "k_3",
            f"no member 'k_3' at layer 1. Name one by --member: {SELECTED}, {OTHER}",
        ),
    ],
)
def test_what_is_not_there_is_one_line(
    both: Run, site: str | None, layers: tuple[str, ...], member: str | None, message: str
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        trained_in_run(both, site, layers, member)
    assert "\n" not in str(refused.value)


def test_a_layer_where_nothing_was_selected_or_measured(tmp_path: Path) -> None:
    with RunWriter("sae-train", {}, RunOptions(artifacts=tmp_path)) as out:
        out.start({"model": MODEL}, {})
        row = {"site": SITE, "layer": 2, "member": "k_4_seed0", "selected": 0, "l0": None}
        row |= {"coefficient": 4, "seed": 0, **UNSCREENED, "best_step": None}
        write_table(out.path / "sae.csv", list(row), [row])
        out.output("sae.csv", columns=list(row))
    run = Run(out.path)
    with pytest.raises(UserError, match=r"no member that was selected at layer 2\. Name one"):
        trained_in_run(run, None, ALL, None)
    (found,) = trained_in_run(run, None, ALL, "k_4_seed0")
    assert isnan(found.l0)


def test_a_run_without_its_table_is_one_line(tmp_path: Path) -> None:
    with RunWriter("sae-train", {}, RunOptions(artifacts=tmp_path)) as out:
        out.start({}, {})
    with pytest.raises(UserError, match=r"holds no sae\.csv"):
        trained_in_run(Run(out.path), None, ALL, None)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (r"(?s).*", "", "it has no rows"),
        (r"(?s)\n.*", "\n", "it has no rows"),
        (r"^site,", "sites,", "it has no column site"),
        (r",best_step,", ",best,", "it has no column best_step"),
        (r"(?s)(.*,seed0|.*),[^,]*,[^,]*$", r"\1", "a row is too short or too long"),
        (r"\n$", ",1\n", "a row is too short or too long"),
        (r"_post,1,", "_post,x,", "layer is 'x'"),
        (r"_post,3,", "_post,,", "layer is ''"),
        (r",3\.5\n$", ",3.5.1\n", "l0 is '3.5.1'"),
        (r",3\.5\n$", ",inf\n", "l0 is 'inf'"),
        (r",40,", ",?,", r"best_step is '\?'"),
        (r"_post", "_p\udcffst", "can't decode byte"),
    ],
)
def test_a_damaged_table_is_one_line(tmp_path: Path, old: str, new: str, why: str) -> None:
    run = sae_trained(tmp_path, None)
    path = run.path / "sae.csv"
    path.chmod(0o644)
    changed, n = re.subn(old, new, path.read_text(), count=1)
    assert n == 1
    path.write_bytes(changed.encode(errors="surrogateescape"))
    message = rf"/sae\.csv: damaged \(.*{why}.*\); see: sdlms runs verify {run.name}$"
    for read in (
        lambda: trained_in_run(run, None, ALL, None),
        lambda: candidates_in_run(run, None, None, None),
    ):
        with pytest.raises(UserError, match=message) as refused:
            read()
        assert "\n" not in str(refused.value)


def test_a_folder_is_for_the_one_layer_that_is_named(tmp_path: Path) -> None:
    folder = write_dictionary(tmp_path / "mine", random_dictionary(0))
    assert is_sae_folder(folder) and not is_sae_folder(tmp_path)
    (found,) = trained_in_folder(folder, None, ("2",))
    assert (found.layer, found.member, found.folder, found.site) == (2, "mine", folder, None)
    assert isnan(found.l0)
    names = ("cfg.json", "sae_weights.safetensors")
    files = {name: sha256_of(folder / name) for name in names}
    assert found.record() == {"layer": 2, "member": "mine", "files": files}
    for layers in (ALL, ("1", "2"), ("50%",)):
        with pytest.raises(UserError, match="name its one layer by its index"):
            trained_in_folder(folder, None, layers)
