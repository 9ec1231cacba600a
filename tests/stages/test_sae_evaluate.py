"""`sdlms sae-evaluate` through the real command line: anybody's SAE, by the table of sae-train."""

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import Tensor

from sdlms.runs.reading import Run, list_runs
from sdlms.sae import measuring
from sdlms.sae.dictionary import Dictionary, config_of
from sdlms.sae.measuring import BASELINES, COLUMNS, CROSS_ENTROPY, MEASURED, STABILITY, TRAINING
from sdlms.storage.sae_files import write_sae
from tests.acts.samples import SITE, Sample, rows_with
from tests.stages.probe_runs import Cli, newest, noise, outputs, published, table
from tests.stages.sae_runs import (
    OTHER,
    SELECTED,
    WIDTH,
    of_member,
    random_dictionary,
    sae_trained,
    write_dictionary,
)
from tests.stages.sae_train_runs import (
    QUIET,
    by_split,
    captured,
    fvu_and_l0,
    planted,
    rows_of,
    sparse_data,
)
from tests.storage.sparsify_folders import write_sparsify

Streams = pytest.CaptureFixture[str]
D_IN = 8
NO_CE = ["--ce-tokens", 0, *QUIET]
TRAINED = ["--arch", "topk", "--width", 32, "--batch-size", 64, "--tokens", 1280]


def evaluated(cli: Cli, work: Path, *words: object) -> Path:
    """A new run."""
    assert cli("sae-evaluate", *words) == 0
    run = Run(newest(work))
    assert run.stage == "sae-evaluate"
    return run.path


def saes(work: Path) -> list[Run]:
    """Every run of the stage, unfinished ones too."""
    runs = list_runs(work / "artifacts", partial=True)
    return [run for run in runs if run.stage == "sae-evaluate"]


def by_name(run: Path) -> dict[str, dict[str, str]]:
    return {row["member"]: row for row in table(run, "sae.csv")}


def lens_folder(folder: Path, rows: Tensor, normalization: str = "none") -> Path:
    """A few steps of sae-lens' own training, saved by itself."""
    from sae_lens import LoggingConfig, SAETrainer, StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import SAETrainerConfig

    config = StandardTrainingSAEConfig(
        d_in=rows.shape[1],
        d_sae=24,
        l1_coefficient=0.1,
        l1_warm_up_steps=2,
        normalize_activations=normalization,
    )
    config.metadata.model_name = "someone/Tiny"
    config.metadata.hook_name = "blocks.3.hook_resid_post"
    trainer = SAETrainerConfig(
        total_training_samples=20 * 32,
        train_batch_size_samples=32,
        lr=1e-2,
        lr_end=1e-3,
        lr_warm_up_steps=0,
        lr_decay_steps=2,
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        device="cpu",
        autocast=False,
        logger=LoggingConfig(log_to_wandb=False),
    )
    torch.manual_seed(0)
    order = [torch.randperm(len(rows))[:32] for _ in range(40)]
    batches = (rows[chosen] for chosen in order)
    SAETrainer(trainer, StandardTrainingSAE(config), batches).fit().save_inference_model(folder)
    return folder


def named_folder(folder: Path, hook: str = "", seed: int = 0, **changes: Any) -> Path:
    """A random SAE whose metadata name a place."""
    dictionary = Dictionary(
        architecture="standard", tensors=random_dictionary(seed, D_IN).tensors, **changes
    )
    arrays = {name: tensor.numpy() for name, tensor in dictionary.tensors.items()}
    write_sae(folder, arrays, config_of(dictionary, {"hook_name": hook} if hook else {}))
    return folder


# The members of a run


