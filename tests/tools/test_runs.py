"""`sdlms runs`: what it prints and the codes it exits with."""

import json
from pathlib import Path

import pytest

from sdlms.cli import main
from sdlms.runs.folder import make_writable
from sdlms.runs.meta import META
from sdlms.runs.reading import Run
from sdlms.runs.verifying import verify
from sdlms.runs.writing import RunOptions, RunWriter


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SDLMS_ARTIFACTS", str(tmp_path / "artifacts"))
    return tmp_path / "artifacts"


def make_run(artifacts: Path, *, reads: Run | None = None, fails: bool = False) -> Run:
    out = RunWriter("tiny", {"seed": 7, "word": "ä"}, RunOptions(artifacts=artifacts))
    try:
        with out:
            out.start({"model": {"name": "m"}}, {"dtype": "float32"})
            out.event("note", ids=["x" * 16] * 100)
            if reads is not None:
                out.input(reads)
            if fails:
                raise RuntimeError("no luck")
            (out.path / "table.csv").write_text("x\n1\n")
            out.output("table.csv", columns=["x"])
    except RuntimeError:
        assert fails
    return Run(out.path)


def sdlms(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["runs", *words])
    return left.value.code if isinstance(left.value.code, int) else -1


def test_nothing_to_list_says_how_to_begin(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sdlms("list") == 0
    artifacts.mkdir()
    assert sdlms("list") == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("Make one: sdlms capture") == 2


def test_list_names_every_run_with_its_status(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complete, failed = make_run(artifacts), make_run(artifacts, fails=True)
    broken = artifacts / "20261120_000000_broken"
    broken.mkdir()
    (broken / META).write_bytes(b"\xff\x00")
    odd = artifacts / "odd"
    odd.mkdir()
    (odd / META).write_text('{"event": "done", "seconds": "long"}\n')
    with RunWriter("tiny", {}, RunOptions(artifacts=artifacts)) as out:
        out.start({}, {})
        assert sdlms("list") == 0
        lines = capsys.readouterr().out.splitlines()
    status = {line.split()[0]: line.split()[1] for line in lines}
    assert status[complete.name] == "complete"
    assert status[failed.name] == "failed"
    assert status[broken.name] == "broken"
    assert list(status.values()).count("writing") == 1
    assert len(lines) == 5


def test_show_says_where_it_came_from_and_what_it_holds(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make_run(artifacts)
    run = make_run(artifacts, reads=first)
    assert sdlms("show") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{run.path}  (complete)\n")
    for part in ("  seed: 7", '  word: "ä"', '  dtype: "float32"', "version: ", "host: ", "git"):
        assert part in shown
    assert first.name in shown
    assert "output: table.csv  4 B  sha256 " in shown
    assert "columns x" in shown
    assert max(len(line) for line in shown.splitlines()) <= 200


def test_show_json_is_the_meta_file(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(artifacts)
    assert sdlms("show", run.name, "--json") == 0
    assert capsys.readouterr().out.encode() == (run.path / META).read_bytes()


def test_an_unfinished_run_is_shown_with_its_error(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(artifacts, fails=True)
    for reference in (run.name, str(run.path)):
        assert sdlms("show", reference) == 0
        shown = capsys.readouterr().out
        assert "(failed)" in shown
        assert "RuntimeError: no luck" in shown
    assert sdlms("show", run.name, "--json") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert json.loads(last)["error"] == "RuntimeError: no luck"


@pytest.mark.parametrize(
    "content", [b"", b"\xff", b'{"event": "output"}\n', b'{"event": "start", "config": 3}\n']
)
def test_a_damaged_run_is_shown_as_far_as_it_goes(
    artifacts: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    folder = artifacts / "20261120_000000_x"
    folder.mkdir(parents=True)
    (folder / META).write_bytes(content)
    assert sdlms("show", folder.name) == 0
    assert "(broken)" in capsys.readouterr().out


def test_a_folder_that_is_no_run_is_not_shown(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sdlms("show", str(artifacts.parent)) == 2
    assert "holds no meta.jsonl" in capsys.readouterr().err


def test_an_unknown_name_is_one_line(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(artifacts)
    for command in ("show", "verify", "remove"):
        assert sdlms(command, f"{run.name}x") == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert f"Did you mean '{run.name}'?" in printed


def test_verify_passes_what_is_unchanged(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(artifacts)
    assert sdlms("verify") == 0
    assert sdlms("verify", "latest") == 0
    assert sdlms("verify", str(run.path)) == 0
    assert capsys.readouterr().out == f"{run.name}: verified; outputs unchanged: 1\n" * 3


@pytest.mark.parametrize("name", ["table.csv", META])
@pytest.mark.parametrize("how", ["flipped", "missing"])
def test_verify_exits_3_and_names_the_file(
    artifacts: Path, capsys: pytest.CaptureFixture[str], name: str, how: str
) -> None:
    run = make_run(artifacts)
    make_writable(run.path)
    content = (run.path / name).read_bytes()
    if how == "flipped":
        (run.path / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
        assert sdlms("verify", "latest") == 3
    else:
        (run.path / name).unlink()
    assert sdlms("verify", run.name) == 3
    assert f"{run.name}: {name}: " in capsys.readouterr().out


def test_verify_exits_3_for_an_added_file_and_for_an_unfinished_run(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, failed = make_run(artifacts), make_run(artifacts, fails=True)
    make_writable(run.path)
    (run.path / ".extra").touch()
    assert sdlms("verify", run.name) == 3
    assert ".extra: added" in capsys.readouterr().out
    assert sdlms("verify", failed.name) == 3
    assert "not published (failed)" in capsys.readouterr().out


def test_remove_takes_several_and_says_which(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = make_run(artifacts)
    second, failed = make_run(artifacts, reads=first), make_run(artifacts, fails=True)
    assert sdlms("remove", first.name, str(second.path), failed.name) == 0
    assert set(capsys.readouterr().out.splitlines()) == {
        f"removed {run.name}" for run in (first, second, failed)
    }
    assert list(artifacts.iterdir()) == []


def test_all_are_checked_before_the_first_is_removed(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, first = make_run(artifacts), make_run(artifacts)
    make_run(artifacts, reads=first)
    assert sdlms("remove", other.name, first.name) == 2
    assert sdlms("remove", other.name, "absent") == 2
    assert verify(other) == verify(first) == []
    assert "is an input of" in capsys.readouterr().err


def test_remove_refuses_a_run_that_is_being_written(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunWriter("tiny", {}, RunOptions(artifacts=artifacts)) as out:
        out.start({}, {})
        assert sdlms("remove", Run(out.path).name) == 2
    assert "is being written" in capsys.readouterr().err
    assert verify(Run(out.path)) == []
