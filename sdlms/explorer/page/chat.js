/** The chat: sending, the messages, and the token that is clicked. */

import { el } from "./dom.js";
import { followReply, refreshLists } from "./replies.js";
import { createTokens } from "./tokens.js";

const HOVER_MS = 80;
const NEAR_END = 40; // pixels

/** Fill `#messages`, `#composer` and `#title`. */
export function mountChat(store, api) {
  const container = document.getElementById("messages");
  const tokens = createTokens(container);
  let open = null;
  let isFollowing = true;

  const draw = (state) => {
    const id = state.conversation?.conversation_id ?? null;
    const isOther = id !== open;
    if (isOther || !state.tokens.length) tokens.reset();
    open = id;
    if (state.tokens.length) tokens.show(state.tokens);
    else container.append(state.busy ? "" : welcome());
    showPending(container, state.busy);
    mark(tokens, state);
    if (!state.busy) isFollowing = true;
    if (state.busy && isFollowing) container.scrollTop = container.scrollHeight;
    else if (isOther && !state.selected) tokens.reveal(state.tokens.length - 1);
  };
  for (const away of ["wheel", "touchmove"]) {
    container.addEventListener(away, () => (isFollowing = false), { passive: true });
  }
  container.addEventListener("scroll", () => (isFollowing = isAtEnd(container)), { passive: true });
  store.on(["tokens", "conversation", "busy"], draw);
  store.on(["selected", "compare", "panel"], (state) => mark(tokens, state));
  store.on("selected", ({ selected }) => {
    if (selected) requestAnimationFrame(() => tokens.reveal(selected.position));
  });
  draw(store.get());

  mountClicks(container, store, api);
  mountComposer(store, api);
  mountTitle(store, api);
}

/** Whether the last lines are in view. */
function isAtEnd({ scrollTop, clientHeight, scrollHeight }) {
  return scrollTop + clientHeight > scrollHeight - NEAR_END;
}

function welcome() {
  return el(
    "div",
    { class: "welcome" },
    el("h3", {}, "What would the model say at every layer?"),
    el("p", {}, "Write a message. The model answers, and every token of both sides becomes a button."),
    el("p", {}, "Click a token: the panel shows, layer by layer, which token the model would put next."),
  );
}

/** The message that was sent, until the server says how it was cut into tokens. */
function showPending(container, busy) {
  container.querySelector(".pending")?.remove();
  if (busy?.pending) container.append(el("p", { class: "message pending" }, busy.pending));
}

/** The clicked token, its context, and the token it is compared with. */
function mark(tokens, { selected, compare, panel, conversation }) {
  const isHere = selected && selected.conversation === conversation?.conversation_id;
  const context = isHere ? panel?.header?.positions : [];
  tokens.mark({ selected: isHere ? selected.position : null, context, compared: compare?.position });
}

// ---------------------------------------------------------------- clicks

function mountClicks(container, store, api) {
  const positionOf = (event) => {
    const button = event.target.closest?.(".token");
    return button ? Number(button.dataset.position) : null;
  };
  container.addEventListener("click", (event) => {
    const position = positionOf(event);
    if (position === null) return;
    if (event.shiftKey && store.get().selected) store.set({ compare: { position } });
    else store.select(position);
  });

  let timer = 0;
  container.addEventListener("pointerover", (event) => {
    clearTimeout(timer);
    const position = positionOf(event);
    if (position === null) return;
    timer = setTimeout(() => prefetchAt(store, api, [position]), HOVER_MS);
  });
  container.addEventListener("pointerleave", () => clearTimeout(timer));
}

/** Read the panels of tokens that are likely to be clicked next. */
export function prefetchAt(store, api, positions) {
  const { conversation, tokens, lens, pins, busy } = store.get();
  if (!conversation || busy) return;
  const ids = pins.map((pin) => pin.token_id);
  for (const position of positions.filter((one) => tokens[one])) {
    api.prefetch({ conversation: conversation.conversation_id, position, lens, pins: ids });
  }
}

// ---------------------------------------------------------------- composer

function mountComposer(store, api) {
  const form = document.getElementById("composer");
  const message = document.getElementById("message");
  const send = document.getElementById("send");
  const abort = document.getElementById("abort");

  const show = ({ busy }) => {
    send.hidden = Boolean(busy);
    abort.hidden = !busy;
    send.disabled = !message.value.trim();
  };
  message.addEventListener("input", () => show(store.get()));
  message.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  abort.addEventListener("click", () => store.get().busy?.abort());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = message.value;
    if (!text.trim() || store.get().busy) return;
    message.value = "";
    const isTaken = await sendMessage(store, api, text);
    if (!isTaken && !message.value) message.value = text;
    show(store.get());
  });
  store.on("busy", show);
  show(store.get());
}

async function sendMessage(store, api, text) {
  const { conversation, settings } = store.get();
  const request = { text, conversation_id: conversation?.conversation_id, ...settings };
  return followReply(store, api, (onEvent, signal) => api.chat(request, onEvent, signal), text);
}

// ---------------------------------------------------------------- title

function mountTitle(store, api) {
  const input = document.getElementById("title");
  const show = ({ conversation }) => {
    input.disabled = !conversation;
    if (document.activeElement !== input) input.value = conversation?.title ?? "";
  };
  input.addEventListener("change", async () => {
    const { conversation } = store.get();
    const title = input.value.trim();
    if (!conversation || !title) return show(store.get());
    try {
      await api.updateConversation(conversation.conversation_id, { title });
      await refreshLists(store, api);
    } catch (error) {
      store.fail(error);
    }
  });
  input.addEventListener("keydown", (event) => event.key === "Enter" && input.blur());
  store.on("conversation", show);
  show(store.get());
}