def test_the_members_of_a_run_give_the_numbers_of_its_own_table(
    cli: Cli, work: Path, tiny_model: Path
) -> None:
    capture = captured(cli, work, tiny_model, "--layers", "1,2", "--site", SITE)
    words = [*TRAINED, "--k", "2,4", "--seed", 3]
    assert cli("sae-train", "--acts", "latest", *words, "--ce-tokens", 120, *QUIET) == 0
    train = Run(newest(work))
    run = evaluated(cli, work, "--seed", 3, "--ce-tokens", 120, *QUIET)
    theirs, ours = table(train.path, "sae.csv"), table(run, "sae.csv")
    assert list(ours[0]) == list(COLUMNS) and len(ours) == len(theirs) == 8
    for one, other in zip(theirs, ours, strict=True):
        assert other["selected"] == "0"
        for name in ("site", "layer", "member", "architecture", *TRAINING, "reason"):
            assert one[name] == other[name], name
        for name in (*MEASURED, *BASELINES, *STABILITY, *CROSS_ENTROPY):
            expected = pytest.approx(float(one[name]), rel=1e-6, nan_ok=True)
            assert float(other[name]) == expected, name
        assert math.isfinite(float(other["stability"]))
        assert math.isfinite(float(other["ce_sae"]))
    both = [(path / "documents.csv").read_bytes() for path in (train.path, run)]
    assert both[0] == both[1]
    inputs = [record["run"] for record in Run(run).all_of("input")]
    assert inputs == [train.name, capture.name]
    assert cli("runs", "verify", run.name) == 0
    again = evaluated(cli, work, "--seed", 3, "--ce-tokens", 120, *QUIET)
    assert outputs(run) == outputs(again)
    alone = evaluated(cli, work, "--seed", 3, "--member", "k_4_seed4", "--layers", 2, *NO_CE)
    (row,) = table(alone, "sae.csv")
    (same,) = (row for row in ours if (row["layer"], row["member"]) == ("2", "k_4_seed4"))
    assert [row[name] for name in MEASURED] == [same[name] for name in MEASURED]
    assert "no second seed" in row["reason"] and "cross-entropy was left out" in row["reason"]


def test_what_was_given_up_early_is_left_out(cli: Cli, work: Path) -> None:
    planted(work)
    words = [*TRAINED[2:], "--l1", "0.1,0.3,1,3", "--seeds", 1, "--screen", "--acts", "latest"]
    assert cli("sae-train", *words, *NO_CE) == 0
    rows = table(newest(work), "sae.csv")
    screened = {(row["layer"], row["member"]) for row in rows if row["screened"] == "1"}
    assert screened
    found = table(evaluated(cli, work, *NO_CE), "sae.csv")
    everything = {(row["layer"], row["member"]) for row in rows}
    assert {(row["layer"], row["member"]) for row in found} == everything - screened


# Those of others


def test_what_sae_lens_and_sparsify_wrote_stand_in_one_table(cli: Cli, work: Path) -> None:
    data = sparse_data()
    capture = planted(work, data)
    layers = [
        lens_folder(work / "mine", data.acts[3]),
        lens_folder(work / "normal" / "mine", data.acts[3], "layer_norm"),
    ]
    write_sparsify(work / "coder", D_IN, 40, 5)
    names = ",".join(map(str, [*layers, "coder"]))
    run = evaluated(cli, work, "--sae", names, "--layers", 3, *NO_CE)
    rows = by_name(run)
    assert list(rows) == ["mine", "mine_2", "coder"]
    for row in rows.values():
        assert (row["site"], row["layer"], row["d_in"]) == (SITE, "3", str(D_IN))
        assert [row[name] for name in ("seed", "steps", "best_step", "ended")] == [""] * 4
        assert (row["selected"], row["screened"]) == ("0", "0")
    assert [row["architecture"] for row in rows.values()] == ["standard", "standard", "topk"]
    assert [row["coefficient"] for row in rows.values()] == ["", "", "5.0"]
    assert float(rows["coder"]["expansion"]) == 40 / D_IN
    roles = by_split(run)
    measured, training = (
        rows_of(capture, SITE, roles[split])[1].acts[1] for split in ("measured", "train")
    )
    for folder, row in zip(layers, (rows["mine"], rows["mine_2"]), strict=True):
        fvu, l0 = fvu_and_l0(folder, measured, training)
        assert float(row["fvu"]) == pytest.approx(fvu, rel=1e-5)
        assert float(row["l0"]) == pytest.approx(l0, rel=1e-6)
        assert int(row["n_tokens"]) == len(measured)
    assert float(rows["coder"]["l0"]) <= 5
    with h5py.File(run / "latents.h5", "r") as file:
        assert file.attrs["sae"] == ", ".join(map(str, [*layers, "coder"]))
        counts = file[f"/{SITE}/layer_3/coder/firing_count"][:]
    assert counts.sum() == round(float(rows["coder"]["l0"]) * len(measured))


