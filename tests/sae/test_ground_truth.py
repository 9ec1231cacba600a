"""On data with a known dictionary the rule takes a member that has found it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdlms.acts import Acts
from sdlms.sae.dictionary import dictionary_of
from sdlms.sae.members import members_of
from sdlms.sae.pupil import Pupil
from sdlms.sae.screening import mean_point
from sdlms.sae.selection import Rule, ranked
from sdlms.sae.settings import recipe_of
from sdlms.sae.stability import matched_cosine
from sdlms.sae.sweep import Place, trained
from sdlms.sae.training import Course
from tests.sae.sweeps import CPU, prepared_acts

D_IN, N_DIRECTIONS, WIDTH = 24, 48, 96
L1 = (0.05, 0.2, 0.5, 1.0, 2.0)


def known_acts(n_documents: int = 400, length: int = 50) -> tuple[Acts, Tensor]:
    """Sums of three of 48 directions in 24 units, on average; and the directions."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.nn.functional.normalize(
        torch.randn(N_DIRECTIONS, D_IN, generator=generator), dim=1
    )
    shape = (n_documents, length, N_DIRECTIONS)
    active = torch.rand(shape, generator=generator) < 3 / N_DIRECTIONS
    strength = active * (0.5 + torch.rand(shape, generator=generator))
    tensor = (strength @ truth + 0.3)[:, None]
    return Acts(tensor, "blsh", mask=torch.ones(n_documents, length), layers=[0]), truth


def swept(folder: Path, rule: Rule | None = None) -> tuple[list[Pupil], list[float]]:
    """Members of five coefficients, and the matched cosine of each to the truth."""
    acts, truth = known_acts()
    prepared = prepared_acts(acts, batch_size=512)
    recipe = recipe_of("standard", (D_IN, WIDTH), (1000, 512, 3e-3))
    pupils = trained(
        members_of(recipe, [0], L1, [0]),
        prepared,
        Course(1000, patience=0, screen_by=rule),
        Place(torch.float32, CPU, "auto"),
        folder / "checkpoint.safetensors",
    )
    scale = float(prepared.scales[0])
    found = [dictionary_of(p.member.recipe, p.best, scale).decoder for p in pupils]
    return pupils, [matched_cosine(truth, decoder, 0).mean for decoder in found]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Pupil], list[float]]:
    """All of them trained to the end."""
    return swept(tmp_path_factory.mktemp("sweep"))


def test_the_member_that_the_rule_takes_has_found_the_dictionary(
    sweep: tuple[list[Pupil], list[float]],
) -> None:
    pupils, cosines = sweep
    order, _ = ranked(Rule("knee"), [mean_point([pupil]) for pupil in pupils])
    assert cosines[order[0]] >= 0.95


def test_the_best_reconstruction_has_not(sweep: tuple[list[Pupil], list[float]]) -> None:
    pupils, cosines = sweep
    fvus = [pupil.point[1] for pupil in pupils]
    assert cosines[fvus.index(min(fvus))] < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("rule", [Rule("fvu", 0.15), Rule("l0", 14), Rule("l0", 25), Rule("knee")])
def test_screening_takes_what_the_whole_sweep_takes(
    sweep: tuple[list[Pupil], list[float]], rule: Rule, tmp_path: Path
) -> None:
    whole, _ = sweep
    first = ranked(rule, [mean_point([pupil]) for pupil in whole])[0][0]
    screened, _ = swept(tmp_path, rule)
    left = [pupil for pupil in screened if pupil.progress.ended == "all steps"]
    assert len(left) == 2
    taken = left[ranked(rule, [mean_point([pupil]) for pupil in left])[0][0]]
    if rule.name == "knee":  # two have none; what counts is that it is still there
        assert whole[first].member in [pupil.member for pupil in left]
    else:
        assert taken.member == whole[first].member
