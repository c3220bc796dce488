// Waits for the lock of a GPU in short slices, with ioredis, and releases it.

import { randomUUID } from "node:crypto";
import { Redis } from "ioredis";

const LEASE = "60"; // seconds until the lock becomes free if this program dies
const WAIT = 60_000; // milliseconds until this program gives up
// Milliseconds of one command. Nothing is sent on the connection in the meantime, so this is
// shorter than each timeout of the client and of the proxies on the path.
const SLICE = 1_000;

const owner = `train-${randomUUID()}`;

// A connection of its own: nothing else can be sent on it while it waits.
const client = new Redis(process.env.REDIS_URL, { keyPrefix: process.env.KEY_PREFIX });
client.on("error", (error) => console.error(error));

// ioredis prepends keyPrefix only to the keys of commands that it knows. GPULOCK.ACQUIRE needs
// the whole name of the key.
const LOCK = `${client.options.keyPrefix ?? ""}gpu_lock:0`;

// UNIQUE keeps the position in the queue from one slice to the next. After a lost connection,
// ioredis sends the command again: it takes over the position, or returns the token of a grant
// whose reply was lost.
async function acquire() {
  const end = Date.now() + WAIT;
  for (;;) {
    const rest = end - Date.now();
    const block = Math.max(1, Math.min(SLICE, rest));
    // The last slice gives the position up.
    const keep = rest <= SLICE ? ["KEEP", 0] : [];
    const token = await client.call(
      "GPULOCK.ACQUIRE", LOCK, owner, "EX", LEASE, "BLOCK", block, "UNIQUE", ...keep,
    );
    if (token !== null || rest <= SLICE) return token;
  }
}

try {
  const token = await acquire();
  if (token === null) {
    console.log(`gave up waiting for ${LOCK}`);
    process.exitCode = 1;
  } else {
    console.log(`acquired ${LOCK}, fencing token ${token}`);
    try {
      // ... the work ...
    } finally {
      const released = await client.call("GPULOCK.RELEASE", LOCK, owner);
      console.log(released ? `released ${LOCK}` : `${LOCK} was no longer held`);
    }
  }
} finally {
  client.disconnect();
}
