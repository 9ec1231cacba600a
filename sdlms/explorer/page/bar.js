/** The bar at the top: model, cache meter, settings, theme, and the lines of errors. */

import { counted, el } from "./dom.js";
import { refreshLists } from "./replies.js";

const STATUS_EVERY_MS = 15000;
const OFTEN_MS = 2000; // while rows are computed, or nothing answers
const THEME_KEY = "sdlms.theme";
const SETTINGS_KEY = "sdlms.settings";

/** Without a `max` of its own a setting has the server's, which comes with `info.limits`. */
const SETTINGS = [
  { key: "temperature", label: "Temperature", min: 0, max: 5, step: 0.1, help: "0: always the likeliest token" },
  { key: "top_p", label: "Top-p", min: 0.01, max: 1, step: 0.01, help: "smallest set of tokens with this probability" },
  { key: "seed", label: "Seed", min: 0, max: 2147483647, step: 1, help: "the same seed gives the same reply" },
  { key: "max_new_tokens", label: "Most new tokens", min: 1, step: 1, help: "length of a reply at most" },
];

/** Fill the bar, `#errors` and `#settings`. */
export function mountBar(store, api) {
  mountModel(store);
  mountTheme(store);
  mountSettings(store);
  mountErrors(store);
  mountMeter(store, api);
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById("message").focus();
  });
  mountDrawer();
}

/** On a narrow window the conversations are a drawer; choosing one closes it, as Esc does. */
function mountDrawer() {
  const layout = document.getElementById("layout");
  const drawer = document.getElementById("conversations");
  const button = document.getElementById("show-conversations");
  const isOpen = () => layout.classList.contains("conversations-open");
  const toggle = (open) => {
    layout.classList.toggle("conversations-open", open);
    button.setAttribute("aria-expanded", String(open));
  };
  button.addEventListener("click", () => toggle(!isOpen()));
  drawer.addEventListener("click", (event) => {
    if (event.target.closest(".conversation-open, #new-conversation")) toggle(false);
  });
  for (const part of [drawer, button]) {
    part.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !isOpen()) return;
      event.preventDefault();
      toggle(false);
      button.focus();
    });
  }
}

function mountModel(store) {
  const line = document.getElementById("model");
  store.on("info", ({ info }) => {
    const rest = [
      `${info.num_layers} layers`,
      `d ${info.d_model}`,
      `${info.vocab_size.toLocaleString("en")} tokens`,
      `context ${info.context.toLocaleString("en")}`,
      `${info.device} ${info.dtype}`,
      info.template === "plain" ? "plain template" : null,
    ];
    const text = rest.filter(Boolean).join(" · ");
    line.replaceChildren(el("strong", {}, info.model_name), ` · ${text}`);
    const template = info.template === "plain" ? " (the model has no chat template of its own)" : "";
    line.title = `${info.model_name} ${info.revision ?? ""} · ${text}${template}`;
    document.title = `${info.model_name} – sdlms explore`;
  });
}

// ---------------------------------------------------------------- theme

