// The dead letters: events, reasons, and their replay where the service allows it.

import { withChanges } from "./address.js";
import { $, clock, day, el, events, write } from "./dom.js";

const list = $("letters");
let canReplay = false;
let listedCount = null; // dead letters that existed when they were listed
let older = 0;

export function allowReplay(allowed) {
  canReplay = allowed;
  write($("replay-note"), allowed
    ? "A replay publishes the event again, as a new one."
    : "This page may only look: use agentctl dead replay, or set CONSOLE_REPLAY_ENABLED=true.");
}

export async function showDead(count) {
  if (count === listedCount) return;
  listedCount = count;
  await load(0);
}

async function load(before) {
  const answer = await fetch(`dead?before=${before}`).catch(() => null);
  if (!answer?.ok) {
    listedCount = null;
    write($("announcement"), "The dead letters cannot be read now.");
    return;
  }
  const page = await answer.json();
  const items = page.letters.map(item);
  if (before) list.append(...items);
  else list.replaceChildren(...items);
  older = page.older;
  $("dead-older").hidden = !older;
  $("replay-all").hidden = !canReplay || !list.children.length;
  write($("dead-title"), page.count ? `${page.count} dead ${page.count === 1 ? "letter" : "letters"}` : "No dead letters");
}

function item({ number, row, status, reason, dead_lettered: time }) {
  const at = Date.parse(time) / 1000;
  const when = Number.isNaN(at) ? "" : `, ${day(at)} ${clock(at)}`;
  return el(
    "li",
    { "data-number": number },
    el("a", { class: "what", href: withChanges({ letter: number }) }, `${row.source} ${row.origin}: ${row.text}`),
    canReplay ? el("button", { type: "button", onclick: () => replay([number]) }, "Replay") : null,
    el("p", { class: "why" }, `${status === "0" ? "never sent" : `rejected with ${status}`}: ${reason}${when}`),
  );
}

async function replay(numbers) {
  const answer = await fetch("dead/replay", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(numbers),
  }).catch(() => null);
  const result = answer ? await answer.json() : {};
  write($("announcement"), answer?.ok ? `${events(result.replayed)} replayed.` : result.problem ?? "The replay did not work.");
  $("dead-title").focus();
  await load(0);
}

$("dead-reload").addEventListener("click", () => load(0));
$("dead-older").addEventListener("click", () => load(older));
$("replay-all").addEventListener("click", () =>
  replay([...list.children].slice(0, 50).map((each) => Number(each.dataset.number))));
