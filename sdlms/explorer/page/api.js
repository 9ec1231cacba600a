/** The server's routes, one function each, and the panels that were read already. */

const MOST_PANELS = 200;
const MOST_PREFETCHES = 2;

/** What the server refused: its status (0: nothing answered, null: the answer broke off) and its one line. */
class ApiError extends Error {
  constructor(status, detail) {
    super(status === 429 ? `${detail.replace(/\.$/, "")}. Try again in a moment.` : detail);
    this.name = "ApiError";
    this.status = status;
  }
}

// ---------------------------------------------------------------- routes

export const modelInfo = () => asJson("api/model_info");
export const conversations = () => asJson("api/conversations");
export const conversation = (id, signal) => asJson(`api/conversations/${path(id)}`, { signal });
export const cacheStatus = () => asJson("api/cache/status");

/** Change `{title?, persisted?}`. */
export const updateConversation = (id, patch) =>
  asJson(`api/conversations/${path(id)}`, { method: "PATCH", ...body(patch) });

/** Delete the conversation and all that is stored of it. */
export async function deleteConversation(id) {
  await opened(`api/cache/${path(id)}`, { method: "DELETE" });
  forgetPanels(id);
}

/** Attention of the token at `position`: `{position, positions, layers: [{layer, heads}], n_left_out, left_out_layers}`. */
export const attention = (id, position, signal) =>
  asJson(`api/attention/${path(id)}/${position}`, { signal });

/** `parameters`: text or token_id, layer, least, lens, limit. */
export const search = (id, parameters, signal) =>
  asJson(`api/search/${path(id)}${query(parameters)}`, { signal });

export const tokensOf = (text, signal) => asJson(`api/tokens${query({ text })}`, { signal });

/** The token of an id, in the same form as `tokensOf`. */
export const tokenOf = (tokenId, signal) => asJson(`api/tokens${query({ token_id: tokenId })}`, { signal });

export const overview = (id, lens, signal) =>
  asJson(`api/overview/${path(id)}${query({ lens })}`, { signal });

/** Where the browser downloads the conversation; format "json" | "csv" | "html". */
export const exportUrl = (id, format) => `api/export/${path(id)}${query({ format })}`;

/** Stream a reply: `onEvent` is called with each object of the stream ("start", "token", "done"). */
export const chat = (request, onEvent, signal) =>
  events("api/chat/with-activations", request, onEvent, signal);

/** The same from an alternative token: `{position, token_id, …sampling}`. */
export const regenerate = (id, request, onEvent, signal) =>
  events(`api/conversations/${path(id)}/regenerate`, request, onEvent, signal);

async function events(address, request, onEvent, signal) {
  const response = await opened(address, {
    method: "POST",
    ...body({ ...request, stream: true }),
    signal,
  });
  await streamLines(response, onEvent);
}

// ---------------------------------------------------------------- requests

const path = encodeURIComponent;

function query(parameters) {
  const known = Object.entries(parameters).filter(([, v]) => v !== null && v !== undefined && v !== "");
  return known.length ? `?${new URLSearchParams(known)}` : "";
}

function body(value) {
  return { body: JSON.stringify(value), headers: { "Content-Type": "application/json" } };
}

async function opened(address, options = {}) {
  let response;
  try {
    response = await fetch(address, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server does not answer. Is `sdlms explore` still running?");
  }
  if (!response.ok) throw new ApiError(response.status, await detailOf(response));
  return response;
}

async function detailOf(response) {
  const fallback = `${response.status} ${response.statusText}`;
  try {
    const { detail } = await response.json();
    return typeof detail === "string" ? detail : fallback;
  } catch {
    return fallback;
  }
}

async function asJson(address, options) {
  return (await opened(address, options)).json();
}

/**
 * Call `onLine` with each object of an ndjson response, then `onPiece` after each piece that the
 * network delivered. A line `{"event": "error"}` is thrown.
 */
async function streamLines(response, onLine, onPiece = () => {}) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  const take = (line) => {
    if (!line.trim()) return;
    const value = JSON.parse(line);
    if (value.event === "error") throw new ApiError(value.status ?? 500, value.detail);
    onLine(value);
  };
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(brokenOff);
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      lines.forEach(take);
      onPiece();
    }
    take(rest);
    onPiece();
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** @returns {never} */
function brokenOff(error) {
  throw error.name === "AbortError" ? error : new ApiError(null, "The connection to the server broke off.");
}

