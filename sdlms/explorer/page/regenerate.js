/** The reply once more from another token: a new conversation; the old one stays. */

import { followReply } from "./replies.js";
import { el, keepingFocus, percent, shownText, visible } from "./dom.js";
import { isOpen, onOpen, statesOf } from "./readings.js";

export function mount(container, store, api) {
  const said = el("p", { class: "note", role: "status", dataset: { testid: "regenerate-status" } });
  const list = el("ul", { class: "choices", dataset: { testid: "alternatives" } });
  const field = el("input", {
    id: "regenerate-text",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    placeholder: "a blank before it counts",
    dataset: { testid: "regenerate-text" },
  });
  const submit = el("button", { type: "submit", dataset: { testid: "regenerate-go" } }, "Regenerate");
  const form = el(
    "form",
    { class: "row", onsubmit: (event) => fromText(event) },
    el("label", { for: "regenerate-text" }, "Another token"),
    field,
    submit,
  );
  container.append(said, list, form);

  async function fromText(event) {
    event.preventDefault();
    const { selected } = store.get();
    try {
      const { tokens } = await api.tokensOf(field.value);
      if (tokens.length === 1) await start(tokens[0].token_id, selected);
      else said.textContent = `“${visible(field.value)}” is ${tokens.length} tokens; one is needed.`;
    } catch (error) {
      said.textContent = error.message;
    }
  }

  async function start(tokenId, selected) {
    const { busy, settings } = store.get();
    if (busy || !selected) return;
    const request = { position: selected.position, token_id: tokenId, ...settings };
    await followReply(store, api, (onEvent, signal) =>
      api.regenerate(selected.conversation, request, onEvent, signal),
    );
  }

  function show() {
    if (!isOpen(container)) return;
    const state = store.get();
    const refused = refusal(state);
    form.hidden = refused !== null;
    submit.disabled = Boolean(state.busy);
    const alternatives = refused ? [] : alternativesOf(state);
    said.textContent = refused ?? question(state, alternatives);
    const choose = (tokenId) => start(tokenId, state.selected);
    keepingFocus(list, () =>
      list.replaceChildren(...alternatives.map((each) => choice(each, choose, Boolean(state.busy)))),
    );
  }

  store.on(["panel", "selected", "busy", "tokens"], show);
  onOpen(container, show);
  show();
}

/** Why the selected token cannot be another one, or null. */
function refusal({ selected, tokens }) {
  const token = selected && tokens[selected.position];
  if (!token) return "Click a token of a reply.";
  return token.role === "assistant" && !token.is_template
    ? null
    : "Only a token of a reply can be another one; this one was given to the model.";
}

/** What the final state says at the position before: the clicked token was drawn from it. */
function alternativesOf({ panel, selected, tokens }) {
  const before = panel?.header?.positions.indexOf(selected.position - 1) ?? -1;
  const cell = statesOf(panel).at(-1)?.cells[before];
  const taken = tokens[selected.position].id;
  return cell ? cell.top.filter(({ token_id: id }) => id !== taken) : [];
}

function question({ selected, tokens, panel }, alternatives) {
  const token = shownText(tokens[selected.position]);
  if (alternatives.length) return `Instead of ${token} at position ${selected.position}, and then on:`;
  return panel?.header ? `What could stand instead of ${token}?` : "reading…";
}

function choice({ token_id: id, text, probability }, onChoose, isBusy) {
  const button = el(
    "button",
    {
      type: "button",
      class: "choice",
      disabled: isBusy,
      dataset: { testid: `alternative-${id}` },
      "aria-label": `Regenerate with ${visible(text)}, ${percent(probability)}`,
      onclick: () => onChoose(id),
    },
    el("span", { class: "token-text" }, visible(text)),
    " ",
    el("span", { class: "number" }, percent(probability)),
  );
  return el("li", {}, button);
}
