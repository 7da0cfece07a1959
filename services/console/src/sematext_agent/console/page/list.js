// The list of events, newest first. It stands still while somebody reads, points or types in it.

import { chosen, filterQuery, isUnfiltered, withChanges } from "./address.js";
import { $, clock, count, day, el, events, isToday, rate, write } from "./dom.js";

const SHOWN_MAX = 500;
const WAITING_MAX = 200;
const list = $("rows");

let waiting = []; // rows that arrived while the list stood still, newest first
let missed = 0; // number of those events, also of the ones that no sample has
let paused = false;
let pace = []; // of the last ticks: [time, arrived, matching, shown]

export function startList(rows) {
  waiting = [];
  missed = 0;
  pace = [];
  list.replaceChildren(...rows.map((row) => line(row)));
  $("older").hidden = rows.length < 100;
  showState();
}

export function addToList({ rows = [], matching = 0, arrived = 0 }) {
  const now = Date.now();
  pace = [...pace.filter(([at]) => now - at < 4000), [now, arrived, matching, rows.length]];
  waiting = [...rows, ...waiting].slice(0, WAITING_MAX);
  missed += matching;
  if (!isHeld()) flush();
  showState();
}

function isHeld() {
  return (
    paused || list.matches(":hover") || list.contains(document.activeElement) ||
    $("details").open || list.getBoundingClientRect().top < -40
  );
}

function flush() {
  if (waiting.length) {
    list.prepend(...waiting.map((row) => line(row, true)));
    while (list.children.length > SHOWN_MAX) list.lastElementChild.remove();
  }
  waiting = [];
  missed = 0;
}

function showState() {
  const fresh = $("fresh");
  fresh.hidden = !missed;
  if (missed) write(fresh, `Show ${missed === 1 ? "1 new event" : `${count(missed)} new events`}`);
  const sum = (index) => pace.reduce((all, tick) => all + tick[index], 0);
  const [arrived, matching, shown] = [sum(1), sum(2), sum(3)];
  const seconds = pace.length ? Math.max(1, (Date.now() - pace[0][0]) / 1000) : 1;
  const sampled = matching > shown
    ? `A sample: ${rate(shown / seconds)} of ${rate(matching / seconds)} events a second, the worst first. The timeline counts all.`
    : arrived && !isUnfiltered() ? `${count(matching)} of the last ${events(arrived)} match` : "";
  write($("sampled"), sampled);
  const isEmpty = !list.children.length;
  $("empty").hidden = !isEmpty;
  if (isEmpty) {
    write($("empty"), isUnfiltered()
      ? "No event yet. Start a container, and it appears here."
      : "No event in the history matches these filters.");
  }
}

function line(row, isNew = false) {
  const moment = isToday(row.time) ? clock(row.time, true) : `${day(row.time).slice(5)} ${clock(row.time)}`;
  const classes = [isNew && "is-new", row.gap && "is-gap"].filter(Boolean).join(" ");
  return el(
    "li",
    { class: classes || null, "data-number": row.number },
    el(
      "a",
      { href: withChanges({ event: row.number, view: "" }) },
      el("time", { datetime: new Date(row.time * 1000).toISOString(), title: day(row.time) }, moment),
      el("span", { class: `severity ${row.severity}` }, row.severity),
      el("span", { class: "source" }, row.source),
      el("span", { class: "origin", title: row.origin }, row.origin),
      el("span", { class: "text" }, row.text),
    ),
  );
}

export function neighbour(number, step) {
  const item = list.querySelector(`[data-number="${number}"]`);
  const next = step < 0 ? item?.previousElementSibling : item?.nextElementSibling;
  return next?.dataset.number;
}

export function focusRow(number) {
  list.querySelector(`[data-number="${number}"] a`)?.focus();
}

$("fresh").addEventListener("click", () => {
  flush();
  $("events").scrollIntoView({ block: "start" });
  list.querySelector("a")?.focus({ preventScroll: true });
  document.activeElement?.blur();
  showState();
});

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", paused);
  if (!paused) flush();
  showState();
});

$("older").addEventListener("click", async () => {
  const before = list.lastElementChild?.dataset.number ?? 0;
  const answer = await fetch(`rows?${filterQuery()}&before=${before}`);
  const { rows = [] } = await answer.json();
  const lines = rows.map((row) => line(row));
  list.append(...lines);
  lines[0]?.querySelector("a").focus({ preventScroll: true });
  $("older").hidden = rows.length < 200;
  if (!rows.length) write($("announcement"), "There are no older events.");
});

export const title = () => (chosen("q") ? `${chosen("q")} · ` : "");