def test_the_layer_comes_from_the_file_where_the_user_gives_none(
    cli: Cli, work: Path, capsys: Streams
) -> None:
    planted(work)
    named_folder(work / "one", "blocks.1.hook_resid_post")
    named_folder(work / "three", "blocks.3.hook_resid_post", 1)
    run = evaluated(cli, work, "--sae", "three,one", *NO_CE)
    rows = table(run, "sae.csv")
    assert [(row["layer"], row["member"]) for row in rows] == [("1", "one"), ("3", "three")]
    assert capsys.readouterr().err == ""
    other = evaluated(cli, work, "--sae", "three", "--layers", 1, *NO_CE)
    assert table(other, "sae.csv")[0]["layer"] == "1"
    message = "says that it is for blocks.3.hook_resid_post; it is measured on blocks.1.hook_resid"
    assert message in capsys.readouterr().err


def test_another_model_is_a_warning(cli: Cli, work: Path, capsys: Streams) -> None:
    planted(work)
    dictionary = random_dictionary(0, D_IN)
    arrays = {name: tensor.numpy() for name, tensor in dictionary.tensors.items()}
    for name in ("someone/TINY", "gpt2-small"):
        metadata = {"hook_name": "blocks.1.hook_resid_post", "model_name": name}
        write_sae(work / "mine", arrays, config_of(dictionary, metadata))
        evaluated(cli, work, "--sae", "mine", *NO_CE)
        warned = "mine of mine says that its model is gpt2-small; the activations: tiny"
        assert (warned in capsys.readouterr().err) == (name == "gpt2-small")


def test_tokens_are_normalized_as_the_file_says_in_cross_entropy_too(
    cli: Cli, work: Path, tiny_model: Path
) -> None:
    """An identity stays one, however tokens are normalized on the way in and back."""
    captured(cli, work, tiny_model, "--layers", 1, "--site", SITE)
    identity = torch.eye(24)
    tensors = {
        "W_enc": torch.cat([identity, -identity], dim=1),
        "W_dec": torch.cat([identity, -identity]),
        "b_enc": torch.zeros(48),
        "b_dec": torch.zeros(24),
    }
    folders = []
    for normalization in ("none", "layer_norm", "constant_norm_rescale"):
        dictionary = Dictionary(
            architecture="standard",
            tensors=tensors,
            normalize_activations=normalization,  # type: ignore[arg-type]
        )
        folders.append(str(write_dictionary(work / normalization, dictionary)))
    run = evaluated(
        cli, work, "--sae", ",".join(folders), "--layers", 1, "--ce-tokens", 120, *QUIET
    )
    for row in table(run, "sae.csv"):
        assert float(row["fvu"]) == pytest.approx(0, abs=1e-6)
        assert float(row["ce_sae"]) == pytest.approx(float(row["ce_clean"]), abs=1e-3)
        assert float(row["ce_zero"]) != pytest.approx(float(row["ce_clean"]), abs=1e-2)


