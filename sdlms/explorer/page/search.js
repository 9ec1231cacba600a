/** Where in the conversation a token is predicted: at which positions and layers, how probably. */

import { counted, el, percent, shownText, stateName, visible } from "./dom.js";

const LIMIT = 200;

export function mount(container, store, api) {
  const text = el("input", {
    id: "search-text",
    autocomplete: "off",
    spellcheck: "false",
    required: true,
    placeholder: "a blank before it counts",
    dataset: { testid: "search-text" },
  });
  const layer = el("select", { id: "search-layer" });
  const least = el("input", {
    id: "search-least",
    type: "number",
    min: 0,
    max: 1,
    step: "any",
    value: 0.1,
    dataset: { testid: "search-least" },
  });
  const said = el("p", { class: "note", role: "status", dataset: { testid: "search-status" } });
  const found = el("ol", { class: "matches", dataset: { testid: "matches" } });
  const form = el(
    "form",
    { class: "fields", onsubmit: (event) => submit(event) },
    el("label", { for: "search-text" }, "Predicted token"),
    text,
    el("label", { for: "search-layer" }, "Layer"),
    layer,
    el("label", { for: "search-least" }, "Least probability"),
    least,
    el("button", { type: "submit", dataset: { testid: "search-go" } }, "Search"),
  );
  container.classList.add("search");
  container.append(form, said, found);
  let running = null;

  async function submit(event) {
    event.preventDefault();
    running?.abort();
    running = new AbortController();
    found.replaceChildren();
    const { conversation, lens } = store.get();
    if (!conversation) return void (said.textContent = "Send a message first.");
    said.textContent = "searching…";
    const question = { text: text.value, layer: layer.value, least: least.value, lens, limit: LIMIT };
    try {
      const id = conversation.conversation_id;
      show(await api.search(id, question, running.signal));
    } catch (error) {
      if (error.name !== "AbortError") said.textContent = error.message;
    }
  }

  function show({ text: token, n_unfilled: unfilled, n_uncertain: uncertain, matches }) {
    const many = matches.length >= LIMIT ? `the first ${LIMIT} places` : counted(matches.length, "place");
    const rest = unfilled ? `; ${counted(unfilled, "token")} not computed yet` : "";
    const doubt = uncertain ? `; ${doubted(uncertain, store.get().info)}` : "";
    said.textContent = `“${visible(token)}”: ${many}${rest}${doubt}`;
    found.replaceChildren(...matches.map((match) => row(match, store)));
  }

  const clear = () => {
    running?.abort();
    found.replaceChildren();
    said.textContent = "";
  };
  store.on("info", ({ info }) => fillLayers(layer, info));
  fillLayers(layer, store.get().info);
  let open = null;
  store.on("conversation", ({ conversation }) => {
    if (conversation?.conversation_id !== open) clear();
    open = conversation?.conversation_id;
  });
}

/** What is stored ends with a state's likeliest tokens: beyond them there may be more. */
function doubted(count, info) {
  const kept = info ? `the ${info.top_k} likeliest` : "the likeliest";
  return `at ${counted(count, "position")} it may be so probable too, below ${kept} that are kept`;
}

function fillLayers(select, info) {
  const states = [...(info?.states ?? [])].reverse();
  const options = states.map((state) => el("option", { value: state.layer }, stateName(state)));
  select.replaceChildren(el("option", { value: "" }, "any layer"), ...options);
}

/** A match is a button that selects its token. */
function row(match, store) {
  const token = store.get().tokens[match.position];
  const before = token ? `, after ${shownText(token)}` : "";
  return el(
    "li",
    {},
    el(
      "button",
      {
        type: "button",
        class: "match",
        dataset: { position: match.position },
        onclick: () => store.select(match.position),
      },
      el("span", { class: "number" }, `position ${match.position}`),
      `${before}, in ${match.name}: ${percent(match.probability)}, rank ${match.rank}`,
    ),
  );
}