function mountTheme(store) {
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const chosen = recalled(THEME_KEY);
    const theme = chosen ?? (dark.matches ? "dark" : "light");
    if (chosen) document.documentElement.dataset.theme = chosen;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use ${theme === "dark" ? "light" : "dark"} colours`);
    store.set({ theme });
  };
  dark.addEventListener("change", apply);
  button.addEventListener("click", () => {
    keep(THEME_KEY, store.get().theme === "dark" ? "light" : "dark");
    apply();
  });
  apply();
}

/** What this browser was told to keep; null where it keeps nothing. */
function recalled(key) {
  try {
    return JSON.parse(localStorage.getItem(key));
  } catch {
    return null;
  }
}

function keep(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // A browser that keeps nothing forgets the choice with the page.
  }
}

// ---------------------------------------------------------------- settings

function mountSettings(store) {
  const box = document.getElementById("settings");
  const known = recalled(SETTINGS_KEY) ?? {};
  const start = { ...store.get().settings };
  const rows = SETTINGS.map(({ key, label, help, ...limits }) => {
    if (isWithin(known[key], limits)) start[key] = known[key];
    const input = el("input", { type: "number", value: start[key], dataset: { testid: `setting-${key}` }, ...limits });
    input.addEventListener("change", () => {
      const { settings } = store.get();
      if (input.value === "" || !input.checkValidity()) input.value = settings[key];
      store.set({ settings: { ...settings, [key]: Number(input.value) } });
      keep(SETTINGS_KEY, store.get().settings);
    });
    return el("label", {}, label, input, el("small", {}, help));
  });
  box.append(el("h2", {}, "Generation"), ...rows);
  store.set({ settings: start });
  store.on("info", ({ info }) => {
    for (const { key, max = info.limits[key] } of SETTINGS) {
      const { settings } = store.get();
      const input = box.querySelector(`[data-testid="setting-${key}"]`);
      input.max = max;
      input.value = Math.min(settings[key], max);
      store.set({ settings: { ...settings, [key]: Number(input.value) } });
    }
  });
}

function isWithin(value, { min, max = Infinity }) {
  return typeof value === "number" && value >= min && value <= max;
}

// ---------------------------------------------------------------- errors

function mountErrors(store) {
  const box = document.getElementById("errors");
  const lines = new Map();
  store.on("errors", ({ errors }) => {
    const ids = new Set(errors.map((error) => error.id));
    for (const [id, line] of lines) {
      if (!ids.has(id)) line.remove();
      if (!ids.has(id)) lines.delete(id);
    }
    for (const { id, text } of errors) {
      if (lines.has(id)) continue;
      const close = { type: "button", class: "quiet", "aria-label": "Dismiss", onclick: () => store.dismiss(id) };
      const line = el("div", { class: "error", dataset: { testid: "error" } }, el("span", {}, text), el("button", close, "✕"));
      lines.set(id, line);
      box.append(line);
    }
  });
}

// ---------------------------------------------------------------- cache

function mountMeter(store, api) {
  const meter = document.getElementById("cache-meter");
  store.on("cacheStatus", ({ cacheStatus }) => meter.replaceChildren(...gauges(cacheStatus)));
  const read = async () => {
    if (!document.hidden && !store.get().busy) await refresh(store, api);
    const isFilling = store.get().cacheStatus?.unfilled_tokens > 0;
    setTimeout(read, isFilling || isUnreachable(store) ? OFTEN_MS : STATUS_EVERY_MS);
  };
  setTimeout(read, OFTEN_MS);
}

const isUnreachable = (store) => store.get().errors.some((error) => error.isUnreachable);

async function refresh(store, api) {
  try {
    store.set({ cacheStatus: await api.cacheStatus() });
    if (!isUnreachable(store)) return;
    store.set({ info: await api.modelInfo() }); // it may be another model's server now
    await refreshLists(store, api);
  } catch (error) {
    if (!isUnreachable(store)) store.fail(error);
  }
}

function gauges(status) {
  const unfilled = status.unfilled_tokens ?? 0;
  const title = "Tokens whose predictions are still to be stored; a click computes them at once";
  const parts = [
    unfilled ? el("span", { title }, `measuring ${counted(unfilled, "token")}`) : null,
    gauge("memory", status.memory_used_mb, status.memory_limit_mb),
    status.memory_only ? null : gauge("disk", status.disk_used_mb, status.disk_limit_mb),
  ];
  const warnings = [...(status.warnings ?? [])];
  if (status.memory_only) {
    const title = warnings.join(" ") || "Nothing is kept on disk";
    parts.push(el("span", { class: "cache-warning", title, dataset: { testid: "memory-only" } }, "⚠ memory only"));
  } else if (warnings.length) {
    parts.push(el("span", { class: "cache-warning", title: warnings.join(" ") }, `⚠ ${warnings.length}`));
  }
  return parts.filter(Boolean);
}

function gauge(name, used, limit) {
  const fill = el("span", { class: "gauge-fill" });
  fill.style.setProperty("--share", String(limit ? Math.min(1, used / limit) : 0));
  const title = `${name}: ${megabytes(used)} of ${megabytes(limit)}`;
  return el(
    "span",
    { class: "gauge", title },
    `${name} ${megabytes(used)}`,
    el("span", { class: "gauge-track", "aria-hidden": "true" }, fill),
  );
}

function megabytes(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(1)} GB`;
  return `${value >= 10 ? value.toFixed(0) : value.toFixed(1)} MB`;
}