def test_what_the_hub_has_cached(
    cli: Cli, work: Path, capsys: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(work)
    repository, commit = work / "cache" / "models--someone--saes", "0" * 40
    write_sparsify(repository / "snapshots" / commit / "layers.3", D_IN, 32, 4)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(work / "cache"))
    words = ["--sae", "someone/saes/layers.3", "--revision", "main", "--layers", 3]
    run = evaluated(cli, work, *words, *NO_CE)
    assert list(by_name(run)) == ["layers.3"]
    (recorded,) = Run(run).start["resolved"]["saes"]
    assert recorded["sae"] == "someone/saes/layers.3"
    assert list(recorded["files"]) == ["cfg.json", "sae.safetensors"]
    capsys.readouterr()
    code = cli("sae-evaluate", "--sae", "someone/absent/layers.3", "--layers", 3, *NO_CE)
    message = "--sae someone/absent/layers.3: the hub cannot be reached"
    assert_refused(work, code, capsys.readouterr().err, message, 1)


def test_several_runs_and_folders_have_names_of_their_own(cli: Cli, work: Path) -> None:
    acts = planted(work, sparse_data(n_units=5))
    model = acts.start["resolved"]["model"]
    runs = [sae_trained(work, acts, model=model) for _ in range(2)]
    folder = write_dictionary(work / SELECTED, of_member(1, SELECTED))
    words = ["--sae", ",".join([runs[0].name, runs[1].name, str(folder)]), "--layers", 1]
    rows = table(evaluated(cli, work, *words, *NO_CE), "sae.csv")
    names = [SELECTED, OTHER, f"{SELECTED}_2", f"{OTHER}_2", f"{SELECTED}_3"]
    assert [row["member"] for row in rows] == names
    assert len({rows[i]["fvu"] for i in (0, 2, 4)}) == 1  # the same weights
    assert [row["coefficient"] for row in rows] == ["1.0", "3.0", "1.0", "3.0", ""]


# What is refused


def assert_refused(work: Path, code: int, err: str, message: str, n_runs: int = 0) -> None:
    """One line, exit code 2, and no further run."""
    assert code == 2, err
    assert err.startswith("sdlms: ") and err.count("\n") == 1
    assert message in err
    assert len(saes(work)) == n_runs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--sae", "none"], "no run 'none' under artifacts/."),
        (["--sae", "nowhere/mine"], "--sae nowhere/mine: the hub cannot be reached"),
        (["--sae", "./nowhere/mine"], "is no folder that exists, and no hub name"),
        (["--sae", ""], "--sae is empty."),
        (["--sae", "CAPTURE"], "is a 'capture' run; a 'sae-train' run is needed here."),
        (["--sae", "several"], "--sae several holds 2 SAEs, not one. Give one of: several/a, sev"),
        (["--sae", "mine"], "--sae mine is a single SAE: name its one layer by its index"),
        (["--sae", "mine", "--layers", "1,3"], "name its one layer by its index"),
        (["--sae", "mine", "--layers", "50%"], "name its one layer by its index"),
        (["--sae", "mine", "--layers", "2"], "mine has an SAE of layer 2, CAPTURE holds layers 1,"),
        (["--sae", "mine,mine", "--layers", "1"], "--sae names mine twice."),
        (["--sae", "mine", "--layers", "last"], "'last' is neither an index"),
        (["--sae", "mine", "--layers", "1", "--site", "middle"], "unknown site 'middle'"),
        (
            ["--sae", "mine", "--layers", "1", "--site", "mlp_out"],
            f"mine has SAEs of mlp_out, CAPTURE holds {SITE}. Capture that site",
        ),
        (["--sae", "mlp"], f"mlp has SAEs of mlp_out, CAPTURE holds {SITE}. Capture that site"),
        (["--sae", "mlp,resid"], "these are several: mlp of mlp_out, resid of resid_post."),
        (["--sae", "wide", "--layers", "1"], f"takes 6 units, the activations ({SITE}) have 8."),
        (["--sae", "mine", "--layers", "1", "--member", "x"], "--member x is of a sae-train run"),
        (["--sae", "mine", "--layers", "1", "--revision", "x"], "--revision x is for SAEs of the"),
        (["--sae", "mine", "--layers", "1", "--acts", "other"], "no run 'other' under artifacts/."),
        (["--sae", "broken", "--layers", "1"], "neither sae-lens' format"),
        (["--sae", "mine", "--layers", "1", "--ce-tokens", 9], "is gone. Restore it"),
        (["--sae", "mine", "--layers", "1", "--ce-tokens", 9], "--ce-tokens 0"),
        (["--eval-tokens", 0], "--eval-tokens must be >= 1, got 0."),
        (["--ce-tokens", -1], "--ce-tokens must be >= 0, got -1."),
    ],
)
def test_what_cannot_be_is_one_line(
    cli: Cli, work: Path, capsys: Streams, words: list[str], message: str
) -> None:
    capture = planted(work).name
    named_folder(work / "mine")
    named_folder(work / "resid", "blocks.1.hook_resid_post")
    named_folder(work / "mlp", "blocks.1.hook_mlp_out")
    write_dictionary(work / "wide", random_dictionary(0, 6))
    write_dictionary(work / "several" / "a", random_dictionary(0, D_IN))
    write_dictionary(work / "several" / "b", random_dictionary(0, D_IN))
    named_folder(work / "broken")
    (work / "broken" / "cfg.json").write_text("{}")
    words = [str(word).replace("CAPTURE", capture) for word in words]
    code = cli("sae-evaluate", *NO_CE, *words)  # of a flag given twice the last counts
    err = capsys.readouterr().err
    assert_refused(work, code, err, message.replace("CAPTURE", capture))


