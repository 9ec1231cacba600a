"""The explorer: clicks in a real browser, filling the lens, added latency, memory and disk."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from benchmarks.explorer_server import ChildServer
from benchmarks.explorer_work import SHAPES, build_gpt2, converse, explorer_of, fill, text_of
from benchmarks.timing import Report, alternate
from benchmarks.workload import Size
from sdlms.explorer.loaded import load_for_exploring
from sdlms.explorer.questions import ChatRequest, Question
from sdlms.explorer.service import Explorer
from sdlms.models.loading import find_model
from sdlms.models.sampling import Sampling
from tests.explorer.browser import WIDE, Server, launched

Publish = Callable[[Report], None]
EMBEDDED, RANDOM = "sdlms-medium", "gpt2-shape"
N_TOKENS = {"full": 1_000, "smoke": 120}
N_CLICKS = {"full": 200, "smoke": 10}
N_NEW = {"full": 64, "smoke": 8}
N_CONVERSATIONS = {"full": 10, "smoke": 2}
# Clicks on a token, and gives the milliseconds until its panel is complete and painted.
CLICK = """
(position) => new Promise((done) => {
  const panel = document.getElementById("panel");
  const token = document.querySelector(`[data-testid="token-${position}"]`);
  const began = performance.now();
  const watch = new MutationObserver(() => look());
  const look = () => {
    const shown = document.querySelector("#panel-head .panel-facts strong")?.textContent;
    const isThere = shown?.replaceAll(",", "") === String(position);
    if (!isThere || panel.dataset.status !== "done") return;
    watch.disconnect();
    requestAnimationFrame(() => setTimeout(() => done(performance.now() - began)));
  };
  watch.observe(panel, { attributes: true, childList: true, subtree: true });
  token.click();
  look();
})
"""


@pytest.fixture(scope="session")
def gpt2_folder(size: Size, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of GPT-2's shape."""
    return build_gpt2(tmp_path_factory.mktemp("gpt2"), SHAPES[size.name])


@pytest.mark.parametrize("level", ["memory", "disk"])
@pytest.mark.parametrize("name", [EMBEDDED, RANDOM])
def test_clicks(
    name: str, level: str, size: Size, gpt2_folder: Path, tmp_path: Path, publish: Publish
) -> None:
    """From the click to the panel that shows all layers of 16 tokens, heat map and all."""
    model = str(gpt2_folder) if name == RANDOM else name
    words = ["--dtype", "float32", *(["--memory", "1kB"] if level == "disk" else [])]
    server = ChildServer(tmp_path, model, *words)
    server.start()
    try:
        conversation, n_tokens = _long_conversation(server, N_TOKENS[size.name])
        if level == "disk":
            server.stop()
            server.start()
        milliseconds = _clicks(server, conversation, n_tokens, N_CLICKS[size.name], level)
    finally:
        server.stop()
    report = Report(f"explorer: click to panel, {name}, from {level}", unit="ms")
    for quantile in (0.5, 0.95, 1.0):
        report.figures[f"quantile {quantile}"] = [float(np.quantile(milliseconds, quantile))]
    report.facts = {"clicks": len(milliseconds), "tokens": n_tokens, "target": "p95 < 100 ms"}
    publish(report)


