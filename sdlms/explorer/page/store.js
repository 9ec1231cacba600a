/**
 * The page's one state, and who is told when it changes.
 *
 *   info           GET /api/model_info, or null before it came
 *   conversations  GET /api/conversations
 *   conversation   {conversation_id, title, persisted} of the open one, or null: a new one
 *   tokens         Tokens of the open conversation; index = position
 *   selected       {conversation, position} of the clicked token, or null: the panel is closed
 *   compare        {position, header, states, status} of the token to compare with, or null; who chooses one
 *                  sets {position}, compare.js reads the rest
 *   view           "list" | "heatmap"
 *   lens           "logit" | "tuned"
 *   colour         a key of colours.js: "probability", "entropy", "next_rank", "kl", "pin_rank:ID"
 *   pins           [{token_id, text, slot}] in the order in which they were pinned; slot 0..7 is the
 *                  colour and dash that the pin keeps while it lives
 *   layer          index of the state that the keyboard stands on, or null
 *   panel          {key, header, states: Map(index -> state), status} of the selected token (a cell of a
 *                  state is null until it has come; the selected token's, the last, is the first), or
 *                  null; status "loading" | "done" | "failed". Replaced, never changed in place.
 *   cacheStatus    GET /api/cache/status, or null
 *   busy           {conversation, abort()} while a reply is streamed, else null
 *   settings       {temperature, top_p, seed, max_new_tokens}
 *   theme          "light" | "dark", as shown
 *   errors         [{id, text, isUnreachable}]: whether nothing answered
 */

const MOST_PINS = 8;
const MOST_ERRORS = 4;

const START = {
  info: null,
  conversations: [],
  conversation: null,
  tokens: [],
  selected: null,
  compare: null,
  view: "list",
  lens: "logit",
  colour: "probability",
  pins: [],
  layer: null,
  panel: null,
  cacheStatus: null,
  busy: null,
  settings: { temperature: 0, top_p: 1, seed: 0, max_new_tokens: 64 },
  theme: "light",
  errors: [],
};

/** How many pins there may be: each has a slot, and the server takes so many in one question. */
const mostPins = (info) => Math.min(MOST_PINS, info?.limits.max_pins ?? MOST_PINS);

function withPin(pins, { token_id, text }) {
  const slots = pins.map((pin) => pin.slot);
  const slot = Array.from({ length: MOST_PINS }, (_, n) => n).find((n) => !slots.includes(n));
  return [...pins, { token_id, text, slot }];
}

/** A store: `get`, `set`, `on`, and the few changes that more than one module makes. */
export function createStore(start = {}) {
  let state = { ...START, ...start };
  const listeners = new Set();
  let nextError = 1;
  let isFailing = false;

  /** One that fails keeps none of the others from being told, nor the caller of `set` from going on. */
  const call = (callback) => {
    try {
      callback(state);
    } catch (error) {
      reportError(error);
      if (isFailing) return; // it is the line itself that cannot be shown
      isFailing = true;
      store.fail(`A part of the page failed, the rest goes on (${error.message}).`);
      isFailing = false;
    }
  };

  const tell = (keys) => {
    for (const listener of [...listeners]) {
      if (keys.some((key) => listener.keys.has(key))) call(listener.callback);
    }
  };

  const store = {
    /** The state; not to be changed by who reads it. */
    get: () => state,

    /** Take over `patch`; those who listen to a key that became another value are called at once. */
    set(patch) {
      const changed = Object.keys(patch).filter((key) => !Object.is(state[key], patch[key]));
      if (!changed.length) return;
      state = { ...state, ...patch };
      tell(changed);
    },

    /** Call `callback(state)` whenever one of `keys` changes. Returns a function that ends it. */
    on(keys, callback) {
      const listener = { keys: new Set([keys].flat()), callback };
      listeners.add(listener);
      return () => listeners.delete(listener);
    },

    /** Click the token at `position` of the open conversation; null closes the panel. */
    select(position) {
      const { conversation, tokens } = state;
      if (position === null || !conversation || !tokens[position]) store.set({ selected: null });
      else store.set({ selected: { conversation: conversation.conversation_id, position } });
    },

    /** Pin a token {token_id, text}, or take its pin away. The oldest of too many pins goes. */
    togglePin(token) {
      const others = state.pins.filter((pin) => pin.token_id !== token.token_id);
      const isPinned = others.length < state.pins.length;
      if (isPinned) store.set({ pins: others });
      else store.set({ pins: withPin(others.slice(Math.max(0, others.length + 1 - mostPins(state.info))), token) });
    },

    /** Show an error (an Error or a text) as a line that the reader can dismiss. */
    fail(error) {
      if (error?.name === "AbortError") return;
      const text = typeof error === "string" ? error : (error?.message ?? String(error));
      const others = state.errors.filter((known) => known.text !== text);
      const line = { id: nextError++, text, isUnreachable: error?.status === 0 };
      store.set({ errors: [...others, line].slice(-MOST_ERRORS) });
    },

    /** The server has answered: lines that say it does not are taken away. */
    answered() {
      const { errors } = state;
      if (errors.some((error) => error.isUnreachable)) {
        store.set({ errors: errors.filter((error) => !error.isUnreachable) });
      }
    },

    /** Take an error's line away. */
    dismiss(id) {
      store.set({ errors: state.errors.filter((error) => error.id !== id) });
    },
  };
  return store;
}
