import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from sdlms.errors import UserError
from sdlms.runs.reading import Run
from sdlms.scaling.comparable import check_comparable
from tests.scaling.gated_runs import gated
from tests.scaling.small_runs import captured, model_of, modular, sources, trained

Make = Callable[[Path], Run]


def refusal(*runs: Run) -> str:
    """Why they are refused, in any order."""
    messages = []
    for ordered in (runs, runs[::-1]):
        with pytest.raises(UserError) as raised:
            check_comparable(sources(*ordered))
        messages.append(str(raised.value))
    assert all("\n" not in message and message.startswith("--runs: ") for message in messages)
    return messages[0]


def test_models_of_one_family_pass(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ("small", "medium", "large")
    captures = [captured(tmp_path, name) for name in names]
    trainings = [trained(tmp_path, name) for name in names[:2]]
    measured = [modular(tmp_path, name, acts) for name, acts in zip(names, captures, strict=True)]
    with caplog.at_level(logging.WARNING, "sdlms"):
        check_comparable(sources(*captures, *trainings, *measured))
    assert not caplog.records


def test_sites_may_lie_in_one_run_or_in_several(tmp_path: Path) -> None:
    both = captured(tmp_path, "small", sites=("mlp_act", "resid_post"))
    apart = [captured(tmp_path, "medium", sites=(site,)) for site in ("mlp_act", "resid_post")]
    check_comparable(sources(both, *apart))
    named = refusal(both, apart[0])
    assert "of neurons of mlp_act, units of resid_post in small and of neurons of mlp_act" in named


def test_controls_are_joined_with_their_like_alone(tmp_path: Path) -> None:
    runs = [captured(tmp_path, name, control="reinit") for name in ("small", "medium")]
    check_comparable(sources(*runs))
    message = refusal(runs[0], captured(tmp_path, "medium"))
    assert "has --control reinit" in message and "has --control none" in message
    message = refusal(runs[0], captured(tmp_path, "medium", control="permute-tokens"))
    assert "has --control permute-tokens" in message


def test_one_model_is_refused(tmp_path: Path) -> None:
    one, two = captured(tmp_path, "small"), captured(tmp_path, "medium")
    message = refusal(one, two, trained(tmp_path, "small"))
    assert "sae-train is there of one model alone (small); a trend needs two" in message
    message = refusal(one, captured(tmp_path, "small", sites=("resid_post",)))
    assert "capture is there of one model alone (small)" in message


def test_two_runs_of_the_same_units_are_refused(tmp_path: Path) -> None:
    runs = [captured(tmp_path, name) for name in ("small", "small", "medium")]
    message = refusal(*runs)
    assert f"{runs[0].name} and {runs[1].name} are both capture of small, neurons of mlp_act" in (
        message
    )
    other = captured(tmp_path, "small", model=model_of("small", revision="step10"))
    check_comparable(sources(runs[0], other))  # the same size, another model


def test_other_units_are_refused(tmp_path: Path) -> None:
    runs = [
        modular(tmp_path, "small", site="sae_latents", kind="latent", encoded_site="mlp_act"),
        modular(tmp_path, "medium"),
    ]
    assert "latents of mlp_act in small and of neurons of mlp_act in medium" in refusal(*runs)


def test_latents_of_other_sites_are_other_units(tmp_path: Path) -> None:
    def latents(model: str, site: str) -> Run:
        return modular(tmp_path, model, site="sae_latents", kind="latent", encoded_site=site)

    runs = [latents("small", "mlp_act"), latents("medium", "resid_post")]
    message = refusal(*runs)
    assert "latents of mlp_act in small and of latents of resid_post in medium" in message
    both = [latents("small", "resid_post"), latents("medium", "mlp_act")]
    check_comparable(sources(*runs, *both))  # of one model two runs, but not of the same latents


def test_one_model_under_two_names_is_refused(tmp_path: Path) -> None:
    weights = {"model.safetensors": "6d0f"}
    runs = [
        captured(tmp_path, "small", model=model_of("small", name="here", weights=weights)),
        captured(tmp_path, "small", model=model_of("small", name="there", weights=weights)),
    ]
    expected = (
        f"--runs: {runs[0].name} (here) and {runs[1].name} (there) are of one model under two "
        "names: the sha256 of their weights is the same. Leave one name out."
    )
    assert refusal(*runs) == expected
    assert refusal(*runs, captured(tmp_path, "medium")) == expected
    # Of another stage too: there it would be a model that has no partner.
    trainings = [trained(tmp_path, name) for name in ("medium", "large")]
    trainings.append(trained(tmp_path, "small", model=model_of("small", name="b", weights=weights)))
    captures = [runs[0], captured(tmp_path, "medium")]
    assert "are of one model under two names" in refusal(*captures, *trainings)


@pytest.mark.parametrize(
    ("first", "other", "expected"),
    [
        (
            lambda work: captured(work, "small", rule="zero"),
            lambda work: captured(work, "medium"),
            "the threshold rule of mlp_act is zero in",
        ),
        (
            lambda work: modular(work, "small", threshold="fixed:0.0"),
            lambda work: modular(work, "medium"),
            "the threshold rule of mlp_act is fixed:0.0 in",
        ),
        (
            lambda work: captured(work, "small", skip_first=4),
            lambda work: captured(work, "medium"),
            "--skip-first is 4 in",
        ),
        (
            lambda work: trained(work, "small", arch="standard"),
            lambda work: trained(work, "medium"),
            "--arch is standard in",
        ),
        (
            lambda work: modular(work, "small", louvain="networkx"),
            lambda work: modular(work, "medium"),
            "louvain is networkx in",
        ),
        (
            lambda work: modular(work, "small", nulls=5),
            lambda work: modular(work, "medium"),
            "--nulls is 5 in",
        ),
        (
            lambda work: gated(work, "small", keep=(0.5, 1.0)),
            lambda work: gated(work, "medium"),
            "--keep is 0.5, 1.0 in",
        ),
        (
            lambda work: gated(work, "small", settings={"max_tokens": 9}),
            lambda work: gated(work, "medium"),
            "--max-tokens is 9 in",
        ),
        (
            lambda work: gated(work, "small", resolved={"window": 128}),
            lambda work: gated(work, "medium"),
            "--window is 128 in",
        ),
        (
            lambda work: gated(work, "small", resolved={"stride": 8}),
            lambda work: gated(work, "medium"),
            "--stride is 8 in",
        ),
        *(
            (
                lambda work, changed=changed: gated(work, "small", settings=changed),
                lambda work: gated(work, "medium"),
                message,
            )
            for changed, message in (
                ({"seed": 1}, "--seed is 1 in"),
                ({"seeds": 5}, "--seeds is 5 in"),
                ({"calibration_tokens": 512}, "--calibration-tokens is 512 in"),
                ({"force_sparse_at_one": True}, "--force-sparse-at-one is True in"),
            )
        ),
        (
            lambda work: gated(work, "small", decided={"dtype": "bfloat16"}),
            lambda work: gated(work, "medium"),
            "dtype is bfloat16 in",
        ),
    ],
)
def test_other_rules_are_refused(tmp_path: Path, first: Make, other: Make, expected: str) -> None:
    message = refusal(first(tmp_path), other(tmp_path))
    assert expected in message and message.endswith("Make both by the same rule.")


def test_without_graphs_their_settings_do_not_matter(tmp_path: Path) -> None:
    runs = [modular(tmp_path, "small", louvain=None), modular(tmp_path, "medium", nulls=5)]
    check_comparable(sources(*runs))
    check_comparable(sources(*runs[::-1]))


def test_other_tasks_are_refused(tmp_path: Path) -> None:
    one, two = captured(tmp_path, "small"), captured(tmp_path, "medium", tasks=("qa", "code"))
    message = refusal(one, two)
    assert f"{two.name} (medium) has the task 'code', {one.name} (small) does not" in message
    measured = [modular(tmp_path, "small", one), modular(tmp_path, "medium", tasks=("qa",))]
    assert "(small) has the task 'math'" in refusal(*measured)


def test_other_documents_are_refused(tmp_path: Path) -> None:
    one, two = captured(tmp_path, "small"), captured(tmp_path, "medium", n_documents=8)
    message = refusal(one, two)
    assert "read 6 documents" in message and "(medium) 8; 6 are the same" in message
    # What was measured on them too.
    assert "6 are the same" in refusal(
        modular(tmp_path, "small", one), modular(tmp_path, "medium", two)
    )
    runs = trained(tmp_path, "small"), trained(tmp_path, "medium", n_documents=4)
    assert "read 6 documents" in refusal(*runs)


def test_documents_that_are_not_known_are_taken_on_trust(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    runs = [modular(tmp_path, "small"), modular(tmp_path, "medium", captured(tmp_path, "medium"))]
    with caplog.at_level(logging.WARNING, "sdlms"):
        check_comparable(sources(*runs))
    (record,) = caplog.records
    assert f"{runs[0].name} (small): the capture that it read is not beside it" in record.message


# Gated models


def test_gated_models_pass(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their documents are not listed: texts and settings are the same."""
    runs = [gated(tmp_path, name) for name in ("small", "medium", "large")]
    with caplog.at_level(logging.WARNING, "sdlms"):
        check_comparable(sources(*runs))
    assert not caplog.records


def test_the_order_of_the_fractions_does_not_matter(tmp_path: Path) -> None:
    runs = [gated(tmp_path, "small", keep=(1.0, 0.3)), gated(tmp_path, "medium", keep=(0.3, 1.0))]
    check_comparable(sources(*runs))


def test_other_rules_of_gating_are_refused_and_may_lie_in_several_runs(tmp_path: Path) -> None:
    both, one = gated(tmp_path, "small"), gated(tmp_path, "medium", rules=["input"])
    message = refusal(both, one)
    assert "and of input of mlp, input:0.3 of mlp, input:1.0 of mlp in medium" in message
    assert message.endswith("Name runs of the same sites and rules.")
    check_comparable(sources(both, one, gated(tmp_path, "medium", rules=["post-norm"])))
    message = refusal(both, gated(tmp_path, "small", rules=["input"]), one)
    assert "are both dynamic-k of small, input of mlp. Leave one out." in message


def test_quality_and_speed_may_be_measured_apart(tmp_path: Path) -> None:
    both = gated(tmp_path, "small")
    apart = [gated(tmp_path, "medium", measure=measure) for measure in ("quality", "speed")]
    check_comparable(sources(both, *apart))
    check_comparable(sources(*apart[::-1], both))
    check_comparable(sources(both, apart[0]))
    check_comparable(sources(apart[1], both))
    message = refusal(gated(tmp_path, "large", measure="speed"), apart[0])
    assert "dynamic-k measured nothing in" in message and "Make both by the same se" in message


def test_other_texts_are_refused(tmp_path: Path) -> None:
    one, other = gated(tmp_path, "small"), gated(tmp_path, "medium", texts="another")
    assert "read other texts of the task 'qa' (their sha256 differ)" in refusal(one, other)
    message = refusal(one, gated(tmp_path, "medium", tasks=("qa", "code")))
    assert "(medium) has the task 'code'" in message
    timed = gated(tmp_path, "medium", measure="speed", tasks=("qa", "code"))
    assert "(medium) has the task 'code'" in refusal(one, timed)