def _long_conversation(server: Server, n_tokens: int) -> tuple[str, int]:
    """A conversation in which every row is filled."""
    found: dict[str, str] = {}
    for turn in range(1000):
        text = text_of(min(150, n_tokens // 2), turn)
        reply = server.say(text, max_new_tokens=8, temperature=1.0, seed=turn, **found)
        found = {"conversation_id": reply["conversation_id"]}
        whole = server.get(f"api/conversations/{reply['conversation_id']}")
        if len(whole["tokens"]) >= n_tokens:
            break
    while server.get("api/cache/status")["unfilled_tokens"]:
        time.sleep(0.2)
    return found["conversation_id"], len(whole["tokens"])


def _clicks(
    server: Server, conversation: str, n_tokens: int, n_clicks: int, level: str
) -> list[float]:
    """Random tokens, none next to another, so that few are prefetched."""
    found, n_right = [], 0
    with launched() as browser:
        page = browser.new_page(viewport=WIDE)
        page.goto(server.url + f"#conv={conversation}&view=heatmap")
        page.wait_for_selector(f'[data-testid="token-{n_tokens - 2}"]')
        positions = np.random.default_rng(0).permutation(np.arange(0, n_tokens - 1, 3))[:n_clicks]
        for position in positions.tolist():
            found.append(float(page.evaluate(CLICK, position)))
            n_right += level in page.locator('[data-testid="source"]').inner_text()
            page.wait_for_timeout(60)  # a person is no faster; prefetches end
    assert n_right > 0.9 * len(found), f"only {n_right} of {len(found)} came from {level}"
    return found


@pytest.mark.parametrize("name", [EMBEDDED, RANDOM])
def test_filling(
    name: str, size: Size, gpt2_folder: Path, tmp_path: Path, publish: Publish
) -> None:
    """All states of 100 tokens, from kept hidden states, by the worker."""
    model = str(gpt2_folder) if name == RANDOM else name
    seconds, n_filled = [], 0
    with explorer_of(model, tmp_path) as explorer:
        for number in range(size.rounds + 1):
            began = explorer.status()["unfilled_tokens"]
            assert not began
            sampling = Sampling(max_new_tokens=1)
            text = text_of(95, number)
            for event in explorer.chat(ChatRequest(text=text, sampling=sampling)):
                assert event["event"] != "error", event
            n_filled = len(event["tokens"]) + len(event["userTokens"])
            seconds.append(100 / n_filled * fill(explorer))
    report = Report(f"explorer: filling the lens of 100 tokens, {name}")
    report.figures["seconds"] = seconds[1:]
    report.facts = {"tokens": n_filled, "target": "< 2 s"}
    publish(report)


@pytest.mark.parametrize("name", [EMBEDDED, RANDOM])
def test_added_latency(
    name: str, size: Size, gpt2_folder: Path, tmp_path: Path, publish: Publish
) -> None:
    """A generated token in the explorer, against a bare loop over the same model."""
    model, n_new = str(gpt2_folder) if name == RANDOM else name, N_NEW[size.name]
    sampling = Sampling(max_new_tokens=n_new)
    request = ChatRequest(text=text_of(100, 1), sampling=sampling)
    with explorer_of(model, tmp_path) as explorer:
        loaded = load_for_exploring(find_model(model, None), torch.float32, torch.device("cpu"))
        spoken: dict[str, list[int]] = {}
        prompt = [int(token["id"]) for token in _said(explorer, request)[0]]

        def bare() -> Mapping[str, float]:
            spoken["bare"], seconds = _decode(loaded.model, prompt, len(spoken["explorer"]))
            return {"token": seconds}

        def explored() -> Mapping[str, float]:
            _, spoken["explorer"], seconds = _said(explorer, request)
            return {"token": seconds}

        explored()
        bare()
        assert spoken["bare"] == spoken["explorer"], "other tokens"
        sides: dict[str, Callable[[], Mapping[str, float]]] = {"explorer": explored, "bare": bare}
        rounds = alternate(sides, 2 * size.rounds, tidy=lambda: fill(explorer) and None)
    report = Report(f"explorer: latency of a generated token, {name}")
    for side in sides:
        report.figures[f"{side}: seconds a token"] = rounds.parts[side]["token"]
    ratio = rounds.parts["explorer"]["token"], rounds.parts["bare"]["token"]
    report.add_ratio("explorer / bare", *ratio, target="<= 1.10")
    report.facts = {"new_tokens": len(spoken["bare"]), "prompt_tokens": len(prompt)}
    publish(report)


def _said(
    explorer: Explorer, request: ChatRequest
) -> tuple[list[dict[str, object]], list[int], float]:
    """The prompt's tokens, the ids of the reply, and the median seconds between two of them."""
    prompt: list[dict[str, object]] = []
    ids, times = list[int](), list[float]()
    for event in explorer.chat(request):
        if event["event"] == "start":
            prompt = event["userTokens"]
        if event["event"] == "token":
            ids.append(int(event["token"]["id"]))
            times.append(time.perf_counter())
    return prompt, ids, float(np.median(np.diff(times)))


@torch.no_grad()
def _decode(model: torch.nn.Module, prompt: list[int], n_new: int) -> tuple[list[int], float]:
    """The likeliest tokens after a prompt, and the median seconds between two of them."""
    output = model(torch.tensor([prompt]), use_cache=True, logits_to_keep=1)
    ids, times = [int(output.logits[0, -1].argmax())], [time.perf_counter()]
    while len(ids) < n_new:
        last = torch.tensor([[ids[-1]]])
        output = model(last, past_key_values=output.past_key_values, use_cache=True)
        ids.append(int(output.logits[0, -1].argmax()))
        times.append(time.perf_counter())
    return ids, float(np.median(np.diff(times)))


@pytest.mark.parametrize("name", [EMBEDDED, RANDOM])
def test_memory_and_disk(
    name: str, size: Size, gpt2_folder: Path, tmp_path: Path, publish: Publish
) -> None:
    """Ten conversations, filled: what the process holds beyond the model, and the files' size."""
    model = str(gpt2_folder) if name == RANDOM else name
    process, n_tokens = psutil.Process(), N_TOKENS[size.name]
    with explorer_of(model, tmp_path) as explorer:
        converse(explorer, 100, seed=99)  # what any first chat allocates belongs to the model
        fill(explorer)
        before, peak = process.memory_info().rss, 0
        for number in range(N_CONVERSATIONS[size.name]):
            conversation = converse(explorer, n_tokens, seed=number)
            fill(explorer)
            peak = max(peak, process.memory_info().rss - before)
            for _ in explorer.activations(conversation, 50, Question()):
                pass
        status = explorer.status()
    report = Report(f"explorer: {N_CONVERSATIONS[size.name]} conversations, {name}", unit="MB")
    report.figures["resident memory added"] = [peak / 1e6]
    report.figures["of which rows"] = [status["memory_used_mb"]]
    n_stored = status["disk_conversations"] - 1
    report.figures["disk per 1,000 tokens"] = [status["disk_used_mb"] / n_stored * 1000 / n_tokens]
    report.facts = {"tokens": n_tokens, "targets": "< 1,000 MB, < 100 MB"}
    publish(report)