def test_without_runs_there_is_a_next_step(cli: Cli, work: Path, capsys: Streams) -> None:
    code = cli("sae-evaluate", *NO_CE)
    message = "no completed 'sae-train' run under artifacts/. Make one: sdlms sae-train"
    assert_refused(work, code, capsys.readouterr().err, message)
    named_folder(work / "mine")
    code = cli("sae-evaluate", "--sae", "mine", "--layers", 1, *NO_CE)
    message = "no completed 'capture' run under artifacts/. Make one: sdlms capture"
    assert_refused(work, code, capsys.readouterr().err, message)


def test_runs_that_do_not_belong_together(cli: Cli, work: Path, capsys: Streams) -> None:
    def refused(message: str, *words: object) -> None:
        code = cli("sae-evaluate", *words, *NO_CE)
        assert_refused(work, code, capsys.readouterr().err, message)

    acts = published(work, noise(12))
    alone = sae_trained(work, None)
    refused(f"{alone.name} was trained without a capture run: name one by --acts.")
    other = sae_trained(work, acts, model={"name": "other", "n_layers": 4})
    refused(f"{other.name} is of the model other, {acts.name} of tiny: their name differ")
    two = sae_trained(work, acts, sites=("mlp_act", SITE))
    refused(f"{two.name} has SAEs of mlp_act, {SITE}; choose one: --site mlp_act")
    deeper = sae_trained(work, acts, layers=(1, 2))
    refused(f"{deeper.name} has an SAE of layer 2, {acts.name} holds layers 1, 3.")
    refused(f"no member 'x' there, but {SELECTED}, {OTHER}.", "--member", "x", "--layers", 1)
    refused("layer 3 is not there; ", "--layers", 3)
    narrow = published(work, noise(4, n_units=4))
    refused("takes 5 units", "--acts", narrow.name, "--layers", 1)


def test_an_encoder_has_no_cross_entropy(
    cli: Cli, work: Path, capsys: Streams, architecture_model: Any
) -> None:
    captured(cli, work, architecture_model("bert"), "--layers", 1, "--site", SITE)
    write_dictionary(work / "mine", random_dictionary(0, 24))
    capsys.readouterr()
    words = ["--sae", "mine", "--layers", 1]
    code = cli("sae-evaluate", *words, *QUIET)
    err = capsys.readouterr().err
    assert_refused(work, code, err, "model_type 'bert' is an encoder")
    assert "Or leave cross-entropy out: --ce-tokens 0." in err
    evaluated(cli, work, *words, *NO_CE)


