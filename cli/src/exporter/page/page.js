// Fills the status page from /events, where each event is the state of one server.
// Data from a server is inserted as text (textContent), never as HTML.
"use strict";

// A state that is older than this is shown as outdated.
const STALE_MS = 6000;
// The default limit of LIST.
const LIST_LIMIT = 1000;

const EVENTS = {
  ownership_violation: "release rejected: not the holder",
  stale_release: "release rejected: lock not held",
  expired: "lease expired",
  forced: "forced release",
  disconnected: "holder disconnected",
  removed: "key removed by another command",
  deadlock: "wait rejected: deadlock",
  long_hold: "long hold",
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
    // The browser does not reconnect after every kind of error.
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 2000);
  };
}

function setConnected(now) {
  if (connected === now && now) return;
  const lost = connected && !now ? `, at ${clock(Date.now())}` : "";
  const status = document.getElementById("connection");
  if (now) setText(status, "live");
  else if (lost) setText(status, `Connection to the exporter lost${lost}. Reconnecting …`);
  else if (!status.classList.contains("lost")) setText(status, "No connection to the exporter. Reconnecting …");
  status.classList.toggle("lost", !now);
  connected = now;
  showAges();
}

// ---- Servers ----

// By instance: its section, its last successful state, and the time of the last event.
const servers = new Map();

function showServer(state) {
  const server = servers.get(state.instance) ?? addServer(state.instance);
  server.updatedAt = Date.now();
  server.error = state.error;
  const { section } = server;
  const error = section.querySelector(".error");
  if (state.error) {
    const known = server.known
      ? ` Last known state, from ${clock(server.known.unix_ms)}:`
      : "";
    const why = state.module_missing ? "the module gpulock is not loaded" : state.error;
    setText(error, `Failed to read the locks of this server: ${why}.${known}`);
  } else {
    server.known = state;
    showLocks(section, state, server.leases);
    showLog(section, state);
    section.querySelector(".eviction").hidden = !state.may_evict;
  }
  error.hidden = !state.error;
  section.querySelector(".known").hidden = !server.known;
  showAges();
  showTitle();
}

function addServer(instance) {
  const section = fromTemplate("server");
  setText(section.querySelector(".instance"), instance);
  const server = { section, known: null, error: null, updatedAt: 0, leases: new Map() };
  servers.set(instance, server);
  const sorted = [...servers].sort(([a], [b]) => (a < b ? -1 : 1));
  document.getElementById("servers").replaceChildren(...sorted.map(([, { section }]) => section));
  return server;
}

function showAges() {
  for (const { section, updatedAt, error } of servers.values()) {
    const age = Date.now() - updatedAt;
    const badge = section.querySelector(".badge");
    const isStale = !connected || age > STALE_MS;
    setText(badge, isStale ? `no update for ${duration(age)}` : error ? "down" : "up");
    badge.classList.toggle("bad", Boolean(error));
    badge.classList.toggle("warn", isStale && !error);
    section.querySelector(".known").classList.toggle("stale", isStale || Boolean(error));
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
  const rows = byCard(state.locks);
  sync(table, "lock", rows, (lock) => lock.slots === undefined ? lock.key : `${lock.key} (GPU)`,
    (row, lock) => showLock(row, lock, state, leases));
  const keys = new Set(state.locks.map((lock) => lock.key));
  for (const key of leases.keys()) if (!keys.has(key)) leases.delete(key);
}

const isHeld = (lock) => lock.lease_ms !== null;

// The key of a slot, as in cards.rs: a GPU of a pool, and a number below 64.
const SLOT = /^(\{[^}]*:[^}]*\}:(?:(?:GPU|MIG)-[^:]*|gpu:\d+(?::mig:\d+)?)):([1-5]?\d|6[0-3])$/;

// Puts the slots of each GPU into one row, at the place of the first of them.
function byCard(locks) {
  const rows = [];
  const cards = new Map();
  for (const lock of locks) {
    const key = lock.key.match(SLOT)?.[1];
    if (key === undefined) rows.push(lock);
    else if (cards.has(key)) cards.get(key).push(lock);
    else {
      cards.set(key, [lock]);
      rows.push(cards.get(key));
    }
  }
  return rows.map((row) => Array.isArray(row) ? card(row) : row);
}

// One row for these slots: the longest hold, the shortest lease with its hold, and each waiter
// once, since a client that waits for any slot waits for each of them.
function card(slots) {
  const held = slots.filter(isHeld);
  const shortest = held.reduce((a, b) => (a && a.lease_ms <= b.lease_ms ? a : b), null);
  const fullest = slots.reduce((a, b) => (a.waiting >= b.waiting ? a : b));
  const holds = held.map((slot) => slot.held_ms).filter((ms) => ms !== null);
  return {
    ...fullest,
    key: slots[0].key.match(SLOT)[1],
    slots: held.length,
    owners: countBy(held.map(holder)),
    shortest,
    lease_ms: shortest ? shortest.lease_ms : null,
    held_ms: holds.length ? Math.max(...holds) : null,
  };
}

