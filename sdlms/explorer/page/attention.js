/** Where the clicked token looks: a row per layer (the mean of its heads), and one per head. */

import { STEPS, colourClass } from "./colours.js";
import { counted, el, shownText } from "./dom.js";
import { isOpen, onOpen } from "./readings.js";

const COLUMNS = 16;
const SETTLED_MS = 150;

export function mount(container, store, api) {
  let shown = null; // {key, answer}
  let timer = 0;
  let running = null;
  let columns = "near";
  const opened = new Set();
  const choose = el(
    "select",
    { id: "attention-columns", dataset: { testid: "attention-columns" }, onchange: () => redraw(choose.value) },
    el("option", { value: "near" }, `the last ${COLUMNS} tokens`),
    el("option", { value: "strong" }, `the ${COLUMNS} it looks at most`),
  );
  const controls = el("div", { class: "row" }, el("label", { for: "attention-columns" }, "Columns"), choose);
  const said = el("p", { class: "note", role: "status" });
  const body = el("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": "Attention weights" });
  container.append(controls, said, body);

  function redraw(chosen) {
    columns = chosen;
    draw();
  }

  /** A reader who walks over tokens asks for the one that he stops at. */
  function plan() {
    clearTimeout(timer);
    running?.abort();
    timer = setTimeout(load, SETTLED_MS);
  }

  async function load() {
    const { selected } = store.get();
    const key = selected && `${selected.conversation}/${selected.position}`;
    if (!key || !isOpen(container) || shown?.key === key) return;
    running?.abort();
    running = new AbortController();
    shown = { key, answer: null };
    body.replaceChildren();
    said.textContent = "computing…";
    try {
      const answer = await api.attention(selected.conversation, selected.position, running.signal);
      if (shown.key !== key) return;
      shown.answer = answer;
      said.textContent = remark(answer);
      draw();
    } catch (error) {
      if (shown.key !== key) return;
      shown = null;
      if (error.name !== "AbortError") said.textContent = error.message;
    }
  }

  function draw() {
    if (!shown?.answer) return;
    const { tokens } = store.get();
    body.replaceChildren(table(shown.answer, tokens, columns, opened));
  }

  store.on("selected", plan);
  onOpen(container, load);
  load();
}

/** What the numbers are, and what of them an answer had no room for. */
function remark({ n_left_out: nKeys, left_out_layers: layers }) {
  const said =
    "Share of the attention of the clicked token, in per cent; a row of a layer is the mean of its heads. Colour: the square root.";
  const left = [layers.length && counted(layers.length, "layer"), nKeys && counted(nKeys, "token")].filter(Boolean);
  return left.length ? `${said} Left out, because the text is long: the first ${left.join(" and the first ")}.` : said;
}

const mean = (heads) => heads[0].map((_, n) => heads.reduce((sum, head) => sum + head[n], 0) / heads.length);

/** Which keys are columns, in the order of the text. */
function chosenKeys(answer, means, columns) {
  const keys = answer.positions.map((_, n) => n);
  if (columns === "near") return keys.slice(-COLUMNS);
  const total = keys.map((n) => means.reduce((sum, row) => sum + row[n], 0));
  const strongest = [...keys].sort((a, b) => total[b] - total[a] || a - b).slice(0, COLUMNS);
  return strongest.sort((a, b) => a - b);
}

function table(answer, tokens, columns, opened) {
  const means = answer.layers.map(({ heads }) => mean(heads));
  const keys = chosenKeys(answer, means, columns);
  const head = el(
    "tr",
    {},
    el("th", { scope: "col" }, "layer"),
    ...keys.map((n) => column(tokens[answer.positions[n]], answer.positions[n])),
    keys.length < answer.positions.length ? el("th", { scope: "col" }, "others") : null,
  );
  const bodies = answer.layers.map((layer, n) => layerRows(layer, means[n], keys, opened)).reverse();
  return el("table", { class: "attention" }, el("thead", {}, head), ...bodies);
}

function column(token, position) {
  const text = token ? shownText(token) : "?";
  return el(
    "th",
    { scope: "col", class: "key", title: `position ${position}: ${text}` },
    el("span", { class: "number" }, String(position)),
    el("span", { class: "key-text" }, text),
  );
}

/** The mean's row, and those of the heads, which its button shows. */
function layerRows({ layer, heads }, average, keys, opened) {
  const rows = heads.map((weights, head) => weightRow(`head ${head}`, weights, keys, { class: "head-row" }));
  const button = el("button", {
    type: "button",
    class: "quiet",
    "aria-expanded": opened.has(layer),
    "aria-label": `Heads of layer ${layer}`,
    dataset: { testid: `attention-layer-${layer}` },
    onclick: () => set(!opened.has(layer)),
  });
  function set(isOpened) {
    if (isOpened) opened.add(layer);
    else opened.delete(layer);
    button.textContent = isOpened ? "▾" : "▸";
    button.setAttribute("aria-expanded", isOpened);
    for (const row of rows) row.hidden = !isOpened;
  }
  set(opened.has(layer));
  const name = document.createDocumentFragment();
  name.append(button, ` ${layer}`);
  return el("tbody", {}, weightRow(name, average, keys, { class: "mean-row" }), ...rows);
}

function weightRow(name, weights, keys, attributes) {
  const cells = keys.map((n) => weightCell(weights[n]));
  const rest = weights.reduce((sum, weight) => sum + weight, 0) - keys.reduce((sum, n) => sum + weights[n], 0);
  const others = keys.length < weights.length ? weightCell(Math.max(0, rest)) : null;
  return el("tr", attributes, el("th", { scope: "row" }, name), ...cells, others);
}

/** The number says the weight; the colour follows its square root, or most cells would look empty. */
function weightCell(weight) {
  const step = Math.min(STEPS - 1, Math.floor(STEPS * Math.sqrt(weight)));
  const title = `${(100 * weight).toFixed(2)} %`;
  return el("td", { class: `weight ${colourClass(step)}`, title }, (100 * weight).toFixed(0));
}
