"use strict";
const data = JSON.parse(document.getElementById("rows").textContent);
const texts = JSON.parse(document.getElementById("texts").textContent);
const panel = document.getElementById("panel");
const lens = document.getElementById("lens");
const tokens = [...document.querySelectorAll(".token")];
let chosen = null;

function add(parent, name, text) {
  const element = parent.appendChild(document.createElement(name));
  if (text !== undefined) element.textContent = text;
  return element;
}

function visible(text) {
  return text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
}

function showRow(table, name, row) {
  const [ids, shares, entropy, kl, nextShare, nextRank] = row;
  const line = add(table, "tr");
  add(line, "th", name).scope = "row";
  const cell = add(line, "td");
  ids.forEach((id, n) => {
    add(cell, "span", visible(texts[id]));
    add(cell, "small", ` ${shares[n] === null ? "–" : `${(100 * shares[n]).toFixed(1)} %`}  `);
  });
  add(line, "td", entropy === null ? "" : entropy.toFixed(2));
  add(line, "td", kl === null ? "" : kl.toFixed(2));
  add(line, "td", nextShare === null ? "" : `${(100 * nextShare).toFixed(1)} %, rank ${nextRank}`);
}

function show(token) {
  if (chosen) chosen.setAttribute("aria-pressed", "false");
  chosen = token;
  token.setAttribute("aria-pressed", "true");
  panel.replaceChildren();
  add(panel, "h2", `After token ${token.dataset.position}: “${visible(token.textContent)}”`);
  const rows = (data[lens.value] || {})[token.dataset.position];
  if (!rows) {
    add(panel, "p", "No predictions of this token are in this file.");
    return;
  }
  const table = add(panel, "table");
  const head = add(table, "tr");
  for (const name of ["state", "most probable", "entropy, nats", "KL to final, nats", "actual next"]) {
    add(head, "th", name).scope = "col";
  }
  for (let n = rows.length - 1; n >= 0; n -= 1) showRow(table, data.states[n], rows[n]);
}

tokens.forEach((token) => token.addEventListener("click", () => show(token)));
lens.addEventListener("change", () => chosen && show(chosen));
document.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (!step || !chosen || event.target === lens) return;
  const next = tokens[tokens.indexOf(chosen) + step];
  if (next) {
    next.focus();
    show(next);
  }
});
