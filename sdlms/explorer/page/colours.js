/** What a cell's colour says: the measures, their scales and legends. */

import { el, percent, short, visible } from "./dom.js";

/** Steps of the scale; style.css has a colour and a colour of text for each. */
export const STEPS = 9;

/** Lower ends of the steps of a falling scale: the step with the best values is the last one. */
const RANK_ENDS = [1000, 300, 100, 30, 10, 5, 2, 1];
const KL_ENDS = [8, 4, 2, 1, 0.5, 0.2, 0.1, 0.03];

const linear = (share) => Math.max(0, Math.min(STEPS - 1, Math.floor(share * STEPS)));
const falling = (value, ends) => ends.filter((end) => value <= end).length;
const whole = (value) => (value === null ? "–" : value.toLocaleString("en"));

/**
 * Measures of a cell. The strong end of the scale always means sure, near or first.
 * `value(cell, pin)` is null where there is none; `step(value, info)` in 0 .. STEPS - 1.
 */
const MEASURES = {
  probability: {
    label: "top-1 probability",
    value: (cell) => cell.top[0]?.probability ?? null,
    step: linear,
    text: percent,
    ends: () => ["0 %", "100 %"],
    unit: "probability of the top-1 token",
  },
  entropy: {
    label: "entropy",
    value: (cell) => cell.entropy_nats,
    step: (nats, info) => linear(1 - nats / Math.log(info?.vocab_size ?? 2)),
    text: short,
    ends: (info) => [`${short(Math.log(info?.vocab_size ?? 2))} nats, uniform`, "0 nats, certain"],
    unit: "entropy of the prediction in nats",
  },
  next_rank: {
    label: "rank of the actual next token",
    value: (cell) => cell.next?.rank ?? null,
    step: (rank) => falling(rank, RANK_ENDS),
    text: whole,
    ends: () => ["rank over 1,000", "rank 1"],
    unit: "rank of the token that follows in the text",
  },
  kl: {
    label: "KL to the final layer",
    value: (cell) => cell.kl_nats,
    step: (nats) => falling(nats, KL_ENDS),
    text: short,
    ends: () => ["over 8 nats", "0.03 nats or less"],
    unit: "KL(final ‖ this layer) in nats",
  },
  pin_rank: {
    label: "rank of a pinned token",
    value: (cell, pin) => cell.pins?.find((known) => known.token_id === pin)?.rank ?? null,
    step: (rank) => falling(rank, RANK_ENDS),
    text: whole,
    ends: () => ["rank over 1,000", "rank 1"],
    unit: "rank of the pinned token",
  },
};

/** Whether `colour` names a measure. */
export const isMeasure = (colour) => Object.hasOwn(MEASURES, colour.split(":")[0]);

/**
 * The measure that `colour` names ("kl", "pin_rank:ID"), with the pin's id taken in:
 * `{label, unit, ends(info), of(cell) -> value|null, step(value), text(value)}`.
 */
export function measureOf(colour, info, pins = []) {
  const [name, id] = colour.split(":");
  const known = isMeasure(colour) ? name : "probability";
  const measure = MEASURES[known];
  const pin = pins.find((one) => one.token_id === Number(id)) ?? pins[0];
  const isOfPin = known === "pin_rank" && pin;
  return {
    ...measure,
    label: isOfPin ? `rank of “${visible(pin.text)}”` : measure.label,
    of: (cell) => measure.value(cell, pin?.token_id),
    step: (value) => measure.step(value, info),
    ends: () => measure.ends(info),
  };
}

/** Values of the colour switch: `[{value, label, isPossible}]`. */
export function measureChoices(pins) {
  const fixed = Object.entries(MEASURES).filter(([name]) => name !== "pin_rank");
  const choices = fixed.map(([value, { label }]) => ({ value, label, isPossible: true }));
  if (!pins.length) {
    const label = "rank of a pinned token (pin one first)";
    return [...choices, { value: "pin_rank", label, isPossible: false }];
  }
  const pinned = pins.map((pin) => ({
    value: `pin_rank:${pin.token_id}`,
    label: `rank of “${visible(pin.text)}”`,
    isPossible: true,
  }));
  return [...choices, ...pinned];
}

/** The class that colours an element, "" for a value that there is not. */
export function colourClass(step) {
  return step === null ? "empty" : `step-${step}`;
}

/** The legend of a measure: its unit, the two ends, and the steps between. */
export function legendOf(measure) {
  const [low, high] = measure.ends();
  const steps = Array.from({ length: STEPS }, (_, step) => el("span", { class: colourClass(step) }));
  const scale = el("span", { class: "legend-scale", "aria-hidden": "true" }, ...steps);
  return [el("span", {}, `Colour: ${measure.unit}`), el("span", { class: "legend-ends" }, low, scale, high)];
}
