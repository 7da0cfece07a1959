// The dead letters: what was refused, why, and sending it once more where the service allows it.

import { withChanges } from "./address.js";
import { $, clock, day, el, events, write } from "./dom.js";

const list = $("letters");
let mayReplay = false;
let known = null; // how many there were when they were read
let older = 0;

export function allowReplay(allowed) {
  mayReplay = allowed;
  write($("replay-note"), allowed
    ? "To replay one puts it back on its way as a new event."
    : "This page may only look: agentctl dead replay, or CONSOLE_REPLAY_ENABLED=true, sends them once more.");
}

export async function showDead(count) {
  if (count === known) return;
  known = count;
  await load(0);
}

async function load(before) {
  const answer = await fetch(`dead?before=${before}`).catch(() => null);
  if (!answer?.ok) {
    known = null;
    write($("say"), "The dead letters cannot be read now.");
    return;
  }
  const found = await answer.json();
  const items = found.letters.map(item);
  if (before) list.append(...items);
  else list.replaceChildren(...items);
  older = found.older;
  $("dead-older").hidden = !older;
  $("replay-all").hidden = !mayReplay || !list.children.length;
  write($("dead-title"), found.count ? `${found.count} dead ${found.count === 1 ? "letter" : "letters"}` : "No dead letters");
}

function item({ number, row, status, reason, refused }) {
  const at = Date.parse(refused) / 1000;
  const when = Number.isNaN(at) ? "" : `, ${day(at)} ${clock(at)}`;
  return el(
    "li",
    { "data-number": number },
    el("a", { class: "what", href: withChanges({ letter: number }) }, `${row.source} ${row.origin}: ${row.text}`),
    mayReplay ? el("button", { type: "button", onclick: () => replay([number]) }, "Replay") : null,
    el("p", { class: "why" }, `${status === "0" ? "never sent" : `refused with ${status}`}: ${reason}${when}`),
  );
}

async function replay(numbers) {
  const answer = await fetch("dead/replay", {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(numbers),
  }).catch(() => null);
  const result = answer ? await answer.json() : {};
  write($("say"), answer?.ok ? `${events(result.sent)} sent once more.` : result.problem ?? "That did not work.");
  $("dead-title").focus();
  await load(0);
}

$("dead-reload").addEventListener("click", () => load(0));
$("dead-older").addEventListener("click", () => load(older));
$("replay-all").addEventListener("click", () =>
  replay([...list.children].slice(0, 50).map((each) => Number(each.dataset.number))));