def test_under_another_seed_nothing_is_measured_that_was_learned_from(cli: Cli, work: Path) -> None:
    words = ["--layers", 1, "--k", "4", "--seeds", 1, "--seed", 0]
    captured(cli, work, "sdlms-small", "--layers", 1, "--site", SITE, "--max-tokens", 6000)
    assert cli("sae-train", "--acts", "latest", *TRAINED, *words, *NO_CE) == 0
    learned = ids_of(newest(work), "split", "train")
    run = evaluated(cli, work, "--seed", 1, *NO_CE)
    measured = ids_of(run, "measured", "1")
    assert measured and not measured & learned
    assert ids_of(run, "split", "validation") & learned  # which the split alone would have measured


def ids_of(run: Path, column: str, value: str) -> set[str]:
    return {row["document_id"] for row in table(run, "documents.csv") if row[column] == value}


def test_pooled_activations_are_refused(cli: Cli, work: Path, capsys: Streams) -> None:
    from sdlms.acts import load_acts
    from sdlms.runs.writing import RunOptions, RunWriter

    acts = planted(work)
    with RunWriter("capture", {}, RunOptions(artifacts=work / "artifacts")) as out:
        out.start(acts.start["resolved"], {})
        load_acts(acts).mean_pool().save(out.path / "activations.h5")
        out.output("activations.h5")
    named_folder(work / "mine")
    code = cli("sae-evaluate", "--sae", "mine", "--layers", 1, *NO_CE)
    err = capsys.readouterr().err
    assert_refused(work, code, err, "holds pooled activations; an SAE is measured on tokens.")


def test_no_number_is_one_line(cli: Cli, work: Path, capsys: Streams) -> None:
    data = sparse_data()
    data.acts[1][17, 2] = float("nan")
    planted(work, data)
    named_folder(work / "mine")
    for layer, code in ((1, 2), (3, 0)):
        assert cli("sae-evaluate", "--sae", "mine", "--layers", layer, *NO_CE) == code
    assert "layer 1, is NaN or infinite" in capsys.readouterr().err


def test_a_token_that_cannot_be_normalized_is_one_line(
    cli: Cli, work: Path, capsys: Streams
) -> None:
    data = sparse_data()
    data.acts[1][:] = torch.where(torch.arange(360)[:, None] % 12 == 3, 0.0, data.acts[1])
    planted(work, data)
    named_folder(work / "mine")
    named_folder(work / "scaled", normalize_activations="constant_norm_rescale")
    assert cli("sae-evaluate", "--sae", "mine,scaled", "--layers", 1, *NO_CE) == 2
    assert "sdlms: scaled, layer 1: a latent or a reconstruction is not" in capsys.readouterr().err


# Resuming


def test_an_interrupt_is_resumed_with_the_same_bytes(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted(work)
    named_folder(work / "one", "blocks.1.hook_resid_post")
    named_folder(work / "three", "blocks.3.hook_resid_post", 1)
    words = ["--sae", "one,three", *NO_CE]
    whole = evaluated(cli, work, *words)
    measure, calls = measuring.measure, []

    def interrupted(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*given)

    monkeypatch.setattr(measuring, "measure", interrupted)
    assert cli("sae-evaluate", *words) == 130
    resumed = evaluated(cli, work, *words, "--resume")
    assert Run(resumed).all_of("resume") and resumed != whole
    assert outputs(whole) == outputs(resumed)


def test_what_is_dead_or_silent_is_counted(cli: Cli, work: Path) -> None:
    """An SAE that never fires explains nothing, and says so by numbers, not by an error."""
    lengths = [6] * 12
    random = np.random.default_rng(0).normal(size=(72, 5)).astype(np.float32)
    planted(work, Sample({1: torch.from_numpy(random)}, rows_with(lengths)))
    dictionary = random_dictionary(0)
    dictionary.tensors["b_enc"] -= 1000
    write_dictionary(work / "silent", dictionary)
    run = evaluated(cli, work, "--sae", "silent", "--layers", 1, *NO_CE)
    (row,) = table(run, "sae.csv")
    assert (row["l0"], row["n_dead"], row["pca_components"]) == ("0.0", str(WIDTH), "0")
    assert float(row["fvu"]) == float(row["bias_only_fvu"])
