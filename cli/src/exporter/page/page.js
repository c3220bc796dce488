// Fills the status page with what /events tells: each event is the state of one server.
// All that comes from a server goes in as text (textContent), never as HTML.
"use strict";

// A server whose last state is older than this is shown as not heard of.
const QUIET_MS = 6000;
// As many locks as LIST gives unasked.
const LIST_LIMIT = 1000;

const WHAT = {
  ownership_violation: "release refused: not the holder",
  stale_release: "release refused: nobody held it",
  expired: "lease ran out while held",
  forced: "taken by force",
  disconnected: "holder's connection closed",
  removed: "key removed by another command",
  deadlock: "deadlock refused",
  long_hold: "held for very long",
  warning: "warning",
};
const SEVERE = new Set(["ownership_violation", "expired", "removed", "deadlock", "warning"]);

// ---- The connection ----

let connected = false;

function connect() {
  const source = new EventSource("events");
  source.onopen = () => setConnected(true);
  source.onmessage = (event) => {
    setConnected(true);
    showServer(JSON.parse(event.data));
  };
  source.onerror = () => {
    setConnected(false);
    // The browser itself tries again only after some kinds of ends.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  };
}

function setConnected(now) {
  if (connected === now && now) return;
  const lost = connected && !now ? `, at ${clock(Date.now())}` : "";
  const status = document.getElementById("connection");
  if (now) setText(status, "live");
  else if (lost) setText(status, `Connection to the exporter lost${lost}. Trying again.`);
  else if (!status.classList.contains("lost")) setText(status, "No connection to the exporter. Trying again.");
  status.classList.toggle("lost", !now);
  connected = now;
  showAges();
}

// ---- Servers ----

// By instance: its section, its last state that was no error, and when it was heard of.
const servers = new Map();

function showServer(state) {
  const server = servers.get(state.instance) ?? addServer(state.instance);
  server.heardAt = Date.now();
  server.error = state.error;
  const { section } = server;
  const trouble = section.querySelector(".trouble");
  if (state.error) {
    const known = server.known
      ? ` Below is what was known at ${clock(server.known.unix_ms)}.`
      : "";
    const why = state.module_missing ? "The module gpulock is not loaded in it" : state.error;
    setText(trouble, `No locks can be read from this server: ${why}.${known}`);
  } else {
    server.known = state;
    showLocks(section, state, server.leases);
    showLog(section, state);
    section.querySelector(".eviction").hidden = !state.may_evict;
  }
  trouble.hidden = !state.error;
  section.querySelector(".known").hidden = !server.known;
  showAges();
  showTitle();
}

function addServer(instance) {
  const section = pattern("server");
  setText(section.querySelector(".instance"), instance);
  const server = { section, known: null, error: null, heardAt: 0, leases: new Map() };
  servers.set(instance, server);
  const inOrder = [...servers].sort(([a], [b]) => (a < b ? -1 : 1));
  document.getElementById("servers").replaceChildren(...inOrder.map(([, { section }]) => section));
  return server;
}

function showAges() {
  for (const { section, heardAt, error } of servers.values()) {
    const quiet = Date.now() - heardAt;
    const badge = section.querySelector(".badge");
    const isQuiet = !connected || quiet > QUIET_MS;
    setText(badge, isQuiet ? `not heard of for ${duration(quiet)}` : error ? "down" : "up");
    badge.classList.toggle("bad", Boolean(error));
    badge.classList.toggle("warn", isQuiet && !error);
    section.querySelector(".known").classList.toggle("stale", isQuiet || Boolean(error));
  }
}

function showTitle() {
  let held = 0;
  let down = 0;
  for (const { known, error } of servers.values()) {
    held += known ? known.locks.filter(isHeld).length : 0;
    down += error ? 1 : 0;
  }
  document.title = (down ? `${down} down, ` : "") + `${held} held – GPU locks`;
}

// ---- Locks ----

function showLocks(section, state, leases) {
  const table = section.querySelector(".locks");
  table.hidden = state.locks.length === 0;
  section.querySelector(".no-locks").hidden = state.locks.length > 0;
  section.querySelector(".more").hidden = state.locks.length < LIST_LIMIT;
  sync(table, "lock", state.locks, (lock) => lock.key, (row, lock) => showLock(row, lock, state, leases));
  const keys = new Set(state.locks.map((lock) => lock.key));
  for (const key of leases.keys()) if (!keys.has(key)) leases.delete(key);
}

const isHeld = (lock) => lock.lease_ms !== null;

function showLock(row, lock, state, leases) {
  const part = (name) => row.querySelector(`.${name}`);
  setText(part("key"), lock.key);
  setText(part("owner"), holder(lock));
  setText(part("held"), lock.held_ms === null ? (isHeld(lock) ? "not known" : "") : duration(lock.held_ms));
  setText(part("since"), lock.held_ms === null ? "" : `since ${clock(state.unix_ms - lock.held_ms)}`);
  showLease(row, lock, leases);
  sync(part("line"), "waiter", lock.waiters, (waiter) => `${waiter.client} ${waiter.owner}`, showWaiter);
  const rest = lock.waiting - lock.waiters.length;
  setText(part("rest"), rest > 0 ? `and ${rest} more` : "");
}

function holder(lock) {
  if (lock.owner !== null) return lock.owner;
  if (isHeld(lock)) return "(a value that is no owner)";
  return lock.reserved_for === null ? "(nobody)" : `(set aside for ${lock.reserved_for})`;
}

function showLease(row, lock, leases) {
  const part = (name) => row.querySelector(`.${name}`);
  const endless = lock.lease_ms === -1;
  setText(part("lease"), !isHeld(lock) ? "" : endless ? "none: never ends" : duration(lock.lease_ms));
  part("lease").classList.toggle("badly", endless);
  part("bar").hidden = !isHeld(lock) || endless;
  if (part("bar").hidden) return;
  const share = Math.min(1, lock.lease_ms / Math.max(1, wholeLease(lock, leases)));
  part("left").style.width = `${(share * 100).toFixed(1)}%`;
  part("left").classList.toggle("low", share < 0.2);
}

// The server does not tell how long the lease was when it was set. Without a renewal it
// is what is over and what is left; after one that we saw, what was left then.
function wholeLease(lock, leases) {
  const hold = `${lock.owner} ${lock.token}`;
  const before = leases.get(lock.key);
  let seen = before?.hold === hold ? before : null;
  if (!seen) seen = { hold, whole: (lock.held_ms ?? 0) + lock.lease_ms };
  else if (lock.lease_ms > seen.left) seen.whole = lock.lease_ms;
  seen.left = lock.lease_ms;
  leases.set(lock.key, seen);
  return seen.whole;
}

function showWaiter(item, waiter) {
  const part = (name) => item.querySelector(`.${name}`);
  setText(part("owner"), waiter.owner);
  const away = waiter.client === null ? ", away, place kept" : "";
  setText(part("waited"), `for ${duration(waiter.waited_ms)}${away}`);
  const aside = waiter.reserved.length ? `, set aside: ${waiter.reserved.join(" ")}` : "";
  setText(part("wants"), waiter.of > 1 ? `, wants ${waiter.wants} of ${waiter.of}${aside}` : "");
}

// ---- The log ----

function showLog(section, state) {
  const entries = state.log ?? [];
  section.querySelector(".log").hidden = entries.length === 0;
  const none = section.querySelector(".no-log");
  none.hidden = entries.length > 0;
  setText(none, state.log === null
    ? "The exporter's user may not read GPULOCK.LOG."
    : "Nothing, since the server started or its log was reset.");
  sync(section.querySelector(".log tbody"), "incident", entries, (entry, place) => place, showIncident);
}

function showIncident(row, entry) {
  const part = (name) => row.querySelector(`.${name}`);
  setText(part("when"), clock(entry.unix_ms));
  part("when").dateTime = new Date(entry.unix_ms).toISOString();
  const times = entry.count > 1 ? `, ${entry.count} times` : "";
  setText(part("what"), (WHAT[entry.kind] ?? entry.kind) + times);
  part("what").classList.toggle("badly", SEVERE.has(entry.kind));
  setText(part("key"), entry.key);
  setText(part("holder"), entry.holder ?? "");
  setText(part("held-for"), entry.held_ms === null ? "" : `held for ${duration(entry.held_ms)}`);
  setText(part("caller"), entry.caller ?? "");
  const from = entry.client?.match(/(?:^| )addr=(\S+)/)?.[1];
  setText(part("from"), from ? `from ${from}` : "");
  setText(part("reason"), entry.reason ?? "");
}

// ---- Small things ----

function pattern(name) {
  return document.getElementById(name).content.firstElementChild.cloneNode(true);
}

// Touches only what changed, so that a selection stays where it is.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Makes the children of `parent` that stem from a pattern show `items`, in their order; a
// child stays the same for the same key.
function sync(parent, name, items, keyOf, show) {
  const there = new Map();
  for (const child of [...parent.children]) {
    if (child.dataset.key !== undefined) there.set(child.dataset.key, child);
  }
  const wanted = items.map((item, place) => {
    const key = String(keyOf(item, place));
    const child = there.get(key) ?? pattern(name);
    there.delete(key);
    child.dataset.key = key;
    show(child, item);
    return child;
  });
  for (const gone of there.values()) gone.remove();
  let next = null;
  for (const child of wanted.reverse()) {
    if (child.parentNode !== parent || child.nextElementSibling !== next) parent.insertBefore(child, next);
    next = child;
  }
}

function clock(unixMs) {
  const time = new Date(unixMs);
  const today = time.toDateString() === new Date().toDateString();
  return today ? time.toLocaleTimeString() : time.toLocaleString();
}

function duration(ms) {
  const s = Math.floor(ms / 1000);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

setInterval(showAges, 1000);
connect();
