/** The conversation as a file, and the address of what is on the screen. */

import { announce, el } from "./dom.js";

const FORMATS = [
  ["json", "JSON", "everything: tokens, layers, predictions"],
  ["csv", "CSV", "a row per token and layer"],
  ["html", "HTML", "a page that needs nothing else"],
];

export function mount(container, store, api) {
  const links = FORMATS.map(([format, name, what]) =>
    el("a", { dataset: { format, testid: `export-${format}` }, title: what }, name),
  );
  const note = el("p", { class: "note" }, "Send a message first: there is nothing to export yet.");
  const address = el("input", {
    id: "permalink",
    readonly: true,
    hidden: true,
    "aria-label": "Address of this view",
  });
  const copy = el(
    "button",
    { type: "button", dataset: { testid: "permalink" }, onclick: () => copyAddress(address) },
    "Copy the address of this view",
  );
  const files = el("p", { class: "row" }, "Download as", ...links);
  container.append(files, note, copy, address);

  function show({ conversation }) {
    files.hidden = copy.hidden = !conversation;
    note.hidden = Boolean(conversation);
    address.hidden = true;
    for (const link of links) setLink(link, conversation, api);
  }

  store.on("conversation", show);
  show(store.get());
}

function setLink(link, conversation, api) {
  if (!conversation) return link.removeAttribute("href");
  const { format } = link.dataset;
  link.href = api.exportUrl(conversation.conversation_id, format);
  link.download = `${conversation.conversation_id}.${format}`;
}

/** Into the clipboard, or, where the browser allows that to no page, marked in a field. */
async function copyAddress(field) {
  try {
    await navigator.clipboard.writeText(location.href);
    announce("The address is copied");
  } catch {
    field.hidden = false;
    field.value = location.href;
    field.focus();
    field.select();
  }
}
