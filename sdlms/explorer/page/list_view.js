/** The list view: a row for each layer, the final one on top, with its five likeliest tokens. */

import { colourClass, measureOf } from "./colours.js";
import { el, keepingFocus, percent, stateName, visible } from "./dom.js";

const N_TOP = 5;

/** A view: `draw(panel, state)` fills the rows whose states have come. */
export function createListView(container, store) {
  const body = el("tbody");
  const measureHead = el("th", { scope: "col", class: "measure" });
  container.append(
    el(
      "table",
      { class: "layers", "aria-label": "Likeliest next tokens at every layer" },
      el("thead", {}, headRow(measureHead)),
      body,
    ),
  );
  body.addEventListener("click", (event) => pinClicked(event, store));
  let rows = [];
  let drawn = null;

  const draw = (panel, state) => {
    const wanted = lookOf(panel, state);
    if (rows.length !== panel.header.n_states) rows = rebuilt(body, panel.header.n_states);
    const measure = measureOf(state.colour, state.info, state.pins);
    measureHead.textContent = shortLabel(state.colour);
    measureHead.title = measure.unit;
    const fill = (row, index) => {
      const found = panel.states.get(index) ?? null;
      if (row.state === found && drawn === wanted) return;
      row.state = found;
      if (found) fillRow(row.node, found, { measure, state });
      else emptyRow(row.node, state.info?.states[index], index);
    };
    keepingFocus(body, () => rows.forEach(fill));
    drawn = wanted;
  };

  return { draw, showCurrent: (panel, state) => markRows(rows, panel, state) };
}

function headRow(measureHead) {
  const ranks = Array.from({ length: N_TOP }, (_, n) => el("th", { scope: "col" }, `top ${n + 1}`));
  return el("tr", {}, el("th", { scope: "col", class: "layer-name" }, "layer"), measureHead, ...ranks);
}

function shortLabel(colour) {
  const names = { probability: "p top-1", entropy: "entropy", next_rank: "next rank", kl: "KL" };
  return names[colour] ?? "pin rank";
}

/** What a filled row depends on beyond its state: when it changes, every row is filled anew. */
function lookOf(panel, state) {
  const pins = state.pins.map((pin) => `${pin.token_id}:${pin.slot}`);
  return [state.colour, ...pins].join(" ");
}

function rebuilt(body, count) {
  const rows = Array.from({ length: count }, (_, index) => ({
    node: el("tr", { dataset: { testid: `layer-${index}`, index } }),
    state: undefined,
  }));
  body.replaceChildren(...rows.map((row) => row.node).reverse());
  return rows;
}

function emptyRow(node, state, index) {
  const name = state ? stateName(state) : `state ${index}`;
  const cells = Array.from({ length: N_TOP + 1 }, () => el("td", {}, el("span", { class: "placeholder" })));
  node.dataset.state = "waiting";
  node.replaceChildren(el("th", { scope: "row", class: "layer-name" }, name), ...cells);
}

function fillRow(node, found, { measure, state }) {
  const cell = found.cells.at(-1);
  const value = measure.of(cell);
  const look = colourClass(value === null ? null : measure.step(value));
  const shown = value === null ? "–" : measure.text(value);
  const pinOf = new Map(state.pins.map((pin) => [pin.token_id, pin]));
  const predictions = cell.top.slice(0, N_TOP);
  node.dataset.state = "done";
  node.replaceChildren(
    el("th", { scope: "row", class: "layer-name" }, stateName(found)),
    el("td", { class: `measure ${look}` }, shown),
    ...predictions.map((top) => el("td", {}, prediction(found.index, top, cell.next, pinOf.get(top.token_id)))),
  );
}

function prediction(index, top, next, pin) {
  const isActual = next?.token_id === top.token_id;
  const look = ["prediction", isActual && "actual", pin && `pinned pin-${pin.slot}`].filter(Boolean);
  const shown = visible(top.text);
  const title = `rank ${top.rank}, id ${top.token_id}: “${shown}”, ${percent(top.probability)}`;
  const hint = `${isActual ? ", the actual next token" : ""}. ${pin ? "Unpin it" : "Pin it"}`;
  const button = el(
    "button",
    {
      type: "button",
      class: look.join(" "),
      title: title + hint,
      "aria-label": title + (isActual ? ", the actual next token" : "") + ". Pin",
      "aria-pressed": String(Boolean(pin)),
      dataset: { testid: `prediction-${index}-${top.token_id}`, tokenId: top.token_id, text: top.text },
    },
    el("span", { class: "prediction-text" }, shown),
    el("span", { class: "prediction-share" }, percent(top.probability)),
  );
  button.style.setProperty("--share", String(top.probability));
  return button;
}

function pinClicked(event, store) {
  const button = event.target.closest(".prediction");
  if (!button) return;
  const { tokenId, text } = button.dataset;
  store.togglePin({ token_id: Number(tokenId), text });
}

/** Mark the row of the keyboard and that from which on the final top-1 stays. */
export function markRows(rows, panel, state) {
  const decided = panel.header.decided_at?.at(-1);
  rows.forEach((row, index) => {
    row.node.classList.toggle("current", index === state.layer);
    row.node.classList.toggle("decided", state.info?.states[index]?.layer === decided);
  });
}
