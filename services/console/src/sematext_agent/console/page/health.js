// How every service is, and what is on its way.

import { $, clock, count, day, el, rate, size, span, write } from "./dom.js";

// What is worth a line of the figures a service reports; the rest is for /metrics.
const FIGURES = {
  lag_events: (value) => `${count(value)} events to ship`,
  stream_bytes: (value) => `${size(value)} in the stream`,
  events_held: (value) => `${count(value)} being shipped`,
  events_unacknowledged: (value) => `${count(value)} not yet safe`,
  oldest_unacknowledged_seconds: (value) => `oldest waits for ${span(value)}`,
  pages_open: (value) => `${count(value)} ${value === 1 ? "page" : "pages"} open`,
  events_kept: (value) => `${count(value)} events to search`,
};

export function showHealth({ connected, services, flow, arriving, shipping, now }) {
  const hasForwarder = services.some((report) => report.service === "forwarder");
  const ill = services.filter((report) => !report.ready).length;
  write($("ill-count"), ill ? String(ill) : "");
  write($("dead-count"), flow?.dead ? count(flow.dead) : "");
  showFlow(connected && flow, { services, ill, arriving, shipping });
  const banner = !connected
    ? "The broker is away. Collectors wait at their sources, nothing is lost, and this page goes on by itself when it is back."
    : services.length && !hasForwarder ? "The forwarder does not answer: events are kept, and nothing is shipped." : "";
  write($("banner"), banner);
  $("banner").hidden = !banner;
  if (connected || services.length) $("services").replaceChildren(...services.map((report) => card(report, now)));
}

function showFlow(flow, { services, ill, arriving, shipping }) {
  const unknown = ["–", ""];
  const figures = [
    ["Arriving", ...(flow ? [rate(arriving), "events/s"] : unknown)],
    ["Shipping", ...(flow ? [rate(shipping), "events/s"] : unknown)],
    ["Lag", ...(flow && flow.lag != null ? [count(flow.lag), "to ship"] : unknown)],
    ["Buffer", ...(flow ? [size(flow.bytes), flow.bytes_max ? `of ${size(flow.bytes_max)}` : ""] : unknown)],
    ["Services ready", ...(services.length ? [String(services.length - ill), `of ${services.length}`] : unknown)],
  ];
  const bad = { "Services ready": ill > 0, Buffer: flow && flow.bytes_max && flow.bytes > 0.8 * flow.bytes_max };
  $("flow").replaceChildren(...figures.map(([name, value, unit]) =>
    el("div", { class: bad[name] ? "is-bad" : null }, el("dt", {}, name), el("dd", {}, `${value} `, el("small", {}, unit))),
  ));
}

function card(report, now) {
  const conditions = Object.entries(report.conditions).sort().map(([name, { ok, detail }]) =>
    el("li", { class: ok ? null : "bad" }, el("b", {}, `${ok ? "✓" : "✗"} ${name}`), ` ${detail}`),
  );
  const figures = Object.entries(report.figures)
    .filter(([name, value]) => name in FIGURES && value)
    .map(([name, value]) => FIGURES[name](value));
  const age = report.last_error_at ? `${span(now - report.last_error_at)} ago: ` : "";
  return el(
    "li",
    { class: report.ready ? null : "is-bad" },
    el("h3", {}, report.service, el("small", {}, report.origin),
      el("span", { class: "state" }, report.ready ? "ready" : "not ready")),
    el("ul", {}, ...conditions),
    figures.length ? el("p", { class: "note" }, figures.join(" · ")) : null,
    report.last_error ? el("p", { class: "note" }, el("b", {}, "Last error "), age + report.last_error) : null,
    el("p", { class: "note", title: `since ${day(report.started)} ${clock(report.started)}` },
      `running for ${span(now - report.started)} · version ${report.version}`),
  );
}
