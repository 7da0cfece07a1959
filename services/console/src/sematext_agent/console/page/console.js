// The page: its address chooses what to show, and Server-Sent Events bring what is new.

import { chosen, chosenSet, filterQuery, go, noFilters, isUnfiltered, watchAddress } from "./address.js";
import { allowReplay, showDead } from "./dead.js";
import { $, clock, count, day, el, isToday, write } from "./dom.js";
import { showHealth } from "./health.js";
import { addToList, startList, title } from "./list.js";
import { showDetails } from "./details.js";
import { drawTimeline } from "./timeline.js";

const VIEWS = { events: "Events", dead: "Dead letters", health: "Health" };
let stream = null;
let listening = null; // the filter of the stream
let overview = null;

function listen() {
  const query = filterQuery();
  if (query === listening && stream?.readyState !== EventSource.CLOSED) return;
  listening = query;
  stream?.close();
  const source = new EventSource(`live?${query}`);
  stream = source;
  source.addEventListener("start", (event) => onStart(JSON.parse(event.data)));
  source.addEventListener("tick", (event) => onTick(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    showLink("lost", "the page's service is away, trying again");
    // The browser tries again by itself, but not after an answer that was an error.
    if (source.readyState === EventSource.CLOSED && source === stream) setTimeout(retry, 3000);
  });
}

async function retry() {
  const answer = await fetch(`rows?${filterQuery()}`).catch(() => null);
  if (answer?.status === 400) {
    const { problem } = await answer.json();
    write($("banner"), `The address cannot be used: ${problem}`);
    $("banner").hidden = false;
    showLink("lost", "not listening");
  } else listen();
}

function showLink(state, text) {
  $("link").dataset.state = state;
  write($("link"), text);
}

function onStart(update) {
  toggles($("severities"), "severity", update.severities);
  toggles($("sources"), "source", update.sources);
  allowReplay(update.replay_enabled);
  startList(update.rows);
  onSummary(update);
  showChosen();
}

function onTick(update) {
  if (update.arrived) addToList(update);
  if (update.overview) onSummary(update);
}

function onSummary(update) {
  overview = update.overview;
  showLink(overview.connected ? "live" : "lost", overview.connected ? "live" : "the broker is away");
  showHealth(overview, update.rates);
  drawTimeline(update.timeline);
  showCounts(update.timeline.cells);
  showOrigins(update.origins);
  if (chosen("view") === "dead") showDead(overview.delivery?.dead_letters ?? 0);
}

function toggles(fieldset, name, values) {
  if (fieldset.querySelector("input")) return;
  for (const value of values) {
    fieldset.append(el("label", { class: "toggle" },
      el("input", { type: "checkbox", name, value, onchange: () => choose(fieldset, name) }),
      name === "severity" ? el("span", { class: `swatch ${value}` }) : null,
      value, el("output", { "data-of": value, "aria-hidden": "true" })));
  }
}

function choose(fieldset, name) {
  go({ [name]: [...fieldset.querySelectorAll(":checked")].map((box) => box.value).join(",") });
}

function showCounts(cells) {
  const counts = {};
  for (const [, source, severity, number] of cells) {
    counts[source] = (counts[source] ?? 0) + number;
    counts[severity] = (counts[severity] ?? 0) + number;
  }
  for (const output of document.querySelectorAll("output[data-of]")) {
    const number = counts[output.dataset.of] ?? 0;
    write(output, number ? count(number) : "");
    // A source without any event is only in the way.
    const box = output.parentElement.querySelector("input");
    if (box.name === "source") output.parentElement.hidden = !number && !box.checked;
  }
}

function showOrigins(origins) {
  const select = $("origin");
  const listed = new Set([...select.options].map((option) => option.value));
  for (const origin of [...origins, chosen("origin")]) {
    if (!listed.has(origin)) select.append(el("option", { value: origin }, origin));
    listed.add(origin);
  }
  select.value = chosen("origin");
}

// Sets the controls, the view and the dialog by the address.
function showChosen() {
  for (const [id, name] of [["severities", "severity"], ["sources", "source"]]) {
    const set = chosenSet(name);
    for (const box of $(id).querySelectorAll("input")) box.checked = set.has(box.value);
  }
  if (document.activeElement !== $("q")) $("q").value = chosen("q");
  $("range").value = chosen("range");
  $("clear").hidden = isUnfiltered();
  showWindow();
  const view = chosen("view") in VIEWS ? chosen("view") : "events";
  for (const name of Object.keys(VIEWS)) $(`view-${name}`).hidden = name !== view;
  for (const link of document.querySelectorAll("[data-view]")) {
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${title()}${VIEWS[view]} · sematext-agent`;
  if (view === "dead" && overview) showDead(overview.delivery?.dead_letters ?? 0);
  showDetails();
}

function showWindow() {
  const since = Number(chosen("since")), until = Number(chosen("until"));
  $("window").hidden = !since && !until;
  const date = isToday(since) ? "" : `${day(since)} `;
  write($("window"), `Only ${date}${clock(since)} to ${until ? clock(until) : "now"} ×`);
  $("window").setAttribute("aria-label", `${$("window").textContent.replace(" ×", "")}; show all times again`);
}

let typing = 0;
$("q").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => go({ q: $("q").value.trim() }, { replace: true }), 250);
});
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("reset", (event) => {
  event.preventDefault();
  $("q").value = "";
  go(noFilters);
  $("q").focus();
});
for (const name of ["origin", "range"]) {
  $(name).addEventListener("change", () => go({ [name]: $(name).value }));
}
$("window").addEventListener("click", () => go({ since: "", until: "" }));

// Links that only change the address are followed here; with Ctrl they open a page of their own.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='?']");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
  event.preventDefault();
  if (link.dataset.view) go({ view: link.dataset.view });
  else history.pushState(null, "", link.getAttribute("href")), onAddress();
});
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input:not([type='checkbox']), select, textarea");
  if (event.key === "/" && !isTyping && !$("details").open) {
    event.preventDefault();
    $("q").focus();
  }
});

function onAddress() {
  showChosen();
  listen();
}

watchAddress(onAddress);
onAddress();
