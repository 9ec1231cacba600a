/** Asks for the panel of the selected token, and keeps `store.panel` what has come of it. */

import { prefetchAt } from "./chat.js";

const NEIGHBOURS = [1, -1, 2, -2];
const NEIGHBOURS_AFTER_MS = 120;
const PIECES_EVERY_MS = 40;
const EMPTY_AFTER_MS = 50; // most answers are there by then: drawing empty rows before would cost a frame

/** Keep `store.panel` what the selected token, lens and pins ask for. */
export function mountReading(store, api) {
  let stop = () => {};
  let reading = "";
  let timer = 0;
  let emptying = 0;
  const painter = createPainter();

  /** The neighbours wait a moment: a reader who clicks on must not wait for them. */
  const prefetchNeighbours = (position) => {
    const positions = NEIGHBOURS.map((step) => position + step);
    timer = setTimeout(() => prefetchAt(store, api, positions), NEIGHBOURS_AFTER_MS);
  };

  const read = (state) => {
    const { selected, lens, pins, tokens } = state;
    const wanted = selected && { ...selected, lens, pins: pins.map((pin) => pin.token_id) };
    const isNextKnown = wanted && selected.position + 1 < tokens.length;
    const key = wanted ? `${api.panelKey(wanted)} ${isNextKnown}` : "";
    if (key === reading) return;
    reading = key;
    stop();
    clearTimeout(timer);
    clearTimeout(emptying);
    painter.cancel();
    if (!wanted) return store.set({ panel: null });
    let isOver = false;
    stop = api.activations(wanted, (entry) => {
      isOver = entry.status !== "loading";
      if (key !== reading) return;
      const show = () => {
        clearTimeout(emptying);
        take(store, entry, wanted);
      };
      if (entry.status === "loading") return painter.soon(show);
      painter.now(show);
      if (entry.status === "done") prefetchNeighbours(wanted.position);
      else reading = null; // asked for once more, it is read again
    });
    if (isOver) return;
    const empty = () => store.set({ panel: placeholder(store.get(), wanted) });
    if (isOf(state.panel, wanted)) empty();
    else emptying = setTimeout(empty, EMPTY_AFTER_MS);
  };
  store.on(["selected", "lens", "pins", "busy", "tokens"], read);
}

/**
 * Draws what comes in many pieces, in a frame every while: an answer that is there at once costs no
 * frame on the way. A later drawing replaces one that waits.
 */
function createPainter() {
  let waiting = null;
  let timer = 0;
  let frame = 0;
  const cancel = () => {
    clearTimeout(timer);
    cancelAnimationFrame(frame);
    waiting = null;
  };
  const paint = () => {
    const draw = waiting;
    waiting = null;
    draw();
  };
  const soon = (draw) => {
    const isLater = waiting !== null;
    waiting = draw;
    if (!isLater) timer = setTimeout(() => (frame = requestAnimationFrame(paint)), PIECES_EVERY_MS);
  };
  const now = (draw) => {
    cancel();
    draw();
  };
  return { cancel, soon, now };
}

/** What is shown until the first line comes: empty rows, or the same token's rows as they were. */
function placeholder(state, wanted) {
  const { panel, info, tokens } = state;
  const token = tokens[wanted.position];
  if (isOf(panel, wanted)) return { ...panel, status: "loading" };
  const first = Math.max(0, wanted.position - (info?.limits.context_size ?? 0));
  const context = tokens.slice(first, wanted.position + 1);
  const header = {
    conversation_id: wanted.conversation,
    position: wanted.position,
    lens: wanted.lens,
    positions: context.map((one) => one.position),
    tokens: context,
    n_states: info?.states.length ?? 0,
    decided_at: null,
    source: null,
  };
  return { key: "", header: token ? header : null, states: new Map(), status: "loading" };
}

/** "" without a selected token; "loading" also while the panel is still that of another one. */
export function statusOf({ panel, selected, lens }) {
  if (!selected) return "";
  return isOf(panel, { ...selected, lens }) ? panel.status : "loading";
}

/** Whether the panel is already of the token and lens that are wanted. */
export function isOf(panel, { conversation, position, lens }) {
  const header = panel?.header;
  return header?.conversation_id === conversation && header.position === position && header.lens === lens;
}

function take(store, entry, wanted) {
  const { panel } = store.get();
  if (entry.status === "failed") {
    store.fail(entry.error);
    return store.set({ panel: { ...placeholder(store.get(), wanted), status: "failed" } });
  }
  const known = isOf(panel, wanted) ? panel : null;
  const header = withContext(entry.header, known?.header);
  const states = aligned([...(known?.states ?? []), ...entry.states], header.positions.length);
  store.set({ panel: { key: entry.key, header, states, status: entry.status } });
}

/** The header of an answer; that of the clicked token alone leaves the known context as it is. */
function withContext(header, known) {
  if (!known || known.positions.length <= header.positions.length) return header;
  return { ...header, positions: known.positions, tokens: known.tokens };
}

/**
 * States by index, each with a cell for each of `count` positions: what came later replaces what is
 * known, from the clicked token's cell (the last) backwards. A cell that has not come is null.
 */
function aligned(states, count) {
  const found = new Map();
  for (const [index, state] of states) {
    const missing = count - state.cells.length;
    const known = found.get(index)?.cells ?? Array(count).fill(null);
    const cells = [...known.slice(0, missing), ...state.cells];
    found.set(index, missing ? { ...state, cells } : state);
  }
  return found;
}
