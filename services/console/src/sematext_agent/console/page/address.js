// The page's address holds every choice, so that a link or a reload shows the same.

const FILTERS = ["q", "severity", "source", "origin", "range", "since", "until"];
const DEFAULTS = { range: "1h", view: "events" };

let onChange = () => {};

export function watchAddress(callback) {
  onChange = callback;
  addEventListener("popstate", () => callback());
}

export const read = () => new URLSearchParams(location.search);

export const chosen = (name) => read().get(name) ?? DEFAULTS[name] ?? "";

export const chosenSet = (name) => new Set(chosen(name).split(",").filter(Boolean));

// The address with `changes` made; an empty value leaves its name out.
export function withChanges(changes) {
  const query = read();
  for (const [name, value] of Object.entries(changes)) {
    if (value && value !== DEFAULTS[name]) query.set(name, value);
    else query.delete(name);
  }
  return query.size ? `?${query}`.replaceAll("%2C", ",") : location.pathname;
}

// With `replace`, the browser's Back skips the old address.
export function go(changes, { replace = false } = {}) {
  const address = withChanges(changes);
  if (address === (location.search || location.pathname)) return;
  history[replace ? "replaceState" : "pushState"](null, "", address);
  onChange();
}

export function filterQuery() {
  const query = new URLSearchParams();
  for (const name of FILTERS) if (chosen(name)) query.set(name, chosen(name));
  return query.toString();
}

export const isUnfiltered = () =>
  FILTERS.every((name) => name === "range" || !chosen(name));

export const noFilters = Object.fromEntries(
  FILTERS.filter((name) => name !== "range").map((name) => [name, ""]),
);
