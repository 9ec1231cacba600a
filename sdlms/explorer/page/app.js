/** Puts the page together: the store, the server, the modules, the address. */

import * as api from "./api.js";
import { mountAddress } from "./address.js";
import { mountBar } from "./bar.js";
import { mountChat } from "./chat.js";
import { mountConversations } from "./conversations.js";
import { mountKeyboard } from "./keyboard.js";
import { mountPanel } from "./panel.js";
import { refreshLists } from "./replies.js";
import { createStore } from "./store.js";

/** Modules with a container of their own; the page works without any of them. */
const TOOLS = [
  "pins",
  "curves",
  "compare",
  "attention",
  "regenerate",
  "search",
  "exports",
  "overview",
];

async function start() {
  const store = createStore();
  mountBar(store, api);
  mountConversations(store, api);
  mountChat(store, api);
  mountPanel(store, api);
  mountKeyboard(store);
  await Promise.all([readInfo(store), refreshLists(store, api), ...TOOLS.map((name) => mountTool(name, store))]);
  await mountAddress(store, api);
  window.addEventListener("focus", () => refreshLists(store, api)); // another tab may have gone on
}

async function readInfo(store) {
  try {
    store.set({ info: await api.modelInfo() });
  } catch (error) {
    store.fail(error);
  }
}

/** A tool that fails is left out, with a line that says so. */
async function mountTool(name, store) {
  const container = document.getElementById(name);
  try {
    const tool = await import(`./${name}.js`);
    tool.mount(container, store, api);
  } catch (error) {
    const frame = container.closest("details") ?? container;
    frame.hidden = true;
    reportError(error);
    store.fail(`A part of the page failed, the rest goes on: ${name} (${error.message}).`);
  }
}

start();
