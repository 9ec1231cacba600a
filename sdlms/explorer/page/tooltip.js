/** One tooltip for the cells of a table, on hover and on focus. */

const GAP = 6;

/**
 * Show `contentOf(cell)` (nodes, or null for none) beside the cell under the pointer or with focus.
 * Returns `{hide}`.
 */
export function createTooltip(table, contentOf) {
  const tooltip = document.getElementById("tooltip");
  let owner = null;

  const hide = () => {
    owner?.removeAttribute("aria-describedby");
    owner = null;
    tooltip.hidden = true;
  };
  const show = (event) => {
    const cell = event.target.closest?.(".cell");
    if (cell === owner) return;
    hide();
    const content = cell && contentOf(cell);
    if (!content) return;
    owner = cell;
    cell.setAttribute("aria-describedby", tooltip.id);
    tooltip.replaceChildren(...content);
    tooltip.hidden = false;
    place(tooltip, cell.getBoundingClientRect());
  };

  table.addEventListener("pointerover", show);
  table.addEventListener("pointerleave", hide);
  table.addEventListener("focusin", show);
  table.addEventListener("focusout", hide);
  const dismiss = (event) => {
    if (event.key !== "Escape" || !owner) return;
    hide();
    event.preventDefault(); // it closes nothing else
  };
  document.addEventListener("keydown", dismiss, { capture: true }); // under the pointer it has no focus
  return { hide };
}

/** Below the cell, above it where there is no room, never beyond the window's edge. */
function place(tooltip, cell) {
  const { width, height } = tooltip.getBoundingClientRect();
  const below = cell.bottom + GAP;
  const isRoom = below + height < innerHeight;
  const top = isRoom ? below : Math.max(GAP, cell.top - height - GAP);
  const left = Math.max(GAP, Math.min(cell.left, innerWidth - width - GAP));
  tooltip.style.setProperty("--left", `${left}px`);
  tooltip.style.setProperty("--top", `${top}px`);
}
