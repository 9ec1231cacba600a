"""The logit-lens stage through the real command line, against plain transformers."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from sdlms.lens.tuned_files import CONFIG, DOCUMENTS, TRANSLATORS, read_documents, read_tuned
from sdlms.models.kernels.building import kernel
from sdlms.runs.reading import Run
from sdlms.storage.assets import asset_folder
from sdlms.storage.lens_file import LensReader
from tests.stages.lens_runs import EXACT, SMALL, Plain, plain_lens
from tests.stages.probe_runs import Cli, newest, outputs, table

PROMPTS = ["The red road and the blue river.", "Once there was a small dog", "Ann has 3 apples."]
MEASURED = ("entropy_nats", "kl_to_final_nats", "next_log_probability")


@pytest.fixture
def prompts(work: Path) -> Path:
    """Three documents."""
    path = work / "prompts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in PROMPTS))
    return path


def expected_means(plain: Sequence[Plain], place: int) -> dict[str, float]:
    """Means at one state over all tokens that have a next one."""
    found: dict[str, list[NDArray[np.generic]]] = {}
    for one in plain:
        top, held = one.top[:-1], {name: each[:-1] for name, each in one.held.items()}
        values = {
            "entropy_nats": held["entropy_nats"][:, place],
            "kl_to_final_nats": held["kl_to_final_nats"][:, place],
            "loss_nats": -held["next_log_probability"][:, place],
            "accuracy": top[:, place] == one.next_ids[:-1],
            "agreement": top[:, place] == top[:, -1],
            "decided_fraction": held["decided_at"] <= place - 1,
            "decided_at": held["decided_at"],
        }
        for name, each in values.items():
            found.setdefault(name, []).append(each)
    return {name: float(np.concatenate(each).mean()) for name, each in found.items()}


@pytest.mark.parametrize("model_type", ["gpt_neox", "gpt2", "llama"])
def test_every_number_is_that_of_a_plain_loop(
    cli: Cli,
    work: Path,
    prompts: Path,
    architecture_model: Callable[[str], Path],
    model_type: str,
) -> None:
    folder = architecture_model(model_type)
    words = ["--texts", prompts, "--target", " the, dog", "--top-k", 5]
    assert cli("logit-lens", "--model", folder, *words, *SMALL) == 0
    run = newest(work)
    assert set(outputs(run)) == {"lens.h5", "logit_lens.csv", "targets.csv"}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    targets = [tokenizer(text)["input_ids"][-1] for text in (" the", " dog")]
    with LensReader(run / "lens.h5") as reader:
        assert reader.states == (("resid_pre", 0), *[("resid_post", n) for n in range(4)])
        assert reader.targets == [(targets[0], " the"), (targets[1], " dog")]
        rows = reader.rows()
        assert rows.n_documents == len(PROMPTS)
        plain = []
        for document in range(rows.n_documents):
            first, last = (int(n) for n in rows.offsets[document : document + 2])
            ids = torch.from_numpy(rows.ids[first:last].astype(np.int64))
            plain.append(plain_lens(model, ids, 5, targets))
            held = {
                name: reader.read("logit", name, first, last)
                for name in (*MEASURED, "top_probabilities", "target_log_probability")
            }
            for name, values in held.items():
                np.testing.assert_allclose(values, plain[-1].held[name], atol=1e-5, err_msg=name)
            for name in ("next_rank", "target_rank", "decided_at"):
                found = reader.read("logit", name, first, last)
                np.testing.assert_array_equal(found, plain[-1].held[name], err_msg=name)
            assert reader.texts(rows.ids[first:last]) == [
                tokenizer.decode([token_id]) for token_id in ids
            ]
        rows_of_table = {
            (row["site"], row["layer"]): row for row in table(run, "logit_lens.csv")
            if row["task"] == "prompts"
        }  # fmt: skip
    for place, key in enumerate([("resid_pre", "0"), *[("resid_post", str(n)) for n in range(4)]]):
        row = rows_of_table[key]
        expected = expected_means(plain, place)
        decided = expected.pop("decided_at")
        for name, value in expected.items():
            assert float(row[name]) == pytest.approx(value, abs=1e-5), (key, name)
            low, high = float(row[f"{name}_low"]), float(row[f"{name}_high"])
            assert low - 1e-9 <= float(row[name]) <= high + 1e-9
        here = np.concatenate([one.top[:-1, place] for one in plain])
        following = np.concatenate([one.next_ids[:-1] for one in plain])
        final = np.concatenate([one.top[:-1, -1] for one in plain])
        for name, other in (("accuracy_chance", following), ("agreement_chance", final)):
            assert float(row[name]) == pytest.approx((here[:, None] == other).mean(), abs=1e-12)
        assert row["reason"] == "interval from 3 documents"
    whole = rows_of_table["model", ""]
    assert float(whole["decided_at"]) == pytest.approx(decided)
    assert float(whole["decided_depth"]) == pytest.approx((decided + 1) / 4)
    last = plain[0].held["target_log_probability"][-1]
    told = [
        float(row["log_probability_nats"])
        for row in table(run, "targets.csv")
        if row["document"] == rows.document_ids[0]
    ]
    assert told == pytest.approx(last.reshape(-1).tolist(), abs=1e-5)


def test_people_know_the_documents_of_targets_by_their_ends(
    cli: Cli, work: Path, prompts: Path, tiny_model: Path
) -> None:
    words = ["--model", tiny_model, "--texts", prompts, "--target", " the"]
    assert cli("logit-lens", *words, *SMALL) == 0
    with LensReader(newest(work) / "lens.h5") as reader:
        rows = reader.rows()
        texts = [
            "".join(reader.texts(ids))
            for ids in np.split(rows.ids, [int(n) for n in rows.offsets[1:-1]])
        ]
    assert sorted(texts) == sorted(PROMPTS)
    told = {
        (int(row["document_number"]), row["text_end"])
        for row in table(newest(work), "targets.csv")
        if row["document"] != "mean"
    }
    assert told == {(number, text[-20:]) for number, text in enumerate(texts)}


def test_the_default_call_holds_all_that_it_promises(
    cli: Cli, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli("logit-lens", "--max-tokens", 400, "--model", "sdlms-small") == 0
    out = capsys.readouterr().out
    run = newest(work)
    assert out.splitlines()[-1] == str(run.relative_to(work))
    assert set(outputs(run)) == {"lens.h5", "logit_lens.csv"}
    start = Run(run).start
    assert start["resolved"]["lenses"] == ["logit"]
    assert start["resolved"]["states"] == ["embedding", "block 0", "block 1", "block 2"]
    assert start["decided"]["unembed"] in ("float32", "bfloat16")
    assert start["decided"]["dtype"] in ("float32", "bfloat16")
    rows = table(run, "logit_lens.csv")
    assert list(dict.fromkeys(row["task"] for row in rows)) == [
        "python_code", "math", "qa", "prose", "dialogue", "reasoning", "all",
    ]  # fmt: skip
    final = [row for row in rows if (row["site"], row["layer"]) == ("resid_post", "2")]
    assert {(row["agreement"], row["decided_fraction"]) for row in final} == {("1.0", "1.0")}
    with LensReader(run / "lens.h5") as reader:
        assert reader.read("logit", "top_ids", 0, 1).shape == (1, 4, 10)
        documents, tokens = reader.rows().n_documents, reader.rows().n_tokens
    assert sum(task["n_measured"] for task in start["resolved"]["data"]) == documents
    assert Run(run).records[-1]["tokens"] == tokens
    assert cli("runs", "verify", "latest") == 0


def test_a_tuned_lens_is_trained_saved_and_read_again(cli: Cli, work: Path) -> None:
    demo = asset_folder("configs") / "logit-lens/demo.toml"
    small = ["--model", "sdlms-small", "--max-tokens", 400, "--tasks", "math,qa"]
    train = ["--tuned-steps", 8, "--tuned-tasks", "prose", "--tuned-tokens", 800]
    assert cli("logit-lens", "--config", demo, *small, *train, *EXACT) == 0
    run = newest(work)
    lens = {f"tuned_lens/{name}" for name in (CONFIG, DOCUMENTS, TRANSLATORS)}
    assert set(outputs(run)) == {"lens.h5", "logit_lens.csv", "targets.csv", *lens}
    rows = {
        (row["lens"], row["site"], row["layer"]): float(row["kl_to_final_nats"])
        for row in table(run, "logit_lens.csv")
        if row["task"] == "all" and row["site"] != "model"
    }
    places = [("resid_pre", "0"), ("resid_post", "0"), ("resid_post", "1")]
    assert all(rows["tuned", *place] < rows["logit", *place] for place in places)
    assert rows["tuned", "resid_post", "2"] == rows["logit", "resid_post", "2"] == 0
    with LensReader(run / "lens.h5") as reader:
        first, second = (reader.read(lens, "top_ids", 0, 9) for lens in ("logit", "tuned"))
        np.testing.assert_array_equal(first[:, -1], second[:, -1])
        assert (first != second).any()
    words = ["--tuned-lens", run.name, *small, "--target", " the", *EXACT]
    assert cli("logit-lens", *words) == 0
    again = newest(work)
    assert outputs(again)["lens.h5"] == outputs(run)["lens.h5"]
    assert outputs(again)["logit_lens.csv"] == outputs(run)["logit_lens.csv"]
    assert [record["run"] for record in Run(again).all_of("input")] == [run.name]
    record = Run(run).start["resolved"]["model"]
    tuned = read_tuned(run / "tuned_lens", record, 48)
    assert tuned.n_layers == 3


def test_what_is_measured_is_not_trained_on(
    cli: Cli, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", "sdlms-small", "--tasks", "math", "--tuned", "--tuned-steps", 1]
    words = ["--tuned-tasks", "math", "--max-tokens", 400, "--tuned-tokens", 800]
    assert cli("logit-lens", *common, *words, "--dtype", "float32", "--threads", 1) == 0
    start = Run(newest(work)).start["resolved"]
    measured = start["data"][0]["n_measured"]
    assert start["tuned_text"]["n_measured"] == measured > 0
    assert f"--tuned: {measured} documents are measured too" in capsys.readouterr().err
    with LensReader(newest(work) / "lens.h5") as reader:
        assert reader.rows().n_documents == measured
        ids = set(reader.rows().document_ids)
    trained = read_documents(newest(work) / "tuned_lens")
    assert trained is not None and len(trained) == start["tuned_text"]["n_documents"]
    assert not ids & trained


def test_a_lens_is_doubted_on_the_text_it_was_trained_on(
    cli: Cli, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--model", "sdlms-small", *SMALL]
    words = ["--tuned-steps", 1, "--tuned-tasks", "math", "--tuned-tokens", 400]
    assert cli("logit-lens", *common, "--tasks", "qa", "--tuned", *words) == 0
    trained = read_documents(newest(work) / "tuned_lens") or frozenset()
    assert cli("logit-lens", *common, "--tasks", "qa") == 0  # the latest, but not of a lens
    for tasks, is_doubted in (("math", True), ("prose", False)):
        capsys.readouterr()
        assert cli("logit-lens", *common, "--tasks", tasks, "--tuned-lens", "latest") == 0
        said = "documents are what it was trained on" in capsys.readouterr().err
        with LensReader(newest(work) / "lens.h5") as reader:
            n_known = len(trained.intersection(reader.rows().document_ids))
        (event,) = Run(newest(work)).all_of("tuned_lens_overlap")
        assert event["count"] == n_known and said == is_doubted == (n_known > 0)


def test_skipped_positions_are_measured_and_not_averaged(cli: Cli, work: Path) -> None:
    words = ["--model", "sdlms-small", "--tasks", "math,qa", *SMALL]
    held, tables = [], []
    for n_skipped in (0, 3):
        assert cli("logit-lens", *words, "--skip-first", n_skipped) == 0
        with LensReader(newest(work) / "lens.h5") as reader:
            rows = reader.rows()
            held.append({n: reader.read("logit", n, 0, rows.n_tokens) for n in MEASURED})
        tables.append(table(newest(work), "logit_lens.csv"))
    for name in MEASURED:
        np.testing.assert_array_equal(held[0][name], held[1][name])
    places = np.arange(rows.n_tokens) - np.repeat(rows.offsets[:-1], rows.lengths)
    assert (rows.mask[places < 3] == 0).all() and rows.mask[places >= 3].all()
    read = np.flatnonzero((places >= 3) & np.append(places[1:] > 0, False))
    row = next(r for r in tables[1] if (r["task"], r["site"]) == ("all", "resid_pre"))
    assert int(row["n_tokens"]) == len(read)
    whole = next(r for r in tables[0] if (r["task"], r["site"]) == ("all", "resid_pre"))
    assert int(whole["n_tokens"]) == rows.n_tokens - rows.n_documents
    expected = held[1]["entropy_nats"][read, 0].mean(dtype=np.float64)
    assert float(row["entropy_nats"]) == pytest.approx(expected)


def test_batches_change_nothing_beyond_rounding(cli: Cli, work: Path) -> None:
    held = []
    for budget in (1, 700):
        words = ["--model", "sdlms-small", "--batch-tokens", budget, "--layers", "0,1", "--mid"]
        words += ["--tasks", "math,qa"]
        assert cli("logit-lens", *words, *SMALL) == 0
        with LensReader(newest(work) / "lens.h5") as reader:
            n_tokens = reader.rows().n_tokens
            held.append([reader.read("logit", name, 0, n_tokens) for name in MEASURED])
            sites = [site for site, _ in reader.states]
            assert sites == ["resid_pre", *["resid_mid", "resid_post"] * 2, "resid_post"]
    for one, other in zip(*held, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-5)


def test_more_tokens_than_the_vocabulary_are_all_of_them(
    cli: Cli, work: Path, prompts: Path, tiny_model: Path
) -> None:
    words = ["--model", tiny_model, "--texts", prompts, "--top-k", 5000]
    assert cli("logit-lens", *words, *SMALL) == 0
    with LensReader(newest(work) / "lens.h5") as reader:
        probabilities = reader.read("logit", "top_probabilities", 0, 2)
    assert probabilities.shape == (2, 5, 3072)
    np.testing.assert_allclose(probabilities.sum(-1), 1, atol=1e-5)


def test_documents_of_one_token_have_a_row_and_no_statistics(
    cli: Cli, work: Path, tiny_model: Path
) -> None:
    (work / "one.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
    assert cli("logit-lens", "--model", tiny_model, "--texts", "one.jsonl",
               "--target", " the", *SMALL) == 0  # fmt: skip
    rows = table(newest(work), "logit_lens.csv")
    assert {(row["n_documents"], row["n_tokens"]) for row in rows} == {("0", "0")}
    assert {row["reason"] for row in rows} == {"no position to read"}
    assert {row["accuracy"] for row in rows if row["site"] != "model"} == {"nan"}
    assert {row["accuracy_chance"] for row in rows if row["site"] != "model"} == {"nan"}
    means = [r for r in table(newest(work), "targets.csv") if r["document"] == "mean"]
    assert all(0 < float(row["probability"]) < 1 for row in means)


def test_what_surrounds_a_product_in_bfloat16_is_recorded(
    cli: Cli,
    work: Path,
    prompts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CC", "/bin/false")
    monkeypatch.setenv("SDLMS_CACHE", str(work / "cache"))
    kernel.cache_clear()
    small = ["--texts", prompts, "--unembed", "bfloat16", "--device", "cpu"]
    assert cli("logit-lens", *small) == 0
    assert "no compiled kernel, torch instead: /bin/false failed" in capsys.readouterr().err
    decided = Run(newest(work)).start["decided"]
    assert (decided["unembed"], decided["backend"]) == ("bfloat16", "torch")
    assert "/bin/false" in decided["backend_reason"]
