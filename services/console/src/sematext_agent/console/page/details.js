// The dialog with one event or one dead letter: its fields, and its document for Sematext.

import { chosen, go } from "./address.js";
import { $, clock, day, el } from "./dom.js";
import { focusRow, neighbour } from "./list.js";

const dialog = $("details");
let requested = ""; // the path that was requested last: an older answer may come later

export async function showDetails() {
  const path = chosen("event") ? `events/${chosen("event")}` : chosen("letter") ? `dead/${chosen("letter")}` : "";
  if (path === requested) return;
  requested = path;
  if (!path) {
    dialog.close();
    return;
  }
  if (!dialog.open) dialog.showModal();
  const answer = await fetch(path).catch(() => null);
  const details = answer ? await answer.json() : { problem: "The page's service does not answer." };
  if (requested === path) render(path, details);
}

function render(path, details) {
  const isLetter = path.startsWith("dead/");
  $("details-title").textContent = `${isLetter ? "Dead letter" : "Event"} ${path.split("/")[1]}`;
  for (const [id, step] of [["previous", -1], ["next", 1]]) {
    $(id).hidden = isLetter;
    $(id).disabled = !neighbour(chosen("event"), step);
  }
  $("details-body").replaceChildren(...contents(details, isLetter));
  $("details-body").scrollTop = 0;
}

function contents(details, isLetter) {
  if (!details.subject) return [el("p", { class: "lead" }, details.problem)];
  const { row } = details;
  const parts = [
    el("p", { class: "lead" }, el("span", { class: `severity ${row.severity}` }, row.severity), ` ${row.text}`),
  ];
  if (isLetter) {
    parts.push(el("h3", {}, "Why it is a dead letter"), fields({
      status: details.status, reason: details.reason, time: details.dead_lettered,
    }));
  }
  if (!details.event) {
    return [...parts, el("p", { class: "note" }, `The message is ${details.problem}.`), el("pre", { tabindex: 0 }, details.text)];
  }
  const { body, ...envelope } = details.event;
  parts.push(
    el("h3", {}, "Event, in the words of its source"), fields({ ...flat(body) }),
    el("h3", {}, "Envelope"), fields({ ...envelope, subject: details.subject }),
    el("h3", {}, "Document for Sematext", details.document ? copyButton(details.document) : null),
    el("p", { class: "note" }, details.problem || "Made by the forwarder, by the same code that delivers it."),
  );
  if (details.document) {
    parts.push(el("pre", { id: "document", tabindex: 0, "aria-label": "The document" }, pretty(details.document)));
  }
  return parts;
}

function fields(values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== "" && value != null);
  return el("dl", { class: "fields" }, ...pairs.flatMap(([name, value]) => [
    el("dt", {}, name), el("dd", {}, format(name, value)),
  ]));
}

function format(name, value) {
  if (name !== "time") return typeof value === "string" ? value : JSON.stringify(value);
  const at = Date.parse(value) / 1000;
  return Number.isNaN(at) ? value : `${value} (local time ${day(at)} ${clock(at, true)})`;
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

function copyButton(text) {
  const button = el("button", { type: "button", onclick: async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } }, "Copy as delivered");
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
  requested = "";
  go({ event: "", letter: "" });
  $("details-body").replaceChildren();
  if (number) focusRow(number);
});
dialog.addEventListener("keydown", (event) => {
  if (event.key === "j") step(1);
  if (event.key === "k") step(-1);
});