// The different values, with their numbers, in the order in which they first occur.
function countBy(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts];
}

const slotCount = (number) => `${number} slot${number === 1 ? "" : "s"}`;

function showLock(row, lock, state, leases) {
  const part = (name) => row.querySelector(`.${name}`);
  setText(part("key"), lock.key);
  setText(part("slots"), lock.slots === undefined ? "" : slotCount(lock.slots));
  setText(part("owner"), lock.slots ? holders(lock.owners) : holder(lock));
  setText(part("held"), lock.held_ms === null ? (isHeld(lock) ? "unknown" : "") : duration(lock.held_ms));
  setText(part("since"), lock.held_ms === null ? "" : `since ${clock(state.unix_ms - lock.held_ms)}`);
  showLease(row, lock.shortest ?? lock, leases);
  sync(part("queue"), "waiter", lock.waiters, (waiter) => `${waiter.client} ${waiter.owner}`, showWaiter);
  const rest = lock.waiting - lock.waiters.length;
  setText(part("rest"), rest > 0 ? `and ${rest} more` : "");
}

function holder(lock) {
  if (lock.owner !== null) return lock.owner;
  if (isHeld(lock)) return "(value is not an owner)";
  return lock.reserved_for === null ? "(free)" : `(free, reserved for ${lock.reserved_for})`;
}

function holders(owners) {
  if (owners.length === 1) return owners[0][0];
  return owners.map(([owner, slots]) => `${owner} (${slots})`).join(", ");
}

function showLease(row, lock, leases) {
  const part = (name) => row.querySelector(`.${name}`);
  const noTtl = lock.lease_ms === -1;
  setText(part("lease"), !isHeld(lock) ? "" : noTtl ? "no TTL" : duration(lock.lease_ms));
  part("lease").classList.toggle("severe", noTtl);
  part("bar").hidden = !isHeld(lock) || noTtl;
  if (part("bar").hidden) return;
  const share = Math.min(1, lock.lease_ms / Math.max(1, wholeLease(lock, leases)));
  part("left").style.width = `${(share * 100).toFixed(1)}%`;
  part("left").classList.toggle("low", share < 0.2);
}

// The server does not report the full length of a lease. Estimate it: the elapsed and the
// remaining time, or after a renewal the remaining time at that moment.
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
  const kept = waiter.client === null ? ", disconnected" : "";
  setText(part("waited"), `for ${duration(waiter.waited_ms)}${kept}`);
  const reserved = waiter.reserved?.length ? `, reserved: ${waiter.reserved.join(" ")}` : "";
  setText(part("wants"), waiter.of > 1 ? `, wants ${waiter.wants} of ${waiter.of}${reserved}` : "");
}

// ---- The log ----

function showLog(section, state) {
  const entries = state.log ?? [];
  section.querySelector(".log").hidden = entries.length === 0;
  const none = section.querySelector(".no-log");
  none.hidden = entries.length > 0;
  setText(none, state.log === null
    ? "The exporter's user has no permission for GPULOCK.LOG."
    : "The log is empty.");
  sync(section.querySelector(".log tbody"), "entry", entries, (entry, index) => index, showEntry);
}

function showEntry(row, entry) {
  const part = (name) => row.querySelector(`.${name}`);
  setText(part("time"), clock(entry.unix_ms));
  part("time").dateTime = new Date(entry.unix_ms).toISOString();
  const times = entry.count > 1 ? `, ${entry.count} times` : "";
  setText(part("event"), (EVENTS[entry.kind] ?? entry.kind) + times);
  part("event").classList.toggle("severe", SEVERE.has(entry.kind));
  setText(part("key"), entry.key);
  setText(part("holder"), entry.holder ?? "");
  setText(part("held-for"), entry.held_ms === null ? "" : `held for ${duration(entry.held_ms)}`);
  setText(part("caller"), entry.caller ?? "");
  const from = entry.client?.match(/(?:^| )addr=(\S+)/)?.[1];
  setText(part("from"), from ? `from ${from}` : "");
  setText(part("reason"), entry.reason ?? "");
}

// ---- Helpers ----

function fromTemplate(name) {
  return document.getElementById(name).content.firstElementChild.cloneNode(true);
}

// Changes the node only if needed, so that a text selection is kept.
function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Makes the templated children of `parent` show `items` in order. An item with the same key
// keeps its child.
function sync(parent, name, items, keyOf, show) {
  const existing = new Map();
  for (const child of [...parent.children]) {
    if (child.dataset.key !== undefined) existing.set(child.dataset.key, child);
  }
  const wanted = items.map((item, index) => {
    const key = String(keyOf(item, index));
    const child = existing.get(key) ?? fromTemplate(name);
    existing.delete(key);
    child.dataset.key = key;
    show(child, item);
    return child;
  });
  for (const gone of existing.values()) gone.remove();
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
