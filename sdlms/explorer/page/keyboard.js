/** Keys for the whole page, and the list of them. */

import { announce, el } from "./dom.js";
import { spokenState } from "./panel.js";

const KEYS = [
  ["Enter", "send the message; Shift+Enter starts a new line"],
  ["← →", "the token before or after the selected one"],
  ["↑ ↓", "the layer above or below in the panel"],
  ["Shift+click", "compare the selected token with another; Shift+Enter on a focused one"],
  ["Esc", "close what is open, the panel last"],
  ["/", "search in the conversation"],
  ["?", "this list"],
];
const IN_HEATMAP = "With the focus in the heat map the arrows walk over its cells; Enter shows the column's token.";

/** Listen to the page's keys. */
export function mountKeyboard(store) {
  const dialog = document.getElementById("keys");
  fillKeys(dialog);
  document.getElementById("show-keys").addEventListener("click", () => dialog.showModal());
  const actions = {
    ArrowLeft: () => moveToken(store, -1),
    ArrowRight: () => moveToken(store, 1),
    ArrowUp: () => moveLayer(store, 1),
    ArrowDown: () => moveLayer(store, -1),
    "/": focusSearch,
    "?": () => dialog.showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "Escape") return closeOne(store);
    const action = isTyping(event.target) || dialog.open ? null : actions[event.key];
    if (action?.() === true) event.preventDefault();
  });
  document.addEventListener("pointerdown", closeMenusOutside);
}

/** Whether the focus is where keys have a meaning of their own. */
function isTyping(target) {
  return Boolean(target.closest?.("input, textarea, select, [contenteditable], [role=slider], .scroller"));
}

function fillKeys(dialog) {
  const rows = KEYS.flatMap(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)]);
  dialog.append(
    el("h2", { id: "keys-title" }, "Keys"),
    el("dl", {}, ...rows),
    el("p", { class: "note" }, IN_HEATMAP),
    el("form", { method: "dialog" }, el("button", { class: "main-button" }, "Close")),
  );
}

/** Close one thing: a dialog and a popover close themselves, then menus, the panel at the end. */
function closeOne(store) {
  if (document.querySelector("dialog[open], :popover-open")) return;
  const menu = document.querySelector(".menu[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
    return;
  }
  const { selected } = store.get();
  if (!selected) return;
  store.select(null);
  document.querySelector(`[data-testid="token-${selected.position}"]`)?.focus();
}

function closeMenusOutside(event) {
  for (const menu of document.querySelectorAll(".menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
}

function moveToken(store, step) {
  const { selected, tokens } = store.get();
  const focused = document.activeElement?.dataset?.position;
  const from = selected?.position ?? (focused === undefined ? null : Number(focused));
  if (from === null || !tokens[from + step]) return false;
  if (selected) store.select(from + step);
  const button = document.querySelector(`[data-testid="token-${from + step}"]`);
  button?.focus({ preventScroll: Boolean(selected) });
  return true;
}

function moveLayer(store, step) {
  const { panel, layer } = store.get();
  const count = panel?.header?.n_states ?? 0;
  if (!count) return false;
  const next = layer === null ? count - 1 : Math.max(0, Math.min(count - 1, layer + step));
  store.set({ layer: next });
  const row = document.querySelector(`.view:not([hidden]) [data-index="${next}"]`);
  row?.scrollIntoView({ block: "nearest" });
  const found = panel.states.get(next);
  if (found) announce(spokenState(found));
  return true;
}

function focusSearch() {
  const tool = document.getElementById("tool-search");
  tool.open = true;
  tool.querySelector("input")?.focus();
  return true;
}
