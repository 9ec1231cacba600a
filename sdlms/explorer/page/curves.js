/** Tokens over the layers, pinned or not: probability above, entropy and KL to the final state below. */

import { createBeyond } from "./beyond.js";
import { el, percent, short, stateName, svg, visible } from "./dom.js";
import { cellOf, followed, isOpen, onOpen, readingOf, statesOf, tickName } from "./readings.js";

const EDGE = { left: 52, right: 14, top: 10, bottom: 40 };
const HEIGHTS = { upper: 170, gap: 30, lower: 84 };
const LEAST_WIDTH = 260;
const LEAST_TICK = 30; // pixels from one name on the layer axis to the next
const FLOOR = 1e-8;
const MEASURES = [
  { name: "entropy", key: "entropy_nats", style: "curve-entropy" },
  { name: "KL to the final state", key: "kl_nats", style: "curve-kl" },
];

export function mount(container, store, api) {
  let scale = "linear";
  const beyond = createBeyond(store, api, () => show());
  const figure = el("div", { class: "chart", dataset: { testid: "curves" } });
  const read = el("output", { class: "read-out", dataset: { testid: "curves-read-out" } });
  const slider = el("input", {
    id: "curves-layer",
    type: "range",
    min: 0,
    step: 1,
    oninput: () => store.set({ layer: Number(slider.value) }),
  });
  const legend = el("ul", { class: "curve-legend" });
  const table = el("div", { class: "scroller", tabindex: 0, role: "region", "aria-label": "The curves as a table" });
  const asTable = el("details", { ontoggle: () => show() }, el("summary", {}, "As a table"), table);
  const controls = el(
    "div",
    { class: "row" },
    scaleSwitch((chosen) => {
      scale = chosen;
      show();
    }),
    el("label", { for: "curves-layer" }, "Read at"),
    slider,
  );
  const empty = el("p", { class: "note" });
  let room = 0; // pixels of the figure's width; to ask for it while drawing would cost a layout
  container.append(empty, controls, figure, read, legend, asTable);

  function show() {
    if (!isOpen(container)) return;
    const { panel, pins, layer } = store.get();
    const states = statesOf(panel);
    const hasStates = states.length > 1;
    for (const part of [controls, figure, read, legend, asTable]) part.hidden = !hasStates;
    empty.hidden = hasStates;
    empty.textContent = "The curves appear when the layers have come.";
    if (!hasStates) return;
    const tokens = beyond.of(panel, followed(states, pins));
    const at = stateAt(states, layer);
    slider.min = states[0].index;
    slider.max = states.at(-1).index;
    slider.value = at.index;
    slider.setAttribute("aria-valuetext", stateName(at));
    figure.replaceChildren(drawing({ states, tokens, at, scale, width: Math.max(LEAST_WIDTH, room) }, store));
    read.textContent = readOut(at, tokens);
    legend.replaceChildren(...legendItems(tokens));
    table.replaceChildren(...(asTable.open ? [tabled(states, tokens)] : []));
  }

  store.on(["panel", "pins", "layer"], show);
  onOpen(container, show);
  new ResizeObserver(([{ contentRect }]) => {
    const width = Math.floor(contentRect.width);
    if (width === room) return;
    room = width;
    show();
  }).observe(figure);
  show();
}

function stateAt(states, index) {
  return states.find((state) => state.index === index) ?? states.at(-1);
}

function scaleSwitch(onChange) {
  const select = el(
    "select",
    { id: "curves-scale", dataset: { testid: "curves-scale" }, onchange: () => onChange(select.value) },
    el("option", { value: "linear" }, "linear"),
    el("option", { value: "log" }, "logarithmic"),
  );
  const label = el("label", { for: "curves-scale" }, "Probability axis");
  const both = document.createDocumentFragment();
  both.append(label, select);
  return both;
}

// ---------------------------------------------------------------- the drawing

