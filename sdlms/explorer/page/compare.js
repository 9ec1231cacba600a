/** Two positions side by side: what each layer would say after the one and after the other. */

import { el, percent, shownText, stateName, visible } from "./dom.js";
import { cellOf, decidedName, isOpen, onOpen, statesOf } from "./readings.js";

const SHOWN = 3;

export function mount(container, store, api) {
  const field = el("input", {
    id: "compare-position",
    type: "number",
    min: 0,
    step: 1,
    required: true,
    dataset: { testid: "compare-position" },
  });
  const clear = el("button", { type: "button", onclick: () => store.set({ compare: null }) }, "Clear");
  const form = el(
    "form",
    {
      class: "row",
      onsubmit: (event) => {
        event.preventDefault();
        store.set({ compare: { position: Number(field.value) } });
      },
    },
    el("label", { for: "compare-position" }, "Second position"),
    field,
    el("button", { type: "submit", dataset: { testid: "compare-go" } }, "Compare"),
    clear,
  );
  const hint = el("p", { class: "note" }, "Or press Shift and click a token.");
  const body = el("div", { class: "compare-body", dataset: { testid: "compare" } });
  container.append(form, hint, body);

  let stop = () => {};
  let asked = "";
  let hasFailed = false;

  /** Read the second panel if another one is wanted than the one that was read last. */
  function load(state) {
    const wanted = question(state);
    const key = wanted && api.panelKey(wanted);
    const isChosenAgain = hasFailed && state.compare && !state.compare.status;
    if (key === asked && !isChosenAgain) return;
    asked = key;
    hasFailed = false;
    stop();
    stop = () => {};
    if (!wanted || !isOpen(container)) return void (asked = "");
    stop = api.activations(wanted, ({ key: come, header, states, status, error }) => {
      const { compare } = store.get();
      if (come !== asked || compare?.position !== wanted.position) return;
      hasFailed = status === "failed";
      if (hasFailed) store.fail(error);
      store.set({ compare: { position: wanted.position, header, states: new Map(states), status } });
    });
  }

  function show(state) {
    field.max = state.tokens.length - 1;
    clear.hidden = !state.compare;
    hint.hidden = Boolean(state.compare);
    if (state.compare && document.activeElement !== field) field.value = state.compare.position;
    body.replaceChildren(...(isOpen(container) ? content(state) : []));
  }

  store.on(["compare", "panel", "lens", "tokens"], (state) => {
    load(state);
    show(store.get());
  });
  store.on("compare", ({ compare }) => {
    if (compare) container.closest("details").open = true;
  });
  store.on("conversation", ({ conversation, compare, selected }) => {
    const isElsewhere = conversation?.conversation_id !== selected?.conversation;
    if (compare && isElsewhere) store.set({ compare: null });
  });
  onOpen(container, () => {
    load(store.get());
    show(store.get());
  });
}

function question({ compare, conversation, tokens, lens, pins }) {
  if (!compare || !conversation || !tokens[compare.position]) return null;
  const id = conversation.conversation_id;
  return { conversation: id, position: compare.position, lens, pins: pins.map((pin) => pin.token_id) };
}

function content({ compare, panel, selected, tokens }) {
  if (!compare) return [];
  if (!tokens[compare.position]) {
    return [el("p", { class: "note" }, `There is no position ${compare.position}; the last is ${tokens.length - 1}.`)];
  }
  if (compare.status === "failed") return [el("p", { class: "note" }, "It could not be read. Compare once more.")];
  if (!compare.header || !panel?.states.size) return [el("p", { class: "note" }, "reading…")];
  const ends = [selected.position, compare.position].map((position) => tokens[position]);
  const decided = [panel, compare].map(({ header }) => header.decided_at?.at(-1));
  return [summary(decided), table(ends, panel, compare)];
}

function summary([first, second]) {
  const text =
    first === second
      ? `Both are decided at ${decidedName(first)}.`
      : `Decided at ${decidedName(first)} and at ${decidedName(second)}.`;
  return el("p", { class: "said", dataset: { testid: "compare-decided" } }, text);
}

function table(ends, panel, compare) {
  const heads = ends.map((token) =>
    el("th", { scope: "col" }, `after ${shownText(token)} `, el("span", { class: "number" }, `(${token.position})`)),
  );
  const head = el("tr", {}, el("th", { scope: "col" }, "state"), ...heads);
  const rows = statesOf(panel).reverse().map((state) => row(state, compare.states.get(state.index)));
  return el(
    "div",
    { class: "scroller", tabindex: 0, role: "region", "aria-label": "Two positions, layer by layer" },
    el("table", { class: "compared" }, el("thead", {}, head), el("tbody", {}, ...rows)),
  );
}

function row(state, other) {
  const cells = [state, other].map((each) => (each ? cellOf(each) : null));
  const [first, second] = cells.map((cell) => cell?.top[0]?.token_id);
  const differs = cells[1] !== null && first !== second;
  const mark = differs ? el("span", { class: "differs", role: "img", "aria-label": "(another first choice)" }, "≠") : null;
  const name = el("th", { scope: "row" }, stateName(state), mark);
  return el("tr", { class: differs ? "is-different" : null }, name, ...cells.map(listed));
}

function listed(cell) {
  if (!cell) return el("td", {}, "…");
  const top = cell.top.slice(0, SHOWN);
  const items = top.map(({ text, probability }) =>
    el("li", {}, el("span", { class: "token-text" }, visible(text)), " ", el("span", { class: "number" }, percent(probability))),
  );
  return el("td", {}, el("ol", { class: "top" }, ...items));
}
