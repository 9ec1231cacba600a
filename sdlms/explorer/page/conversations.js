/** The list of conversations: open, keep, delete, begin a new one. */

import { counted, el, keepingFocus } from "./dom.js";

const SURE_MS = 4000;

/** Fill `#conversation-list`. */
export function mountConversations(store, api) {
  const list = document.getElementById("conversation-list");
  const draw = (state) => {
    const items = state.conversations.map((one) => item(one, state, store, api));
    const none = el("li", { class: "note" }, "No conversation yet.");
    keepingFocus(list, () => list.replaceChildren(...(items.length ? items : [none])));
  };
  store.on(["conversations", "conversation"], draw);
  draw(store.get());
  document.getElementById("new-conversation").addEventListener("click", () => {
    begin(store);
    document.getElementById("message").focus();
  });
}

let nAsked = 0; // how often the reader has gone to another conversation

/** Whether the reader has gone anywhere since the page was loaded. */
export const hasAsked = () => nAsked > 0;

/** An empty page for a new conversation; it exists for the server from its first message on. */
export function begin(store) {
  nAsked += 1;
  store.set({ conversation: null, tokens: [], selected: null, compare: null, panel: null });
}

/**
 * Open a conversation, and the panel of its token at `position` unless null; not where the reader
 * has gone elsewhere, or sent a message, before it came.
 */
export async function openConversation(store, api, id, position = null) {
  nAsked += 1;
  const number = nAsked;
  const wasBusy = store.get().busy !== null;
  try {
    const { tokens, ...conversation } = await api.conversation(id);
    if (number !== nAsked || (store.get().busy && !wasBusy)) return false;
    const selected = tokens[position] ? { conversation: id, position } : null;
    store.set({ conversation, tokens, selected, compare: null, panel: null });
    return true;
  } catch (error) {
    store.fail(error);
    return false;
  }
}

function item(one, state, store, api) {
  const id = one.conversation_id;
  const title = one.title || "untitled";
  const isOpen = state.conversation?.conversation_id === id;
  const open = el(
    "button",
    {
      type: "button",
      class: "conversation-open",
      title,
      dataset: { testid: `conversation-${id}` },
      onclick: () => openConversation(store, api, id),
    },
    title,
  );
  const foot = el(
    "div",
    { class: "conversation-foot" },
    el("span", {}, counted(one.n_tokens, "token")),
    keepButton(one, store, api),
    deleteButton(one, store, api),
  );
  return el("li", { class: "conversation", "aria-current": isOpen ? "true" : null }, open, foot);
}

function keepButton(one, store, api) {
  const { conversation_id: id, persisted } = one;
  const toggle = async () => {
    try {
      await api.updateConversation(id, { persisted: !persisted });
      store.set({ conversations: await api.conversations() });
    } catch (error) {
      store.fail(error);
    }
  };
  return el(
    "button",
    {
      type: "button",
      title: persisted ? "Kept: never evicted from the disk" : "Keep: never evict it from the disk",
      "aria-label": `Keep “${one.title || "untitled"}”`,
      "aria-pressed": String(Boolean(persisted)),
      dataset: { testid: `persist-${id}` },
      onclick: toggle,
    },
    persisted ? "★" : "☆",
  );
}

/** Deletes on the second click; the first asks. */
function deleteButton(one, store, api) {
  const { conversation_id: id } = one;
  const name = `Delete “${one.title || "untitled"}”`;
  let isSure = false;
  const ask = (button, sure) => {
    isSure = sure;
    button.textContent = sure ? "sure?" : "✕";
    button.classList.toggle("sure", sure);
    button.setAttribute("aria-label", sure ? `${name}: click again to delete` : name);
  };
  const clicked = async (event) => {
    const button = event.currentTarget;
    if (isSure) return remove(store, api, id);
    ask(button, true);
    setTimeout(() => ask(button, false), SURE_MS);
  };
  return el(
    "button",
    { type: "button", title: "Delete it", "aria-label": name, dataset: { testid: `delete-${id}` }, onclick: clicked },
    "✕",
  );
}

async function remove(store, api, id) {
  try {
    await api.deleteConversation(id);
    if (store.get().conversation?.conversation_id === id) begin(store);
    const [conversations, cacheStatus] = await Promise.all([api.conversations(), api.cacheStatus()]);
    store.set({ conversations, cacheStatus });
  } catch (error) {
    store.fail(error);
  }
}
