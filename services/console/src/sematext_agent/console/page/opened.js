// One event, or one dead letter, opened over the page: its fields, and what Sematext gets of it.

import { chosen, go } from "./address.js";
import { $, clock, day, el } from "./dom.js";
import { focusRow, neighbour } from "./list.js";

const dialog = $("opened");
let shown = ""; // what the dialog shows, as a path
let asked = ""; // what it was asked for last: an older answer may come later

export async function showOpened() {
  const path = chosen("event") ? `events/${chosen("event")}` : chosen("letter") ? `dead/${chosen("letter")}` : "";
  if (path === asked) return;
  asked = path;
  if (!path) {
    dialog.close();
    return;
  }
  if (!dialog.open) dialog.showModal();
  const answer = await fetch(path).catch(() => null);
  const found = answer ? await answer.json() : { problem: "The page's service does not answer." };
  if (asked === path) render(path, found);
}

function render(path, found) {
  shown = path;
  const isLetter = path.startsWith("dead/");
  $("opened-title").textContent = `${isLetter ? "Dead letter" : "Event"} ${path.split("/")[1]}`;
  for (const [id, step] of [["previous", -1], ["next", 1]]) {
    $(id).hidden = isLetter;
    $(id).disabled = !neighbour(chosen("event"), step);
  }
  $("opened-body").replaceChildren(...contents(found, isLetter));
  $("opened-body").scrollTop = 0;
}

function contents(found, isLetter) {
  if (!found.subject) return [el("p", { class: "lead" }, found.problem)];
  const { row } = found;
  const parts = [
    el("p", { class: "lead" }, el("span", { class: `severity ${row.severity}` }, row.severity), ` ${row.text}`),
  ];
  if (isLetter) {
    parts.push(el("h3", {}, "Why it was refused"), fields({
      status: found.status, reason: found.reason, refused: found.refused,
    }));
  }
  if (!found.event) {
    return [...parts, el("p", { class: "note" }, `The message is ${found.problem}.`), el("pre", { tabindex: 0 }, found.text)];
  }
  const { body, ...envelope } = found.event;
  parts.push(
    el("h3", {}, "What the source said"), fields({ ...flat(body) }),
    el("h3", {}, "Around it"), fields({ ...envelope, subject: found.subject }),
    el("h3", {}, "What Sematext gets", found.document ? copying(found.document) : null),
    el("p", { class: "note" }, found.problem || "Made by the forwarder, by the same code that ships it."),
  );
  if (found.document) {
    parts.push(el("pre", { id: "document", tabindex: 0, "aria-label": "The document" }, pretty(found.document)));
  }
  return parts;
}

function fields(values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== "" && value != null);
  return el("dl", { class: "fields" }, ...pairs.flatMap(([name, value]) => [
    el("dt", {}, name), el("dd", {}, inWords(name, value)),
  ]));
}

function inWords(name, value) {
  if (name !== "time" && name !== "refused") return typeof value === "string" ? value : JSON.stringify(value);
  const at = Date.parse(value) / 1000;
  return Number.isNaN(at) ? value : `${value} (here ${day(at)} ${clock(at, true)})`;
}

// Objects in the body, such as labels, as fields of their own: `labels.app`.
function flat(value, before = "") {
  return Object.assign({}, ...Object.entries(value).map(([name, each]) =>
    each && typeof each === "object" && !Array.isArray(each)
      ? flat(each, `${before}${name}.`)
      : { [before + name]: each },
  ));
}

// Broken into lines without reading numbers, which a browser would round.
function pretty(json) {
  const text = JSON.stringify(JSON.parse(json), null, 2);
  return text.replace(/\s/g, "") === json.replace(/\s/g, "") ? text : json;
}

function copying(text) {
  const button = el("button", { type: "button", onclick: async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } }, "Copy as shipped");
  return button;
}

function step(direction) {
  const number = chosen("event") && neighbour(chosen("event"), direction);
  if (number) go({ event: number }, { replace: true });
}

$("previous").addEventListener("click", () => step(-1));
$("next").addEventListener("click", () => step(1));
$("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("close", () => {
  const number = chosen("event");
  asked = "";
  go({ event: "", letter: "" });
  $("opened-body").replaceChildren();
  if (number) focusRow(number);
});
dialog.addEventListener("keydown", (event) => {
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
});
