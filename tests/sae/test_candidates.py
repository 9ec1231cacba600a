"""Autoencoders of runs and of others become rows of one table, each under its own name."""

from pathlib import Path
from typing import Any

import pytest

from sdlms.errors import UserError
from sdlms.sae.candidates import (
    Candidate,
    Declared,
    candidate_in_folder,
    candidates_in_run,
    declared_in,
    numbered,
    one_site,
    run_named,
    saved_of,
    warn_of_origin,
)
from sdlms.sae.dictionary import load_dictionary
from sdlms.sae.finding import Trained
from sdlms.sae.measuring import IDENTITY, TRAINING
from sdlms.sae.saving import HOOKS
from tests.acts.samples import SITE
from tests.stages.sae_runs import (
    OTHER,
    SELECTED,
    WIDTH,
    random_dictionary,
    sae_trained,
    write_dictionary,
)
from tests.storage.sparsify_folders import write_sparsify

NOTHING = Declared("", "", None, None)


def candidate(
    origin: str, member: str, layer: int = 1, partner: str = "", site: str | None = SITE
) -> Candidate:
    trained = Trained(origin, site, layer, member, Path(), 1.0)
    return Candidate(trained, NOTHING, partner=partner)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, NOTHING),
        ({"metadata": None}, NOTHING),
        (
            {"metadata": {"hook_name": "blocks.8.hook_resid_pre", "model_name": "gpt2-small"}},
            Declared("gpt2-small", "blocks.8.hook_resid_pre", "resid_pre", 8),
        ),
        (
            {"hook_name": "blocks.8.hook_resid_pre", "hook_layer": 8, "model_name": "gpt2-small"},
            Declared("gpt2-small", "blocks.8.hook_resid_pre", "resid_pre", 8),
        ),
        (
            {"hook_point": "blocks.0.mlp.hook_post", "hook_point_layer": 0},
            Declared("", "blocks.0.mlp.hook_post", "mlp_act", 0),
        ),
        ({"metadata": {"layer": 12}}, Declared("", "", None, 12)),
        ({"metadata": {"layer": "12"}}, NOTHING),
        (
            {"metadata": {"hook_name": "blocks.2.attn.hook_z"}},
            Declared("", "blocks.2.attn.hook_z", None, 2),
        ),
        ({"hook_name": "model.layers.3.mlp"}, Declared("", "model.layers.3.mlp", None, None)),
    ],
)
def test_what_a_file_says_of_its_origin(config: dict[str, Any], expected: Declared) -> None:
    assert declared_in(config) == expected


def test_every_site_is_read_back_from_its_hook() -> None:
    for site, hook in HOOKS.items():
        said = declared_in({"metadata": {"hook_name": hook.format(layer=5)}})
        assert (said.site, said.layer) == (site, 5)


def test_a_name_is_a_run_s_where_one_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = sae_trained(tmp_path, None)
    artifacts = tmp_path / "artifacts"
    for name in (run.name, "latest", str(run.path), f"artifacts/{run.name}"):
        found = run_named(artifacts, name)
        assert found is not None and found.path.resolve() == run.path.resolve()
    write_dictionary(tmp_path / "mine", random_dictionary(0))
    member = next(run.path.rglob("cfg.json")).parent
    for name in ("mine", str(tmp_path), "someone/saes/layers.3", "~", str(member)):
        assert run_named(artifacts, name) is None
    for name in ("absent", "artifacts/absent"):
        with pytest.raises(UserError, match="no run"):
            run_named(artifacts, name)


def test_the_members_of_a_run(tmp_path: Path) -> None:
    run = sae_trained(tmp_path, None)
    found = candidates_in_run(run, None, None, None)
    assert [(each.trained.layer, each.trained.member) for each in found] == [
        (layer, member) for layer in (1, 3) for member in (SELECTED, OTHER)
    ]
    facts = {"coefficient": 1.0, "seed": 0, "steps": 50, "best_step": 40, "ended": ""}
    assert found[0].facts == facts
    (one,) = candidates_in_run(run, SITE, ("3",), OTHER)
    assert (one.trained.layer, one.trained.member, one.partner) == (3, OTHER, "")
    with pytest.raises(UserError, match=f"no member 'x' there, but {SELECTED}, {OTHER}"):
        candidates_in_run(run, None, None, "x")


