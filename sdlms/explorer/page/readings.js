/** What a panel says about the token that was clicked: the last of each state's cells. */

/** The states that have come, in the order of the forward pass (the final one last). */
export function statesOf(panel) {
  if (!panel?.states) return [];
  return [...panel.states.values()].sort((first, second) => first.index - second.index);
}

/** The clicked token's cell of a state. */
export const cellOf = (state) => state.cells.at(-1);

/** Where a pinned token stands in a cell: `{probability, rank}`, or null while it is not known. */
function pinIn(cell, tokenId) {
  return cell.pins?.find((pin) => pin.token_id === tokenId) ?? null;
}

/**
 * What the curves follow, `{token_id, text, style, role}`: the pins, the final state's first guess
 * and the actual next token, each token once.
 */
export function followed(states, pins) {
  const pinned = pins.map((pin) => ({ ...pin, style: `pin-${pin.slot}`, role: "" }));
  const { top = [], next = null } = states.length ? cellOf(states.at(-1)) : {};
  const [first] = top;
  const isGuessed = first && next?.token_id === first.token_id;
  const own = [
    first && { ...named(first), style: "curve-top", role: isGuessed ? "final top-1, actual next" : "final top-1" },
    next && !isGuessed && { ...named(next), style: "curve-next", role: "actual next" },
  ];
  const isPinned = ({ token_id }) => pins.some((pin) => pin.token_id === token_id);
  return [...pinned, ...own.filter((token) => token && !isPinned(token))];
}

const named = ({ token_id, text }) => ({ token_id, text });

/** What a cell says of a token: `{probability, rank}`, or null where it is not among what it knows. */
export function readingOf(cell, tokenId) {
  const isIt = (known) => known?.token_id === tokenId;
  return pinIn(cell, tokenId) ?? (isIt(cell.next) ? cell.next : (cell.top.find(isIt) ?? null));
}

/** "block 3", "the embedding": a layer number of `decided_at`. */
export function decidedName(layer) {
  if (layer === null || layer === undefined) return "not known";
  return layer < 0 ? "the embedding" : `block ${layer}`;
}

/** A state's short name for an axis: "emb", "3". */
export const tickName = ({ layer }) => (layer < 0 ? "emb" : String(layer));

/** Whether the tool that holds `container` is open; what is not open fetches nothing. */
export function isOpen(container) {
  return container.closest("details")?.open ?? true;
}

/** Call `callback` when the tool that holds `container` is opened. */
export function onOpen(container, callback) {
  const tool = container.closest("details");
  tool?.addEventListener("toggle", () => tool.open && callback());
}
