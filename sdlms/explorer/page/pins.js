/** The pinned tokens: what is followed over the layers. They are kept in the hash and the browser. */

import { announce, el, svg, visible } from "./dom.js";

const KEPT = "sdlms.pins";

export function mount(container, store, api) {
  const list = el("ul", { class: "pin-list", dataset: { testid: "pins" } });
  const hint = el("p", { class: "note", role: "status" });
  const choices = el("div", { class: "choices" });
  const field = el("input", {
    id: "pin-text",
    class: "pin-text",
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "a blank before it counts",
    dataset: { testid: "pin-text" },
  });
  const form = el(
    "form",
    { class: "row", onsubmit: (event) => submit(event) },
    el("label", { for: "pin-text" }, "Pin a token"),
    field,
    el("button", { type: "submit", dataset: { testid: "pin-add" } }, "Pin"),
  );
  container.classList.add("pins");
  container.append(list, form, choices, hint);

  async function submit(event) {
    event.preventDefault();
    choices.replaceChildren();
    hint.textContent = "";
    if (!field.value) return;
    try {
      offer((await api.tokensOf(field.value)).tokens);
    } catch (error) {
      hint.textContent = error.message;
    }
  }

  /** One token is pinned at once; of several the reader chooses. */
  function offer(tokens) {
    if (tokens.length === 1) return pin(tokens[0]);
    hint.textContent = `“${visible(field.value)}” is ${tokens.length} tokens. Choose:`;
    choices.append(
      ...tokens.map((token) =>
        el("button", { type: "button", class: "choice", onclick: () => pin(token) }, visible(token.text)),
      ),
    );
  }

  function pin(token) {
    const isPinned = store.get().pins.some((known) => known.token_id === token.token_id);
    if (!isPinned) store.togglePin(token);
    announce(`${visible(token.text)} is pinned`);
    field.value = "";
    hint.textContent = "";
    choices.replaceChildren();
  }

  function show({ pins }) {
    list.replaceChildren(...pins.map((each) => chip(each, () => store.togglePin(each))));
    list.hidden = !pins.length;
  }

  store.on("pins", (state) => {
    show(state);
    keep(state);
  });
  show(store.get());
  restore(store, api);
  window.addEventListener("hashchange", () => {
    if (new URLSearchParams(location.hash.slice(1)).has("pins")) restore(store, api);
  });
}

/** The line of a pin as the curves draw it, so that it is known without its colour. */
function sample(slot) {
  const line = svg("line", { x1: 1, y1: 6, x2: 27, y2: 6, class: `curve pin-${slot}` });
  return svg("svg", { class: "sample", width: 28, height: 12, "aria-hidden": "true" }, line);
}

function chip(pin, onRemove) {
  const name = visible(pin.text);
  const remove = el(
    "button",
    { type: "button", class: "quiet", "aria-label": `Take the pin of ${name} away`, onclick: onRemove },
    "×",
  );
  return el(
    "li",
    { class: `pin pin-${pin.slot}`, dataset: { testid: `pin-${pin.token_id}` } },
    sample(pin.slot),
    el("span", { class: "pin-name", title: `token id ${pin.token_id}` }, name),
    remove,
  );
}

// ---------------------------------------------------------------- kept

/** Token ids mean something to one model only, so its name is kept with them. */
function keep({ info, pins }) {
  if (!info) return;
  const texts = pins.map(({ token_id, text }) => ({ token_id, text }));
  try {
    localStorage.setItem(KEPT, JSON.stringify({ model: info.model_name, pins: texts }));
  } catch {
    // A browser that keeps nothing: the hash still holds the ids.
  }
}

function kept(info) {
  try {
    const { model, pins } = JSON.parse(localStorage.getItem(KEPT));
    return model === info.model_name ? pins : [];
  } catch {
    return [];
  }
}

/** The pins of the address, or else those of the last visit. */
async function restore(store, api) {
  const asked = new URLSearchParams(location.hash.slice(1)).get("pins");
  const info = store.get().info ?? (await new Promise((resolve) => {
    const stop = store.on("info", ({ info: come }) => come && (stop(), resolve(come)));
  }));
  const known = kept(info);
  const pins = asked === null ? known : await named(asked, known, api);
  const isWanted = (known) => asked === null || pins.some((pin) => pin.token_id === known.token_id);
  store.set({ pins: store.get().pins.filter(isWanted) });
  for (const pin of pins) {
    if (!store.get().pins.some((other) => other.token_id === pin.token_id)) store.togglePin(pin);
  }
}

async function named(asked, known, api) {
  const ids = asked.split(",").filter((word) => /^\d{1,9}$/.test(word)).map(Number);
  const texts = new Map(known.map((pin) => [pin.token_id, pin.text]));
  const pins = ids.map(async (id) => texts.has(id) ? { token_id: id, text: texts.get(id) } : asking(id, api));
  return (await Promise.all(pins)).filter((pin) => pin !== null);
}

/** The text of a token id from the server; null where the vocabulary has no such token. */
async function asking(id, api) {
  try {
    return (await api.tokenOf(id)).tokens[0] ?? null;
  } catch {
    return null;
  }
}
