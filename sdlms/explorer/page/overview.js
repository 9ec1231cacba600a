/** The whole conversation as two strips: how sure the model is, and how deep it decides. */

import { counted, el, onceAFrame, percent, shownText } from "./dom.js";
import { decidedName } from "./readings.js";

const STRIP = 18; // pixels of a strip's height
const GAP = 3;
const LEAST_BAR = 2;
const AGAIN_MS = 1500; // while rows are still computed
const SETTLED_MS = 120;
const JUMP = 10;
const KEYS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -JUMP, PageDown: JUMP };

export function mount(container, store, api) {
  const canvas = el("canvas", {
    class: "overview-strip",
    tabindex: 0,
    role: "slider",
    "aria-label": "Token of the conversation",
    "aria-valuemin": 0,
    dataset: { testid: "overview" },
  });
  const swatches = {
    sure: el("span", { class: "swatch swatch-sure" }),
    deep: el("span", { class: "swatch swatch-deep" }),
    marker: el("span", { class: "swatch swatch-marker", hidden: true }),
  };
  const read = el("span", { class: "overview-read" });
  const legend = el(
    "p",
    { class: "overview-legend note" },
    el("span", {}, swatches.sure, "probability of the final top-1"),
    el("span", {}, swatches.deep, "layer of the decision"),
    swatches.marker,
    read,
  );
  container.classList.add("overview");
  container.append(canvas, legend);

  let rows = new Map(); // position -> {decided, probability}
  let shownId = null;
  let timer = 0;
  let running = null;

  const idOf = ({ conversation }) => conversation?.conversation_id ?? null;
  const keyOf = (state) => `${idOf(state)}/${state.lens}`;

  function plan(delay) {
    clearTimeout(timer);
    timer = setTimeout(load, delay);
  }

  async function load() {
    const state = store.get();
    const id = idOf(state);
    if (id === null || state.busy || document.hidden) return;
    running?.abort();
    running = new AbortController();
    try {
      const answer = await api.overview(id, state.lens, running.signal);
      if (keyOf(store.get()) !== keyOf(state)) return;
      rows = rowsOf(answer);
      drawSoon();
      if (answer.n_unfilled > 0) plan(AGAIN_MS);
    } catch (error) {
      if (error.name !== "AbortError") read.textContent = error.message;
    }
  }

  function draw() {
    const { tokens, selected, info } = store.get();
    container.hidden = tokens.length < 2;
    if (container.hidden) return;
    paint(canvas, { tokens, rows, selected, n_layers: info?.num_layers ?? 1 }, coloursOf(swatches));
    const position = selected?.position ?? null;
    canvas.setAttribute("aria-valuemax", tokens.length - 1);
    canvas.setAttribute("aria-valuenow", position ?? 0);
    canvas.setAttribute("aria-valuetext", inWords(position, tokens, rows));
    read.textContent = inWords(position, tokens, rows);
  }

  const drawSoon = onceAFrame(draw);
  const under = (event) => {
    const { left, width } = canvas.getBoundingClientRect();
    const count = store.get().tokens.length;
    return Math.max(0, Math.min(count - 1, Math.floor(((event.clientX - left) / width) * count)));
  };
  canvas.addEventListener("click", (event) => store.select(under(event)));
  canvas.addEventListener("pointermove", (event) => {
    read.textContent = inWords(under(event), store.get().tokens, rows);
  });
  canvas.addEventListener("pointerleave", draw);
  canvas.addEventListener("keydown", (event) => {
    const { selected, tokens } = store.get();
    const target = targetOf(event.key, selected?.position ?? 0, tokens.length);
    if (target === null) return;
    event.preventDefault();
    event.stopPropagation();
    store.select(target);
  });

  store.on(["conversation", "lens", "tokens", "busy"], (state) => {
    const key = keyOf(state);
    if (key !== shownId) rows = new Map();
    shownId = key;
    drawSoon();
    if (!state.busy) plan(SETTLED_MS);
  });
  store.on(["selected", "theme", "info"], drawSoon);
  document.addEventListener("visibilitychange", () => plan(SETTLED_MS));
  new ResizeObserver(drawSoon).observe(container);
  drawSoon();
  plan(SETTLED_MS);
}

function rowsOf({ positions, decided_at: decided, final_probability: probability }) {
  return new Map(positions.map((position, n) => [position, { decided: decided[n], probability: probability[n] }]));
}

function targetOf(key, position, count) {
  if (key === "Home") return 0;
  if (key === "End") return count - 1;
  if (!(key in KEYS)) return null;
  return Math.max(0, Math.min(count - 1, position + KEYS[key]));
}

function inWords(position, tokens, rows) {
  if (position === null || !tokens[position]) return `${counted(tokens.length, "token")}, none selected`;
  const row = rows.get(position);
  const name = `position ${position}, ${shownText(tokens[position])}`;
  if (!row || row.probability === null) return `${name}: not computed yet`;
  return `${name}: ${percent(row.probability)}, decided at ${decidedName(row.decided)}`;
}

/** The legend's colours are the canvas' colours, in the theme as shown. */
function coloursOf(swatches) {
  return Object.fromEntries(
    Object.entries(swatches).map(([name, node]) => [name, getComputedStyle(node).backgroundColor]),
  );
}

function paint(canvas, { tokens, rows, selected, n_layers: nLayers }, colours) {
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = 2 * STRIP + GAP;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const context = canvas.getContext("2d");
  context.scale(scale, scale);
  const step = width / tokens.length;
  const bar = step > 3 ? step - 1 : Math.max(step, 1);
  for (const [position, { decided, probability }] of rows) {
    if (probability === null || probability === undefined) continue;
    const x = position * step;
    context.fillStyle = colours.sure;
    const sure = Math.max(LEAST_BAR, probability * STRIP);
    context.fillRect(x, STRIP - sure, bar, sure);
    context.fillStyle = colours.deep;
    const deep = Math.max(LEAST_BAR, ((decided + 1) / nLayers) * STRIP);
    context.fillRect(x, STRIP + GAP, bar, deep);
  }
  if (!selected) return;
  context.strokeStyle = colours.marker;
  context.lineWidth = 2;
  const room = Math.max(step, 4);
  context.strokeRect(Math.min(selected.position * step, width - room) + 0.5, 1, room - 1, height - 2);
}
