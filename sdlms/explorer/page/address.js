/** The page's address keeps what is shown, so that a reload or a link brings it back. */

import { isMeasure } from "./colours.js";
import { begin, hasAsked, openConversation } from "./conversations.js";

const KEPT = ["conversation", "selected", "view", "lens", "colour", "pins"];
const VIEWS = ["list", "heatmap"];

/** Show what the address says, then keep the address up to date. */
export async function mountAddress(store, api) {
  await follow(store, api, { isFirst: true });
  let written = location.hash;
  const write = (state) => {
    const hash = hashOf(state);
    if (hash === written) return;
    written = hash;
    history.replaceState(null, "", hash || location.pathname);
  };
  store.on(KEPT, write);
  write(store.get());
  if (!store.get().conversation && matchMedia("(pointer: fine)").matches) {
    document.getElementById("message").focus();
  }
  window.addEventListener("hashchange", () => {
    if (location.hash === written) return;
    written = location.hash;
    follow(store, api, { isFirst: false });
  });
}

function hashOf({ conversation, selected, view, lens, colour, pins }) {
  const parts = new URLSearchParams();
  if (conversation) parts.set("conv", conversation.conversation_id);
  if (selected) parts.set("pos", String(selected.position));
  parts.set("view", view);
  parts.set("lens", lens);
  parts.set("colour", colour);
  if (pins.length) parts.set("pins", pins.map((pin) => pin.token_id).join(","));
  return `#${parts.toString().replaceAll("%2C", ",").replaceAll("%3A", ":")}`;
}

/** Show what the address says; the first time nothing is closed: a message may have been sent already. */
async function follow(store, api, { isFirst }) {
  const parts = new URLSearchParams(location.hash.slice(1));
  const { info, conversation } = store.get();
  const patch = {};
  if (VIEWS.includes(parts.get("view"))) patch.view = parts.get("view");
  if (info?.lenses.includes(parts.get("lens"))) patch.lens = parts.get("lens");
  if (isMeasure(parts.get("colour") ?? "")) patch.colour = parts.get("colour");
  store.set(patch);
  if (isFirst && hasAsked()) return; // the reader was faster than the page
  const id = parts.get("conv");
  const position = parts.has("pos") ? Number(parts.get("pos")) : null;
  if (!id) return conversation && !isFirst ? begin(store) : undefined;
  if (id === conversation?.conversation_id) return store.select(position);
  await openConversation(store, api, id, position);
}
