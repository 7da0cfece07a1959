// The state of every service, and the figures of delivery.

import { $, clock, count, day, el, rate, size, span, write } from "./dom.js";

// The figures of a service that the page shows; the others are for /metrics.
const FIGURES = {
  lag_events: (value) => `${count(value)} events to deliver`,
  stream_bytes: (value) => `${size(value)} in the stream`,
  events_in_flight: (value) => `${count(value)} in flight`,
  events_unacknowledged: (value) => `${count(value)} not yet acknowledged`,
  oldest_unacknowledged_seconds: (value) => `oldest waits for ${span(value)}`,
  pages_open: (value) => `${count(value)} ${value === 1 ? "page" : "pages"} open`,
  events_kept: (value) => `${count(value)} events to search`,
};

export function showHealth({ connected, reports, delivery, now }, rates) {
  const hasForwarder = reports.some((report) => report.service === "forwarder");
  const notReady = reports.filter((report) => !report.ready).length;
  write($("not-ready-count"), notReady ? String(notReady) : "");
  write($("dead-count"), delivery?.dead_letters ? count(delivery.dead_letters) : "");
  showDelivery(connected && delivery, rates, reports.length, notReady);
  const banner = !connected
    ? "The broker is away. Collectors wait at their sources, nothing is lost, and this page goes on by itself when it is back."
    : reports.length && !hasForwarder ? "The forwarder does not answer: events are stored, and nothing is delivered." : "";
  write($("banner"), banner);
  $("banner").hidden = !banner;
  if (connected || reports.length) $("services").replaceChildren(...reports.map((report) => card(report, now)));
}

function showDelivery(delivery, rates, serviceCount, notReady) {
  const unknown = ["–", ""];
  const figures = [
    ["Arriving", ...(delivery ? [rate(rates.arriving), "events/s"] : unknown)],
    ["Delivering", ...(delivery ? [rate(rates.delivering), "events/s"] : unknown)],
    ["Lag", ...(delivery && delivery.lag != null ? [count(delivery.lag), "to deliver"] : unknown)],
    ["Buffer", ...(delivery ? [size(delivery.bytes), delivery.bytes_max ? `of ${size(delivery.bytes_max)}` : ""] : unknown)],
    ["Services ready", ...(serviceCount ? [String(serviceCount - notReady), `of ${serviceCount}`] : unknown)],
  ];
  const bad = {
    "Services ready": notReady > 0,
    Buffer: delivery && delivery.bytes_max && delivery.bytes > 0.8 * delivery.bytes_max,
  };
  $("delivery").replaceChildren(...figures.map(([name, value, unit]) =>
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
