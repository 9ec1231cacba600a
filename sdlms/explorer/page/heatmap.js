/** The heat map: layers by the tokens of the context, each cell its top-1 token and a colour. */

import { colourClass, measureOf } from "./colours.js";
import { el, onceAFrame, percent, short, shownText, stateName, visible } from "./dom.js";
import { markRows } from "./list_view.js";
import { createTooltip } from "./tooltip.js";

/** A view: `draw(panel, state)` fills the rows whose states have come. */
export function createHeatmap(container, store) {
  const head = el("tr");
  const body = el("tbody");
  const table = el(
    "table",
    { class: "heatmap", role: "grid", "aria-label": "Likeliest next token: layers by tokens of the context" },
    el("thead", {}, head),
    body,
  );
  const box = el("div", { class: "heatmap-box" }, table);
  container.append(box);
  const tooltip = createTooltip(table, (cell) => cellContent(cell, current));
  let current = { rows: [], columns: "", drawn: "", panel: null, state: null };

  head.addEventListener("click", (event) => columnClicked(event, store));
  table.addEventListener("keydown", (event) => moved(event, table, store));
  table.addEventListener("focusin", ({ target }) => target.matches(".cell") && makeStop(table, target));

  // The clicked token's column is the last.
  const scroll = onceAFrame(() => (box.scrollLeft = box.scrollWidth));

  const draw = (panel, state) => {
    current.panel = panel;
    current.state = state;
    const columns = panel.header.positions.join(" ");
    const hasRows = current.rows.length === panel.header.n_states;
    if (current.columns !== columns || !hasRows) {
      tooltip.hide();
      current.columns = columns;
      const hasCells = hasRows && current.rows[0]?.cells.length === panel.header.positions.length;
      const focused = table.contains(document.activeElement) ? document.activeElement : null;
      if (!hasCells) current.rows = rebuilt(body, panel.header);
      relabel(head, current.rows, panel.header);
      if (focused) clickedOf(focused, head, current.rows)?.focus({ preventScroll: true });
      scroll();
    }
    fill(current, panel, state);
  };
  return { draw, showCurrent: (panel, state) => markRows(current.rows, panel, state) };
}

/** Rows of empty cells, one for each state and position. */
function rebuilt(body, { positions, n_states: count }) {
  const last = positions.length - 1;
  const rows = Array.from({ length: count }, (_, index) => {
    const cells = positions.map((_, n) => heatCell(index, n === last));
    const name = el("th", { scope: "row", class: "layer-name" });
    const node = el("tr", { dataset: { index } }, name, ...cells);
    return { node, name, cells, state: undefined };
  });
  body.replaceChildren(...rows.map((row) => row.node).reverse());
  body.closest("table").style.setProperty("--columns", String(positions.length));
  const stop = rows.at(-1)?.cells.at(-1);
  if (stop) stop.tabIndex = 0;
  return rows;
}

/** Name columns and cells by their positions; cells are kept from one token to the next. */
function relabel(head, rows, { positions, tokens }) {
  head.replaceChildren(
    el("th", { scope: "col", class: "layer-name" }, "layer"),
    ...tokens.map((token, n) => columnHead(token, n === tokens.length - 1)),
  );
  rows.forEach(({ cells }, index) => {
    cells.forEach((cell, n) => {
      cell.dataset.position = positions[n];
      cell.dataset.testid = `cell-${index}-${positions[n]}`;
    });
  });
}

function columnHead(token, isClicked) {
  const title = `position ${token.position}: “${shownText(token)}”. Show this token`;
  return el(
    "th",
    { scope: "col", class: `column${isClicked ? " clicked" : ""}` },
    el(
      "button",
      { type: "button", title, "aria-label": title, dataset: { position: token.position } },
      el("small", {}, String(token.position)),
      shownText(token),
    ),
  );
}

function heatCell(index, isClicked) {
  return el("td", {
    class: `cell empty${isClicked ? " clicked" : ""}`,
    role: "gridcell",
    tabindex: "-1",
    dataset: { index },
  });
}