function drawing({ states, tokens, at, scale, width }, store) {
  const area = { left: EDGE.left, right: width - EDGE.right, width };
  const x = horizontal(states, area);
  const upper = { top: EDGE.top, bottom: EDGE.top + HEIGHTS.upper };
  const lower = { top: upper.bottom + HEIGHTS.gap, bottom: upper.bottom + HEIGHTS.gap + HEIGHTS.lower };
  const height = lower.bottom + EDGE.bottom;
  const ids = { title: "curves-title", description: "curves-description" };
  return svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${height}`,
      width,
      height,
      role: "img",
      "aria-labelledby": `${ids.title} ${ids.description}`,
      onpointermove: (event) => point(event, states, x, store),
      onclick: (event) => point(event, states, x, store),
    },
    svg("title", { id: ids.title }, "Tokens over the layers"),
    svg("desc", { id: ids.description }, described(states, tokens)),
    guide(x(at), upper.top, lower.bottom),
    ...probabilities({ states, tokens, scale, x, area, box: upper }),
    ...nats({ states, x, area, box: lower }),
    ...layerAxis({ states, x, area, bottom: lower.bottom }),
  );
}

function horizontal(states, { left, right }) {
  const first = states[0].index;
  const span = Math.max(1, states.at(-1).index - first);
  return (state) => left + 6 + ((state.index - first) / span) * (right - left - 12);
}

function point(event, states, x, store) {
  const box = event.currentTarget.getBoundingClientRect();
  const at = event.clientX - box.left;
  const distance = (state) => Math.abs(x(state) - at);
  const nearest = states.reduce((best, state) => (distance(state) < distance(best) ? state : best));
  if (store.get().layer !== nearest.index) store.set({ layer: nearest.index });
}

function probabilities({ states, tokens, scale, x, area, box }) {
  const curves = tokens.map((token) => ({
    style: token.style,
    values: states.map((state) => reading(state, token)?.probability ?? null),
  }));
  const known = curves.flatMap((curve) => curve.values).filter((value) => value !== null);
  const axis = scale === "log" ? logAxis(known) : { ticks: [0, 0.25, 0.5, 0.75, 1], at: (p) => p };
  const y = (value) => box.bottom - axis.at(value) * (box.bottom - box.top);
  return [
    ...valueAxis({ axis, y, area, box, name: "probability, %", write: (p) => Number((100 * p).toPrecision(3)) }),
    ...curves.flatMap((curve) => line(curve, states, x, y)),
  ];
}

function nats({ states, x, area, box }) {
  const curves = MEASURES.map(({ key, style }) => ({
    style,
    values: states.map((state) => cellOf(state)[key] ?? null),
  }));
  const most = roundedUp(Math.max(...curves.flatMap((curve) => curve.values)));
  const axis = { ticks: [0, most / 2, most], at: (value) => value / most };
  const y = (value) => box.bottom - axis.at(value) * (box.bottom - box.top);
  return [
    ...valueAxis({ axis, y, area, box, name: "nats", write: (value) => short(value) }),
    ...curves.flatMap((curve) => line(curve, states, x, y)),
  ];
}

/** Decades down to that of the smallest probability. */
function logAxis(values) {
  const least = Math.max(FLOOR, Math.min(0.1, ...values));
  const decades = Math.ceil(-Math.log10(least) - 1e-9);
  const step = Math.ceil(decades / 5);
  const ticks = [];
  for (let decade = 0; decade <= decades; decade += step) ticks.push(10 ** -decade);
  return { ticks, at: (p) => Math.max(0, 1 + Math.log10(Math.max(p, FLOOR)) / decades) };
}

function roundedUp(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 6, 8, 10].map((n) => n * power).find((n) => n >= value);
}

function line({ style, values }, states, x, y) {
  const points = states
    .map((state, n) => ({ state, value: values[n] }))
    .filter(({ value }) => value !== null)
    .map(({ state, value }) => [x(state).toFixed(1), y(value).toFixed(1)]);
  const dots = points.map(([cx, cy]) => svg("circle", { cx, cy, r: 2.5, class: `dot ${style}` }));
  const path = points.map((pair) => pair.join(",")).join(" ");
  return [svg("polyline", { points: path, class: `curve ${style}` }), ...dots];
}

function guide(x, top, bottom) {
  return svg("line", { x1: x, x2: x, y1: top, y2: bottom, class: "guide" });
}

function valueAxis({ axis, y, area, box, name, write }) {
  const ticks = axis.ticks.flatMap((value) => [
    svg("line", { x1: area.left, x2: area.right, y1: y(value), y2: y(value), class: "grid" }),
    svg("text", { x: area.left - 6, y: y(value) + 4, class: "tick tick-left" }, String(write(value))),
  ]);
  const middle = (box.top + box.bottom) / 2;
  const turned = `rotate(-90 12 ${middle})`;
  return [...ticks, svg("text", { x: 12, y: middle, transform: turned, class: "axis-name" }, name)];
}

function layerAxis({ states, x, area, bottom }) {
  const room = (area.right - area.left) / LEAST_TICK;
  const step = Math.max(1, Math.ceil(states.length / room));
  const last = states.length - 1;
  const named = states.filter((_, n) => n === last || n === 0 || (n % step === 0 && last - n >= step));
  return [
    ...named.map((state) => svg("text", { x: x(state), y: bottom + 16, class: "tick" }, tickName(state))),
    svg("text", { x: (area.left + area.right) / 2, y: bottom + 34, class: "axis-name" }, "after block (emb: embedding)"),
  ];
}

// ---------------------------------------------------------------- in words

/** What is known of a token after a state. */
const reading = (state, token) => readingOf(cellOf(state), token.token_id) ?? token.beyond?.get(state.index);

const label = ({ text, role }) => (role ? `${visible(text)} (${role})` : visible(text));

function described(states, tokens) {
  const [first, final] = [states[0], states.at(-1)];
  const parts = tokens.map((token) => {
    const [from, to] = [first, final].map((state) => reading(state, token));
    if (!from || !to) return `${label(token)} is not computed everywhere`;
    return `${label(token)} goes from ${percent(from.probability)} to ${percent(to.probability)}`;
  });
  const entropies = [first, final].map((state) => short(cellOf(state).entropy_nats));
  return `${[...parts, `entropy goes from ${entropies[0]} to ${entropies[1]} nats`].join("; ")}.`;
}

function readOut(state, tokens) {
  const cell = cellOf(state);
  const parts = tokens.map((token) => `${label(token)} ${inWords(state, token)}`);
  const measures = MEASURES.map(({ name, key }) => `${name} ${short(cell[key])} nats`);
  return `After ${stateName(state)}: ${[...parts, ...measures].join(", ")}`;
}

function inWords(state, token) {
  const known = reading(state, token);
  return known ? `${percent(known.probability)} (rank ${known.rank})` : "…";
}

function legendItems(tokens) {
  const measures = MEASURES.map(({ name, style }) => item(style, name));
  return [...tokens.map((token) => item(token.style, label(token))), ...measures];
}

function item(style, name) {
  const swatch = svg("line", { x1: 1, y1: 6, x2: 27, y2: 6, class: `curve ${style}` });
  return el("li", {}, svg("svg", { class: "sample", width: 28, height: 12, "aria-hidden": "true" }, swatch), name);
}

function tabled(states, tokens) {
  const names = ["after", ...tokens.map(label), "entropy, nats", "KL, nats"];
  const rows = states.map((state) => {
    const cell = cellOf(state);
    const values = [...tokens.map((token) => inWords(state, token)), ...MEASURES.map(({ key }) => short(cell[key]))];
    const cells = values.map((value) => el("td", { class: "number" }, value));
    return el("tr", {}, el("th", { scope: "row" }, stateName(state)), ...cells);
  });
  const head = el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name)));
  return el("table", { class: "curve-table" }, el("thead", {}, head), el("tbody", {}, ...rows));
}