/** What every state says of one token at one position. */
export async function pinned({ conversation: id, position, lens, token }, signal) {
  const asked = query({ include_context: false, lens, pins: token });
  return (await asJson(`api/activations/${path(id)}/${position}${asked}`, { signal })).states;
}

// ---------------------------------------------------------------- panels

/** key -> entry, the least recently used first. An entry is one request and what came of it. */
const panels = new Map();
let waiting = [];
let isPaused = false;

/** What a panel is known by: `{conversation, position, lens, pins: [token_id]}`. */
export function panelKey({ conversation: id, position, lens = "logit", pins = [] }) {
  return [id, position, lens, pins.join(",")].join("/");
}

/**
 * The panel of a token, from what was read already or from the server.
 *
 * `onChange(entry)` is called at once if something is known, and whenever more came, with
 * `entry = {key, header, states: Map(index -> state), status, error}`. Returns a function that
 * stops listening; a request that nobody listens to is aborted.
 */
export function activations(wanted, onChange) {
  const key = panelKey(wanted);
  waiting = [];
  for (const other of panels.values()) if (other.key !== key) abandon(other);
  const entry = panels.get(key) ?? request(wanted, key);
  refresh(entry);
  entry.listeners.add(onChange);
  if (entry.header) onChange(entry);
  return () => {
    entry.listeners.delete(onChange);
    abandon(entry);
  };
}

/** Read the panel of a token before it is asked for; two at a time, none while paused. */
export function prefetch(wanted) {
  const key = panelKey(wanted);
  if (isPaused || panels.has(key) || waiting.some((other) => panelKey(other) === key)) return;
  waiting.push(wanted);
  prefetchNext();
}

/** Stop prefetching (a reply is streamed), or allow it again. */
export function pausePrefetch(paused) {
  isPaused = paused;
  waiting = [];
  if (paused) for (const entry of panels.values()) abandon(entry);
}

/** Forget the panels of a conversation. */
function forgetPanels(id) {
  for (const [key, entry] of panels) if (key.startsWith(`${id}/`)) drop(entry);
}

function prefetchNext() {
  const running = [...panels.values()].filter((entry) => entry.isPrefetch && entry.status === "loading");
  if (isPaused || !waiting.length || running.length >= MOST_PREFETCHES) return;
  const wanted = waiting.shift();
  const key = panelKey(wanted);
  if (!panels.has(key)) request(wanted, key).isPrefetch = true;
  prefetchNext();
}

function request(wanted, key) {
  const entry = {
    key,
    header: null,
    states: new Map(),
    status: "loading",
    error: null,
    isPrefetch: false,
    listeners: new Set(),
    abort: new AbortController(),
  };
  refresh(entry);
  receive(entry, wanted);
  return entry;
}

async function receive(entry, { conversation: id, position, lens, pins }) {
  const address = `api/activations/${path(id)}/${position}${query({
    lens,
    pins: pins?.join(","),
    stream: true,
  })}`;
  try {
    const response = await opened(address, { signal: entry.abort.signal });
    const line = (value) => {
      // The clicked token alone may come first, with one cell a state; another header begins the whole.
      if (value.positions) Object.assign(entry, { header: value, states: new Map() });
      else entry.states.set(value.index, value);
    };
    await streamLines(response, line, () => tell(entry));
    entry.status = "done";
  } catch (error) {
    entry.status = "failed";
    entry.error = error;
  }
  if (entry.status === "failed" || !isFinal(entry)) drop(entry);
  tell(entry);
  if (entry.isPrefetch) prefetchNext();
}

/** Whether the answer will stay as it is: the last token's row changes when its next one is known. */
function isFinal(entry) {
  const [first] = entry.states.values();
  return Boolean(first?.cells.at(-1)?.next);
}

function tell(entry) {
  for (const listener of entry.listeners) listener(entry);
}

/** The entry is the one that was used last; those that nobody looked at for longest go. */
function refresh(entry) {
  panels.delete(entry.key);
  panels.set(entry.key, entry);
  for (const oldest of panels.values()) {
    if (panels.size <= MOST_PANELS) break;
    if (!oldest.listeners.size) drop(oldest);
  }
}

function abandon(entry) {
  if (entry.status === "loading" && !entry.listeners.size) drop(entry);
}

function drop(entry) {
  if (panels.get(entry.key) === entry) panels.delete(entry.key);
  if (entry.status === "loading") entry.abort.abort();
}
