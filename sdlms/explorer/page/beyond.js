/** What the panel itself does not say of the final first guess. */

import { cellOf, readingOf, statesOf } from "./readings.js";

/**
 * The final first guess at layers where it is none of the guesses: asked for when all else has come,
 * unless that would have the model read the conversation again.
 */
export function createBeyond(store, api, onCome) {
  let asked = "";
  let running = null;
  let found = new Map();

  async function ask({ conversation_id: id, position, lens }, tokenId) {
    running?.abort();
    running = new AbortController();
    found = new Map();
    const key = asked;
    try {
      const states = await api.pinned({ conversation: id, position, lens, token: tokenId }, running.signal);
      if (key !== asked) return;
      found = new Map(states.map((state) => [state.index, state.cells[0].pins[0]]));
      onCome();
    } catch (error) {
      if (error.name !== "AbortError") store.fail(error);
    }
  }

  return {
    /** The same tokens, the final first guess with what is known of it at all layers. */
    of(panel, tokens) {
      const top = tokens.find((token) => token.style === "curve-top");
      const states = statesOf(panel);
      const isKnown = !top || states.every((state) => readingOf(cellOf(state), top.token_id));
      if (isKnown || panel.status !== "done") return tokens;
      const key = `${panel.key} ${top.token_id}`;
      const isFree = store.get().info?.store_hidden !== "none";
      if (key !== asked && isFree) {
        asked = key;
        ask(panel.header, top.token_id);
      }
      return tokens.map((token) => (token === top && key === asked ? { ...top, beyond: found } : token));
    },
  };
}
