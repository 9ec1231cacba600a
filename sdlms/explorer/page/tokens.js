/** Tokens of a conversation as buttons, in messages and words. */

import { counted, el, tokenLabel } from "./dom.js";

/** A run of tokens without blanks, and its newline, stay on one line up to this many characters. */
const LONGEST_WORD = 24;

const ROLES = { user: "User", assistant: "Assistant", system: "System" };

/**
 * The tokens of one conversation as elements of `container`.
 *
 * `show(tokens)` adds what is new and marks what left the prompt, `reset()` takes all away, `mark`
 * shows which token is clicked, which are its context, and which one it is compared with, `reveal`
 * scrolls to one.
 */
export function createTokens(container) {
  let buttons = [];
  let shown = [];
  let message = null;
  let divider = null;
  let marked = [];
  let stop = null;

  const mark = ({ selected, context = [], compared }) => {
    marked.forEach(unmark);
    marked = [selected, compared, ...context].map((position) => buttons[position]).filter(Boolean);
    for (const position of context) buttons[position]?.classList.add("in-context");
    buttons[compared]?.classList.add("is-compared");
    const button = buttons[selected];
    if (!button) return;
    button.classList.add("selected");
    button.setAttribute("aria-pressed", "true");
    stop.tabIndex = -1;
    stop = button;
    stop.tabIndex = 0;
  };

  const reset = () => {
    buttons = [];
    shown = [];
    message = null;
    divider = null;
    marked = [];
    container.replaceChildren();
  };

  const add = (token) => {
    if (!message || message.index !== token.message_index) {
      message = createMessage(token.message_index);
      container.append(message.node);
    }
    const button = tokenButton(token);
    if (token.position === 0) stop = button;
    buttons[token.position] = button;
    message.add(token, button);
  };

  const show = (tokens) => {
    if (tokens.length < shown.length || shown.some((old, n) => old.id !== tokens[n].id)) reset();
    let leftChanged = false;
    shown.forEach((old, position) => {
      const token = tokens[position];
      if (old === token) return;
      leftChanged ||= old.in_prompt !== token.in_prompt;
      relabel(buttons[position], token);
    });
    const fresh = tokens.slice(shown.length);
    fresh.forEach(add);
    shown = [...tokens];
    if (leftChanged || fresh.some((token) => token.in_prompt === false)) {
      divider?.remove();
      divider = placedDivider(container, shown, buttons);
    }
  };

  const reveal = (position) => revealed(buttons[position]);

  return { show, reset, mark, reveal };
}

/** Scroll to a token; messages get their true height only when they are near, hence again. */
function revealed(button, tries = 4) {
  if (!button?.isConnected) return;
  button.scrollIntoView({ block: "nearest" });
  if (tries > 1) requestAnimationFrame(() => revealed(button, tries - 1));
}

function unmark(button) {
  button.classList.remove("selected", "in-context", "is-compared");
  button.removeAttribute("aria-pressed");
}

function createMessage(index) {
  const heading = el("h3", {}, index < 0 ? "Before the first message" : ROLES.assistant);
  const text = el("div", { class: "message-text" });
  const node = el("article", { class: "message", dataset: { message: index } }, heading, text);
  let word = null;

  const add = (token, button) => {
    if (ROLES[token.role] && node.dataset.role !== token.role) {
      node.dataset.role = token.role;
      heading.textContent = ROLES[token.role];
    }
    if (word && continues(word, token)) word.node.append(button);
    else text.append((word = { node: el("span", { class: "word" }, button), length: 0 }).node);
    word.length += token.text.length;
    const newlines = token.text.split("\n").length - 1;
    if (newlines) text.append(...Array.from({ length: newlines }, () => el("br")));
    if (newlines || /\s$/u.test(token.text)) word = null;
  };
  return { index, node, add };
}

function continues(word, token) {
  return word.length + token.text.length <= LONGEST_WORD && !/^[^\S\n]/u.test(token.text);
}

function tokenButton(token) {
  const label = tokenLabel(token);
  return el(
    "button",
    {
      type: "button",
      class: tokenClasses(token),
      title: label,
      "aria-label": label,
      tabindex: token.position === 0 ? "0" : "-1",
      dataset: { testid: `token-${token.position}`, position: token.position },
    },
    ...glyphed(token.text),
  );
}

function tokenClasses(token) {
  const classes = ["token"];
  if (token.is_template) classes.push("template");
  if (token.in_prompt === false) classes.push("left");
  if (token.text === "") classes.push("bytes");
  return classes.join(" ");
}

/** Text with its blanks in elements of their own (seen on hover) and newlines as a glyph. */
function glyphed(text) {
  return text.split(/([ \n])/u).map((part) => {
    if (part === " ") return el("span", { class: "blank" }, " ");
    if (part === "\n") return el("span", { class: "newline", "aria-hidden": "true" }, "↵");
    return part;
  });
}

/** A token can leave the prompt, and turn out to be the template's when a reply has ended. */
function relabel(button, token) {
  const label = tokenLabel(token);
  button.classList.toggle("left", token.in_prompt === false);
  button.classList.toggle("template", Boolean(token.is_template));
  button.title = label;
  button.setAttribute("aria-label", label);
}

/** A line before the first message that the model still sees after some that it does not. */
function placedDivider(container, tokens, buttons) {
  const left = new Map();
  for (const token of tokens) {
    const all = left.get(token.message_index) ?? true;
    left.set(token.message_index, all && token.in_prompt === false);
  }
  const order = [...left.keys()];
  const place = order.findIndex((index, n) => n > 0 && !left.get(index) && left.get(order[n - 1]));
  if (place < 0) return null;
  const first = tokens.find((token) => token.message_index === order[place]);
  const gone = tokens.filter((token) => token.in_prompt === false && token.position < first.position);
  const line = el(
    "div",
    {
      class: "left-divider",
      role: "note",
      title: "The prompt was longer than the model's context, so its oldest messages left it",
      dataset: { testid: "left-divider" },
    },
    `↑ ${counted(gone.length, "token")} left the prompt`,
  );
  container.insertBefore(line, buttons[first.position].closest(".message"));
  return line;
}
