// Elements, and figures for people. Text is always a text node: the text of an event can never become
// markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

export const el = (name, attributes = {}, ...children) =>
  fill(document.createElement(name), attributes, children);

export const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);

// Changes a text only where it differs, so that a screen reader does not repeat it.
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const two = (number) => String(number).padStart(2, "0");

export function clock(seconds, withMilliseconds = false) {
  const at = new Date(seconds * 1000);
  const time = `${two(at.getHours())}:${two(at.getMinutes())}`;
  if (!withMilliseconds) return time;
  const fraction = String(at.getMilliseconds()).padStart(3, "0");
  return `${time}:${two(at.getSeconds())}.${fraction}`;
}

export function day(seconds) {
  const at = new Date(seconds * 1000);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

export const isToday = (seconds) => day(seconds) === day(Date.now() / 1000);

export const count = (number) => number.toLocaleString("en-US");

export const events = (number) => `${count(number)} ${number === 1 ? "event" : "events"}`;

export function rate(number) {
  return number > 0 && number < 10 ? number.toFixed(1) : count(Math.round(number));
}

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; bytes >= 1024 && unit < units.length - 1; unit++) bytes /= 1024;
  return `${unit ? bytes.toFixed(1) : bytes} ${units[unit]}`;
}

export function span(seconds) {
  const units = [["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];
  const parts = [];
  let left = Math.max(0, Math.floor(seconds));
  for (const [unit, length] of units) {
    if (left >= length) parts.push(`${Math.floor(left / length)} ${unit}`);
    left %= length;
  }
  return parts.slice(0, 2).join(" ") || "0 s";
}
