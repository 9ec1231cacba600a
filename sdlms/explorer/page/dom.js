/** Making elements and showing text. Model text reaches the page through text nodes only. */

const SVG = "http://www.w3.org/2000/svg";

/** Characters that would not be seen, and what stands for them. */
const GLYPHS = new Map([
  [" ", "␣"],
  ["\n", "↵"],
  ["\t", "⇥"],
]);

/** Control characters, other blanks, and marks without a width: shown by their number. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Zs}]/u;

/**
 * An HTML element: `el("td", { class: "x", dataset: { testid: "a" }, onclick: f }, "text", child)`.
 * Keys that start with "on" are listeners, `null`, `undefined` and `false` are left out, `true` is
 * an empty attribute. Children that are no nodes become text.
 */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "dataset") Object.assign(node.dataset, value);
    else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Text in which blanks and control characters are seen. */
export function visible(text) {
  if (text === "") return "∅";
  let shown = "";
  for (const character of text) shown += GLYPHS.get(character) ?? pictured(character);
  return shown;
}

function pictured(character) {
  if (!UNSEEN.test(character)) return character;
  return `⟨${character.codePointAt(0).toString(16).padStart(2, "0")}⟩`;
}

/** What a token shows: its text, or the bytes that it holds of a character. */
export function shownText(token) {
  return token.text === "" && token.pieces ? `⟨${token.pieces}⟩` : visible(token.text);
}

/** Draw anew what is in `container`: the focus stays on what has the same `data-testid` then. */
export function keepingFocus(container, draw) {
  const active = document.activeElement;
  const name = container.contains(active) ? active.dataset.testid : undefined;
  draw();
  if (!name || container.contains(document.activeElement)) return;
  container.querySelector(`[data-testid="${CSS.escape(name)}"]`)?.focus({ preventScroll: true });
}

/** Calls `draw` in the next frame, once however often it is asked for: layout is known then anyway. */
export function onceAFrame(draw) {
  let frame = 0;
  return () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      draw();
    });
  };
}

/** A probability for people: "43.1 %", "0.02 %", "<0.01 %". */
export function percent(probability) {
  if (probability === null || probability === undefined) return "–"; // the model's number is none
  const share = probability * 100;
  if (share >= 99.95) return "100 %";
  if (share >= 10) return `${share.toFixed(1)} %`;
  if (share >= 0.01) return `${share.toFixed(2)} %`;
  return share > 0 ? "<0.01 %" : "0 %";
}

/** A number of nats (or the like) with three significant digits. */
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value !== 0 && Math.abs(value) < 0.001) return value.toExponential(0);
  return Math.abs(value) >= 100 ? value.toFixed(0) : value.toPrecision(3).replace(/\.?0+$/, "");
}

/** "1 token", "12 tokens", "1,234 tokens". */
export function counted(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

/** What a token is called where it is not seen: title and label of its button. */
export function tokenLabel(token) {
  const bytes = token.pieces ? `, bytes ${token.pieces}` : "";
  const left = token.in_prompt === false ? ", left the prompt" : "";
  const template = token.is_template ? ", template" : "";
  const role = token.role === "template" ? "" : `, ${token.role}`;
  return `position ${token.position}, id ${token.id}${role}${template}: “${shownText(token)}”${bytes}${left}`;
}

/** The name of a state for people: "block 3", "block 3 attention", "embedding". */
export function stateName(state) {
  return state.name ?? (state.layer < 0 ? "embedding" : `block ${state.layer}`);
}

/** Say something to screen readers, politely. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}
