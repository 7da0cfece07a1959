// The timeline: a lane for each source, in it a bar for each span of time, stacked by severity.
// It is a slider as well: the arrow keys go from bar to bar, Enter chooses one.

import { chosenSet, chosen, go } from "./address.js";
import { $, clock, count, events, svg, write } from "./dom.js";

const LANE = 40, GAP = 10, LABEL = 88, FOOT = 20;
const ORDER = ["error", "warning", "info"];
const drawing = $("timeline");

let shown = null; // the timeline that was drawn last
let cursor = null; // the bar of the keyboard

export function drawTimeline(timeline) {
  shown = timeline;
  const lanes = group(timeline);
  const width = Math.max(280, drawing.clientWidth);
  const height = lanes.size * (LANE + GAP) + FOOT;
  const right = width - 6;
  const x = (seconds) =>
    LABEL + ((seconds - timeline.start) / (timeline.width * timeline.bars)) * (right - LABEL);
  drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
  drawing.setAttribute("height", height);
  const parts = [];
  let top = 4;
  for (const [source, bars] of lanes) {
    parts.push(...lane(source, bars, top, x, timeline));
    top += LANE + GAP;
  }
  parts.push(...marks(timeline, x, height, width), ...columns(timeline, x, top - GAP + 4, lanes));
  drawing.replaceChildren(...parts);
  describe(lanes);
}

// The chosen events by source: for each bar, the count of each severity.
function group({ cells, bars, gaps }) {
  const sources = chosenSet("source"), severities = chosenSet("severity");
  const lanes = new Map();
  const laneOf = (source) => {
    if (!lanes.has(source)) lanes.set(source, Array.from({ length: bars }, () => ({})));
    return lanes.get(source);
  };
  for (const [bar, source, severity, number] of cells) {
    if (sources.size && !sources.has(source)) continue;
    if (severities.size && !severities.has(severity)) continue;
    laneOf(source)[bar][severity] = number;
  }
  for (const gap of gaps) if (!sources.size || sources.has(gap.source)) laneOf(gap.source);
  return new Map([...lanes].sort());
}

const total = (bar) => Object.values(bar).reduce((sum, number) => sum + number, 0);

function lane(source, bars, top, x, { start, width, gaps }) {
  const most = Math.max(1, ...bars.map(total));
  const bottom = top + LANE;
  const parts = [
    svg("line", { class: "lane", x1: LABEL, x2: x(start + width * bars.length), y1: bottom, y2: bottom }),
    svg("text", { x: 0, y: top + 16 }, source),
    svg("text", { x: 0, y: top + 31, opacity: 0.85 }, `max ${count(most)}/${width > 60 ? `${width / 60} ` : ""}min`),
  ];
  bars.forEach((bar, index) => {
    let y = bottom;
    const left = x(start + index * width);
    const wide = Math.max(1, x(start + (index + 1) * width) - left - 1.5);
    for (const severity of ORDER) {
      if (!bar[severity]) continue;
      const high = Math.max(2, (bar[severity] / most) * (LANE - 2));
      y -= high;
      parts.push(svg("rect", { class: severity, x: left, y, width: wide, height: high }));
    }
  });
  for (const gap of gaps.filter((each) => each.source === source)) {
    const left = Math.max(LABEL, x(gap.gap[0]));
    const wide = Math.max(5, x(gap.gap[1]) - left);
    parts.push(
      svg("rect", { class: "gap", x: left, y: top, width: wide, height: LANE }, svg("title", {}, gap.text)),
      svg("text", { class: "gap-mark", x: left + 3, y: top + 11 }, "gap"),
    );
  }
  return parts;
}

// The clock below the lanes, at round times.
function marks({ start, width, bars }, x, height, drawn) {
  const long = width * bars;
  const step = (drawn < 560 ? 2 : 1) * (long <= 3600 ? 600 : long <= 21600 ? 3600 : 10800);
  const offset = new Date(start * 1000).getTimezoneOffset() * 60;
  const parts = [];
  for (let at = Math.ceil((start - offset) / step) * step + offset; at <= start + long; at += step) {
    const place = Math.min(x(at), drawn - 22);
    parts.push(svg("text", { x: place, y: height - 3, "text-anchor": "middle" }, clock(at)));
  }
  return parts;
}

function columns({ start, width, bars }, x, bottom, lanes) {
  const parts = [];
  for (let bar = 0; bar < bars; bar++) {
    const since = start + bar * width;
    const isChosen = bar === cursor || Number(chosen("since")) === since;
    const left = x(since);
    parts.push(
      svg(
        "rect",
        {
          class: isChosen ? "hit chosen" : "hit", x: left, y: 0, width: x(since + width) - left,
          height: bottom, onclick: () => choose(bar),
        },
        svg("title", {}, summarize(bar, lanes)),
      ),
    );
  }
  return parts;
}

function summarize(bar, lanes) {
  const at = shown.start + bar * shown.width;
  const counts = [...lanes].flatMap(([source, bars]) =>
    ORDER.filter((severity) => bars[bar][severity]).map(
      (severity) => `${source} ${count(bars[bar][severity])} ${severity}`,
    ),
  );
  return `${clock(at)} to ${clock(at + shown.width)}: ${counts.join(", ") || "nothing"}`;
}

function describe(lanes) {
  const all = [...lanes.values()].flat().reduce((sum, bar) => sum + total(bar), 0);
  const at = cursor ?? shown.bars - 1;
  drawing.setAttribute("aria-valuemin", 0);
  drawing.setAttribute("aria-valuemax", shown.bars - 1);
  drawing.setAttribute("aria-valuenow", at);
  drawing.setAttribute("aria-valuetext", summarize(at, lanes));
  const late = shown.counted_since > shown.start + shown.width;
  write(
    $("counted"),
    events(all) + (late ? `, of those stored since ${clock(shown.counted_since)}` : ""),
  );
}

function choose(bar) {
  const since = shown.start + bar * shown.width;
  const again = Number(chosen("since")) === since;
  go(again ? { since: "", until: "" } : { since, until: since + shown.width });
}

drawing.addEventListener("keydown", (event) => {
  if (!shown) return;
  const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
  if (event.key in steps) {
    const from = cursor ?? shown.bars - 1;
    cursor = Math.min(shown.bars - 1, Math.max(0, from + steps[event.key]));
    drawTimeline(shown);
  } else if (event.key === "Enter" && cursor != null) choose(cursor);
  else return;
  event.preventDefault();
});
drawing.addEventListener("blur", () => {
  cursor = null;
  if (shown) drawTimeline(shown);
});
addEventListener("resize", () => shown && drawTimeline(shown));