function fill(current, panel, state) {
  const measure = measureOf(state.colour, state.info, state.pins);
  const look = [state.colour, ...state.pins.map((pin) => pin.token_id)].join(" ");
  current.rows.forEach((row, index) => {
    const found = panel.states.get(index) ?? null;
    if (row.state === found && current.drawn === look) return;
    row.state = found;
    row.name.textContent = stateName(found ?? state.info?.states[index] ?? { layer: index - 1 });
    row.cells.forEach((cell, n) => fillCell(cell, found?.cells[n], measure));
  });
  current.drawn = look;
}

function fillCell(cell, content, measure) {
  const value = content ? measure.of(content) : null;
  const step = value === null ? null : measure.step(value);
  const isActual = content?.next && content.next.token_id === content.top[0].token_id;
  const isClicked = cell.classList.contains("clicked");
  cell.className = ["cell", colourClass(step), isClicked && "clicked", isActual && "actual"]
    .filter(Boolean)
    .join(" ");
  cell.textContent = content ? visible(content.top[0].text) : "";
  if (value === null) cell.removeAttribute("aria-description");
  else cell.setAttribute("aria-description", `${measure.label}: ${measure.text(value)}`);
}

/** What the tooltip of a cell says, or null while its layer has not come. */
function cellContent(cell, { panel, state }) {
  const found = panel?.states.get(Number(cell.dataset.index));
  const n = panel?.header.positions.indexOf(Number(cell.dataset.position));
  const content = found?.cells[n];
  if (!content) return null;
  const token = panel.header.tokens[n];
  const next = content.next;
  const rows = content.top.slice(0, 5).map((top) =>
    el("tr", {}, el("td", {}, visible(top.text)), el("td", {}, percent(top.probability))),
  );
  const pins = (content.pins ?? []).map((pin) => pinLine(pin, state.pins));
  const nextLine = next
    ? `next “${visible(next.text)}”: rank ${next.rank.toLocaleString("en")}, ${percent(next.probability)}`
    : "next token: not known yet";
  return [
    el("h4", {}, `${stateName(found)}, after “${shownText(token)}” (position ${token.position})`),
    el("table", {}, el("tbody", {}, ...rows)),
    el("p", {}, nextLine),
    ...pins,
    el("p", {}, `entropy ${short(content.entropy_nats)} nats, KL to the final layer ${short(content.kl_nats)} nats`),
  ];
}

function pinLine(pin, pins) {
  const text = pins.find((known) => known.token_id === pin.token_id)?.text ?? `id ${pin.token_id}`;
  return el("p", {}, `pinned “${visible(text)}”: rank ${pin.rank.toLocaleString("en")}, ${percent(pin.probability)}`);
}

function columnClicked(event, store) {
  const button = event.target.closest("button[data-position]");
  if (button) store.select(Number(button.dataset.position));
}

/** The cell that Tab comes to: the one that had the focus last. */
function makeStop(table, cell) {
  for (const other of table.querySelectorAll(".cell[tabindex='0']")) other.tabIndex = -1;
  cell.tabIndex = 0;
}

/** Where the focus goes when another token was clicked: to its column, in the same row. */
function clickedOf(focused, head, rows) {
  const row = rows[Number(focused.dataset.index)];
  return row ? row.cells.at(-1) : head.querySelector("th:last-child button");
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** Arrows walk over the cells, Enter shows the token of the cell's column. */
function moved(event, table, store) {
  const cell = event.target.closest(".cell");
  if (!cell || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Enter") store.select(Number(cell.dataset.position));
  const [down, right] = STEPS[event.key] ?? [0, 0];
  if (!down && !right) return;
  event.preventDefault();
  event.stopPropagation();
  const row = table.tBodies[0].rows[cell.parentNode.sectionRowIndex + down];
  const target = row?.cells[cell.cellIndex + right];
  if (!target?.classList.contains("cell")) return;
  target.focus();
  store.set({ layer: Number(target.dataset.index) });
}