def test_a_folder_is_for_the_layer_that_is_named_or_that_it_names(tmp_path: Path) -> None:
    folder = tmp_path / "layers.3"
    write_sparsify(folder, 4, 8, 2)
    found = candidate_in_folder("owner/saes/layers.3", folder, SITE, ("2",)).trained
    assert (found.origin, found.member, found.layer) == ("owner/saes/layers.3", "layers.3", 2)
    assert (found.site, found.folder) == (SITE, folder)
    for layers in (None, ("1", "2"), ("50%",)):
        with pytest.raises(UserError, match=r"owner/saes/layers\.3 is a single SAE: name its one"):
            candidate_in_folder("owner/saes/layers.3", folder, None, layers)


def test_one_table_is_about_one_site() -> None:
    everywhere = [candidate("a", "m", site=None), candidate("b", "m")]
    assert one_site(everywhere) == SITE and one_site(everywhere[:1]) is None
    with pytest.raises(UserError, match="these are several: b of resid_post, c of mlp_out"):
        one_site([*everywhere, candidate("c", "m", site="mlp_out")])


def test_names_are_unique_in_each_layer_and_partners_follow() -> None:
    given = [
        candidate("run", "k_4_seed0", 1, "k_4_seed1"),
        candidate("run", "k_4_seed1", 1, "k_4_seed0"),
        candidate("run", "k_4_seed0", 2),
        candidate("other", "k_4_seed0", 1, "k_4_seed1"),
        candidate("other", "k_4_seed1", 1, "k_4_seed0"),
        candidate("a/k_4_seed0_2", "k_4_seed0_2", 1),
        candidate("last", "mine", 2, "gone"),
    ]
    found = numbered(given)
    assert [(each.trained.member, each.partner) for each in found] == [
        ("k_4_seed0", "k_4_seed1"),
        ("k_4_seed1", "k_4_seed0"),
        ("k_4_seed0", ""),
        ("k_4_seed0_2", "k_4_seed1_2"),
        ("k_4_seed1_2", "k_4_seed0_2"),
        ("k_4_seed0_2_2", ""),
        ("mine", ""),
    ]
    with pytest.raises(UserError, match="--sae names run twice"):
        numbered([*given, given[0]])


@pytest.mark.parametrize(
    ("declared", "warnings"),
    [
        (NOTHING, 0),
        (Declared("Some/Tiny", "blocks.1.hook_resid_post", SITE, 1), 0),
        (Declared("gpt2", "blocks.1.hook_resid_post", SITE, 1), 1),
        (Declared("tiny", "blocks.2.hook_resid_post", SITE, 2), 1),
        (Declared("gpt2", "blocks.1.hook_resid_mid", None, 1), 2),
    ],
)
def test_another_model_or_place_is_told(
    caplog: pytest.LogCaptureFixture, declared: Declared, warnings: int
) -> None:
    each = Candidate(candidate("mine", "mine").trained, declared)
    warn_of_origin(each, SITE, "folder/tiny")
    assert len(caplog.records) == warnings


def test_columns_of_what_nobody_knows_are_empty(tmp_path: Path) -> None:
    write_sparsify(tmp_path / "coder", 4, 8, 2)
    for name, folder in (
        ("coder", tmp_path / "coder"),
        ("mine", write_dictionary(tmp_path / "mine", random_dictionary(0))),
    ):
        each = candidate_in_folder(name, folder, None, ("1",))
        saved = saved_of(each, load_dictionary(folder), SITE, 2)
        assert set(saved.facts) == {*IDENTITY, *TRAINING}
        assert (saved.layer, saved.name, saved.folder) == (1, name, folder)
        assert saved.facts["coefficient"] == (2.0 if name == "coder" else None)
        assert saved.facts["expansion"] == (4.0 if name == "coder" else WIDTH / 2)
        assert not saved.is_screened
