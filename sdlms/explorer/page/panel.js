/** The panel of the clicked token: what it is, the switches, and one of two views. */

import { isOf, mountReading, statusOf } from "./asking.js";
import { legendOf, measureChoices, measureOf } from "./colours.js";
import { counted, el, keepingFocus, shownText, visible } from "./dom.js";
import { createHeatmap } from "./heatmap.js";
import { createListView } from "./list_view.js";

const VIEWS = { list: "List", heatmap: "Heat map" };
const LENSES = { logit: "Logit lens", tuned: "Tuned lens" };

/** Fill `#panel` and read the panels of the tokens that are clicked. */
export function mountPanel(store, api) {
  const panel = document.getElementById("panel");
  const views = {
    list: createListView(document.getElementById("list-view"), store),
    heatmap: createHeatmap(document.getElementById("heatmap-view"), store),
  };
  mountControls(store);
  mountReading(store, api);

  store.on(["panel", "selected", "lens"], (state) => {
    const status = statusOf(state);
    panel.hidden = !state.selected;
    panel.dataset.status = status;
    panel.setAttribute("aria-busy", String(status === "loading"));
    const head = document.getElementById("panel-head");
    keepingFocus(head, () => drawHead(head, store, state));
  });
  store.on(["view", "colour", "pins", "lens", "info"], drawSwitches); // a view scrolls once it is shown
  store.on(["panel", "view", "colour", "pins", "info", "layer"], (state) => {
    if (!state.panel?.header) return;
    views[state.view].draw(state.panel, state);
    views[state.view].showCurrent(state.panel, state);
  });
  drawSwitches(store.get());
}

// ---------------------------------------------------------------- head

function drawHead(head, store, { panel: shown, selected, tokens, info, lens }) {
  const panel = selected && isOf(shown, { ...selected, lens }) ? shown : null;
  const token = selected && tokens[selected.position];
  if (!token) return head.replaceChildren();
  const header = panel?.header;
  const next = tokens[selected.position + 1];
  const close = { type: "button", class: "quiet", "aria-label": "Close the panel", title: "Close (Esc)" };
  head.replaceChildren(
    el(
      "div",
      { class: "panel-line" },
      el("h2", { class: "panel-title" }, "After ", el("span", { class: "glyphs" }, shownText(token))),
      panel?.status === "failed" ? retry(store, selected) : decidedBadge(header, info),
      el("button", { ...close, dataset: { testid: "close-panel" }, onclick: () => store.select(null) }, "✕"),
    ),
    el("div", { class: "panel-facts" }, ...facts(token, next, header, info)),
  );
}

/** Some layers did not come: they are asked for once more. */
function retry(store, { position }) {
  const again = () => store.select(position);
  return el("button", { type: "button", dataset: { testid: "retry" }, onclick: again }, "Not read: try again");
}

function decidedBadge(header, info) {
  const decided = header?.decided_at?.at(-1);
  if (decided === null || decided === undefined) {
    return el("span", { class: "badge", dataset: { testid: "decided-pending" } }, "reading…");
  }
  const last = info ? info.num_layers - 1 : null;
  const name = decided < 0 ? "the embedding" : `block ${decided}${decided === last ? ", the last" : ""}`;
  const title = "The first layer from which on the top-1 token stays the model's final one";
  return el("span", { class: "badge decided", title, dataset: { testid: "decided" } }, `decided at ${name}`);
}

function facts(token, next, header, info) {
  const strong = (text) => el("strong", {}, text);
  const known = [
    el("span", {}, "position ", strong(token.position.toLocaleString("en"))),
    el("span", {}, "id ", strong(String(token.id))),
    el("span", {}, token.is_template ? "template" : token.role),
    token.pieces ? el("span", {}, "bytes ", strong(token.pieces)) : null,
    el("span", {}, "actual next ", next ? strong(`“${shownText(next)}”`) : "not known yet"),
    token.in_prompt === false ? el("span", {}, "left the prompt, as computed then") : null,
  ];
  if (header?.source) {
    const from = header.source === "computed" ? "computed now" : `from ${header.source}`;
    known.push(el("span", { dataset: { testid: "source" } }, from));
  }
  if (info?.store_hidden === "int8") {
    const title = "Pins beyond the likeliest tokens, and rows measured late, come from states rounded to 8 bits";
    known.push(el("span", { title, dataset: { testid: "store-hidden" } }, "states stored as int8"));
  }
  if (header?.recomputed) {
    const title = "What was stored of it could not be read, so it was computed again";
    known.push(el("span", { class: "badge recomputed", title, dataset: { testid: "recomputed" } }, "recomputed"));
  }
  return known;
}

// ---------------------------------------------------------------- switches

function mountControls(store) {
  const select = el("select", { id: "colour", dataset: { testid: "colour" } });
  select.addEventListener("change", () => store.set({ colour: select.value }));
  document
    .getElementById("controls")
    .append(
      switchOf("View", VIEWS, "view", (view) => store.set({ view })),
      switchOf("Lens", LENSES, "lens", (lens) => store.set({ lens })),
      el("label", {}, "Colour", select),
    );
}

function switchOf(name, choices, key, choose) {
  const buttons = Object.entries(choices).map(([value, label]) =>
    el(
      "button",
      { type: "button", value, dataset: { testid: `${key}-${value}` }, onclick: () => choose(value) },
      label,
    ),
  );
  return el("div", { class: "switch", role: "group", "aria-label": name, dataset: { switch: key } }, ...buttons);
}

function drawSwitches(state) {
  const { view, lens, colour, pins, info } = state;
  for (const button of document.querySelectorAll("#controls .switch button")) {
    const chosen = button.parentNode.dataset.switch === "view" ? view : lens;
    button.setAttribute("aria-pressed", String(button.value === chosen));
  }
  const tuned = document.querySelector('[data-testid="lens-tuned"]');
  tuned.disabled = !info?.lenses.includes("tuned");
  tuned.title = tuned.disabled ? "No tuned lens is loaded: start the explorer with --tuned-lens FOLDER" : "";
  tuned.setAttribute("aria-description", tuned.title);
  document.getElementById("list-view").hidden = view !== "list";
  document.getElementById("heatmap-view").hidden = view !== "heatmap";
  drawColours(colour, pins);
  document.getElementById("legend").replaceChildren(...legendOf(measureOf(colour, info, pins)));
  document.getElementById("lens-note").textContent = noteOf(lens, info);
}

function drawColours(colour, pins) {
  const choices = measureChoices(pins).map(({ value, label, isPossible }) =>
    el("option", { value, disabled: !isPossible }, label),
  );
  const select = document.getElementById("colour");
  select.replaceChildren(...choices);
  select.value = colour;
  if (select.selectedIndex < 0) select.value = "probability";
}

function noteOf(lens, info) {
  const states = info ? ` ${counted(info.states.length, "state")}, each through the model's own final norm and unembedding.` : "";
  const caveat =
    lens === "tuned"
      ? "Tuned lens: an affine map per layer, trained to agree with the final layer, comes first."
      : "Raw logit lens: the early layers are noisy, since they were never trained to be read in this way.";
  return `${caveat}${states} Underlined: the actual next token. ◂ decided from here on.`;
}

/** Text of a state's row for a screen reader: "block 3: “␣Paris”, 43 %". */
export function spokenState(found) {
  const top = found.cells.at(-1).top[0];
  return `${found.name}: “${visible(top.text)}”, ${(top.probability * 100).toFixed(0)} %`;
}
