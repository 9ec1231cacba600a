/** A reply while it is streamed: its tokens, what is said of it, and what comes after it. */

import { announce, counted } from "./dom.js";

/**
 * Show a reply while it comes: `stream(onEvent, signal)` is `api.chat` or `api.regenerate`.
 *
 * `pending` is the text to show until its tokens are known. Resolves to whether the server took
 * the request, be the reply whole or not; errors become lines on the page.
 */
export async function followReply(store, api, stream, pending = "") {
  const abort = new AbortController();
  const status = document.getElementById("reply-status");
  const speaker = createSpeaker();
  const from = store.get().conversation?.conversation_id ?? null;
  const reply = { id: null, from, count: 0, started: performance.now() };
  store.set({ busy: { conversation: null, pending, abort: () => abort.abort() } });
  api.pausePrefetch(true);
  status.textContent = "reading the prompt…";
  const onEvent = (event) => {
    receive(store, api, reply, event);
    if (event.event === "token") speaker.add(event.token);
    status.textContent = statusOf(reply, event);
  };
  try {
    await stream(onEvent, abort.signal);
  } catch (error) {
    if (error.name === "AbortError") status.textContent = "stopped";
    else status.textContent = reply.id ? "the reply broke off" : "";
    store.fail(error);
    if (reply.id) await reopen(store, api, reply.id);
  } finally {
    speaker.end();
    api.pausePrefetch(false);
    store.set({ busy: null });
    refreshLists(store, api);
  }
  return reply.id !== null;
}

function receive(store, api, reply, event) {
  if (event.event === "start") start(store, api, reply, event);
  else if (event.event === "token") append(store, api, reply.id, [event.token]);
  else if (event.event === "done") settle(store, api, reply.id, event.tokens ?? []);
}

/** The tokens of a whole reply: its end can make template tokens of some that had come before. */
function settle(store, api, id, final) {
  append(store, api, id, final);
  const { conversation, tokens } = store.get();
  if (conversation?.conversation_id !== id) return;
  const settled = new Map(final.map((token) => [token.position, token]));
  store.set({ tokens: tokens.map((token) => settled.get(token.position) ?? token) });
}

/** Show the message's tokens, for a fork all tokens before them, unless the reader went elsewhere. */
function start(store, api, reply, event) {
  const state = store.get();
  const here = state.conversation?.conversation_id ?? null;
  const id = event.conversation_id;
  reply.id = id;
  store.set({ busy: { ...state.busy, conversation: id, pending: "" } });
  if (here !== reply.from) return;
  const known = event.tokens ?? state.tokens;
  if (here === id) {
    store.set({ tokens: withLeft(known, event.left_positions) });
  } else {
    const conversation = { conversation_id: id, title: "", persisted: false };
    const tokens = withLeft(event.tokens ?? [], event.left_positions);
    store.set({ conversation, tokens, selected: moved(state.selected, id, tokens), compare: null });
  }
  append(store, api, id, event.userTokens ?? []);
}

/** The clicked position in a fork: there stands the alternative now. */
function moved(selected, conversation, tokens) {
  return selected && tokens[selected.position] ? { ...selected, conversation } : null;
}

function withLeft(tokens, positions = []) {
  const left = new Set(positions);
  if (!left.size) return tokens;
  return tokens.map((token) => (left.has(token.position) ? { ...token, in_prompt: false } : token));
}

/** Tokens at the end of the open conversation; known ones are left as they are. */
function append(store, api, id, fresh) {
  const { conversation, tokens } = store.get();
  if (conversation?.conversation_id !== id) return;
  const next = fresh.filter((token) => token.position >= tokens.length);
  if (!next.length) return;
  if (next[0].position > tokens.length) reopen(store, api, id);
  else store.set({ tokens: [...tokens, ...next] });
}

const readings = new Map(); // id -> the reading that goes on

/** Read the open conversation anew; who asks meanwhile waits for the same reading. */
function reopen(store, api, id) {
  if (!readings.has(id)) readings.set(id, reread(store, api, id).finally(() => readings.delete(id)));
  return readings.get(id);
}

async function reread(store, api, id) {
  try {
    const { tokens, ...conversation } = await api.conversation(id);
    if (store.get().conversation?.conversation_id === id) store.set({ conversation, tokens });
  } catch (error) {
    store.fail(error);
  }
}

/** Read the list of conversations and the cache's state again, and the open one where it changed. */
export async function refreshLists(store, api) {
  try {
    const [conversations, cacheStatus] = await Promise.all([api.conversations(), api.cacheStatus()]);
    store.answered();
    store.set({ conversations, cacheStatus });
    const { conversation, tokens, busy } = store.get();
    const id = conversation?.conversation_id;
    const known = conversations.find((one) => one.conversation_id === id);
    if (!known || busy) return;
    if (known.n_tokens !== tokens.length) await reopen(store, api, id);
    else if (known.title !== conversation.title) {
      store.set({ conversation: { ...conversation, title: known.title } });
    }
  } catch (error) {
    store.fail(error);
  }
}

const FINISHES = {
  stop: "the model ended its reply",
  length: "stopped at the limit of new tokens",
  cancelled: "stopped",
};

function statusOf(reply, event) {
  if (event.event === "start") return "writing…";
  if (event.event === "token") {
    reply.count += 1;
    return `writing… ${counted(reply.count, "token")}`;
  }
  const seconds = event.seconds ?? (performance.now() - reply.started) / 1000;
  const left = event.left ? `; ${counted(event.left, "token")} left the prompt` : "";
  const count = counted(reply.count, "token");
  return `${count} in ${seconds.toFixed(1)} s, ${FINISHES[event.finish] ?? event.finish}${left}`;
}

/** Says a reply to screen readers in sentences, not token by token. */
function createSpeaker() {
  let text = "";
  const flush = () => {
    if (text.trim()) announce(text);
    text = "";
  };
  return {
    add(token) {
      if (token.is_template) return;
      text += token.text;
      if (/[.!?\n]$/u.test(text) && text.length > 40) flush();
    },
    end: flush,
  };
}
