"""What capturing costs on a GPU, to disk and without: pythia-1.4b's shape, bfloat16, three layers.

    python -m benchmarks.gpu_capture                         a CUDA device, full size
    python -m benchmarks.gpu_capture --device cpu --smoke    does it still work?

Needs what `pip install -e .` gives, and 22 GB of disk where TMPDIR lies. Prints a markdown table
and one JSON line.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks.timing import Report, Rounds, Work, alternate, quotients, set_environment, spread

set_environment()

import torch  # noqa: E402
from transformers import AutoModel, PreTrainedModel  # noqa: E402

from benchmarks.stage import Bench, check_outputs  # noqa: E402
from benchmarks.workload import (  # noqa: E402
    Size,
    header,
    make_rows,
    mixed_lengths,
    neox_config,
    padded_tokens,
    run_stopped,
)
from sdlms.errors import UserError  # noqa: E402
from sdlms.models.batching import DEFAULT_BUDGET  # noqa: E402
from sdlms.models.device import describe, device_of, set_threads  # noqa: E402
from sdlms.models.layers import DEFAULT_LAYERS, layers_of  # noqa: E402
from sdlms.storage.activations import predicted_bytes  # noqa: E402

FULL = Size("full", 400_000, 3, 2048, 16, 50_304, n_layers=24)
SMOKE = Size("smoke", 3_000, 2, 64, 2, 8_192, n_layers=4)
CHUNK_BYTES = 64 << 20

BARE, CAPTURE, STREAM, DISK = "bare forward", "capture", "statistics only", "plain write, synced"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, cpu")
    parser.add_argument("--smoke", action="store_true", help="a tiny model and few tokens")
    parser.add_argument(
        "--tokens", type=int, help=f"of all documents; {FULL.tokens:,} if not given"
    )
    chosen = parser.parse_args()
    size = SMOKE if chosen.smoke else FULL
    size = size.with_rounds(int(os.environ.get("SDLMS_BENCH_ROUNDS", size.rounds)))
    try:
        device = device_of(chosen.device)
    except UserError as error:
        sys.exit(f"{error}")
    with TemporaryDirectory(prefix="sdlms-bench-") as folder:
        bench = make_bench(size, chosen.tokens or size.tokens, device, Path(folder))
        check_disk(bench)
        rounds = measure(bench, size)
        print(table(bench, rounds))
        print(json.dumps(report_of(bench, rounds).record(size.name)))


def make_bench(size: Size, n_tokens: int, device: torch.device, folder: Path) -> Bench:
    """Random weights, built on the device, and documents of 20 to 500 random tokens."""
    set_threads(0)
    torch.manual_seed(0)
    config = neox_config(size)
    with device:
        model: PreTrainedModel = AutoModel.from_config(config, dtype=torch.bfloat16)
    model.requires_grad_(False).eval()
    what = header(config.intermediate_size, layers_of(DEFAULT_LAYERS, size.n_layers))
    rows = make_rows(mixed_lengths(n_tokens), size.d_vocab)
    return Bench(model, rows, what, folder, DEFAULT_BUDGET[device.type])


def check_disk(bench: Bench) -> None:
    """Leave when the activations do not fit."""
    needed, free = 1.1 * stored_bytes(bench), shutil.disk_usage(bench.artifacts).free
    if needed > free:
        sys.exit(
            f"{bench.artifacts}: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free. "
            "Set TMPDIR to a larger disk or lower --tokens."
        )


def stored_bytes(bench: Bench) -> int:
    """Bytes of the activations in `activations.h5`."""
    return predicted_bytes(bench.header, bench.rows.n_tokens)


def measure(bench: Bench, size: Size) -> Rounds:
    """Check on few documents that all agree, warm up, then take turns."""
    few = make_rows(mixed_lengths(2_000), size.d_vocab)
    warm = Bench(bench.model, few, bench.header, bench.artifacts, bench.budget)
    for side in _sides(warm).values():
        side()
    check_outputs(warm)
    _tidy(warm)
    sides = _sides(bench)
    sides[BARE]()  # the batches' own shapes
    return alternate(sides, size.rounds, partial(_tidy, bench))


def _sides(bench: Bench) -> dict[str, Work]:
    """The same batches with nothing kept, stored, or measured only; and the disk by itself."""
    device, batches = bench.model.device, bench.batches
    deepest, n_bytes = bench.header.layers[-1], stored_bytes(bench)
    chunk = os.urandom(min(CHUNK_BYTES, n_bytes))
    sides: dict[str, Work] = {
        BARE: lambda: run_stopped(bench.model, bench.rows, batches, deepest),
        CAPTURE: bench.save,
        STREAM: bench.stream,
        DISK: lambda: write_plainly(_plain_file(bench), chunk, n_bytes),
    }
    return {name: partial(finished, side, device) for name, side in sides.items()}


def finished(side: Work, device: torch.device) -> Mapping[str, float] | None:
    """Run one side until the device has done all of it."""
    synchronize: Callable[[], None] = (
        partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    )
    synchronize()
    parts = side()
    synchronize()
    return parts


def write_plainly(path: Path, chunk: bytes, n_bytes: int) -> None:
    """Write so many bytes one after another into a new file, and sync it."""
    with path.open("wb", buffering=0) as file:
        while n_bytes:
            n_bytes -= file.write(memoryview(chunk)[:n_bytes])
        os.fsync(file.fileno())


def _plain_file(bench: Bench) -> Path:
    """Where the plain write goes: beside the runs."""
    return bench.artifacts / "plain"


def _tidy(bench: Bench) -> None:
    """Remove what a side wrote, so that the next one finds an idle disk."""
    bench.tidy()
    _plain_file(bench).unlink(missing_ok=True)
    os.sync()


def seconds_of(rounds: Rounds) -> dict[str, list[float]]:
    """Wall seconds of each row of the table, by round."""
    saved, streamed = rounds.parts[CAPTURE], rounds.parts[STREAM]
    sample = streamed["threshold_sample"]
    whole = rounds.wall[STREAM]
    return {
        BARE: rounds.wall[BARE],
        "capture, until published": rounds.wall[CAPTURE],
        "its forward with writing": saved["forward"],
        "statistics only, sample apart": [a - b for a, b in zip(whole, sample, strict=True)],
        "its forward with statistics": streamed["forward"],
        "threshold sample": sample,
        DISK: rounds.wall[DISK],
    }


def table(bench: Bench, rounds: Rounds) -> str:
    """Markdown: median (smallest .. largest) of seconds and of the shares, round by round."""
    seconds = seconds_of(rounds)
    lines = [
        "| what | seconds | real tokens/s | of the bare forward | of the disk's bandwidth |",
        "|---|---|---|---|---|",
    ]
    for name, values in seconds.items():
        runs = name not in (DISK, "threshold sample")
        rate = f"{bench.rows.n_tokens / statistics.median(values):,.0f}" if runs else ""
        speed = _cell(quotients(seconds[BARE], values)) if runs else ""
        writes = name in ("capture, until published", "its forward with writing", DISK)
        share = _cell(quotients(seconds[DISK], values)) if writes else ""
        lines.append(f"| {name} | {_cell(values)} | {rate} | {speed} | {share} |")
    bandwidth = stored_bytes(bench) / statistics.median(seconds[DISK])
    return "\n".join([*lines, "", f"The disk takes {bandwidth / 1e9:.2f} GB/s.", ""])


def _cell(values: list[float]) -> str:
    """Median (smallest .. largest)."""
    found = spread(values)
    return f"{found['median']:.3f} ({found['min']:.3f} .. {found['max']:.3f})"


def report_of(bench: Bench, rounds: Rounds) -> Report:
    """Everything, with what identifies the work."""
    report = Report("gpu_capture", facts=_facts(bench))
    report.add_rounds(rounds)
    seconds = seconds_of(rounds)
    for name in list(seconds)[1:5]:
        report.add_ratio(f"{name}: share of bare speed", seconds[BARE], seconds[name])
    for name in list(seconds)[1:3]:
        report.add_ratio(f"{name}: share of disk", seconds[DISK], seconds[name])
    return report


def _facts(bench: Bench) -> dict[str, Any]:
    """Device, sizes, and where the files were."""
    rows, device = bench.rows, bench.model.device
    partitions = psutil.disk_partitions(all=True)
    holding = [p for p in partitions if bench.artifacts.is_relative_to(p.mountpoint)]
    cuda = device.type == "cuda"
    return {
        "device": describe(device),
        "peak_device_bytes": torch.cuda.max_memory_allocated(device) if cuda else None,
        "parameters": bench.model.num_parameters(),
        "tokens": rows.n_tokens,
        "documents": rows.n_documents,
        "layers": bench.header.layers,
        "batch_tokens": bench.budget,
        "largest_batch_tokens": max(padded_tokens(rows, [batch]) for batch in bench.batches),
        "padded_tokens": padded_tokens(rows, bench.batches),
        "threads": torch.get_num_threads(),
        "stored_bytes": stored_bytes(bench),
        "file_system": max(holding, key=lambda p: len(p.mountpoint)).fstype if holding else None,
        "equal_to": "the recorded forward, bit by bit; counts of both ways equal",
    }


if __name__ == "__main__":
    main()
