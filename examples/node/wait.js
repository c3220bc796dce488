// Waits for the lock of a GPU in short slices, with node-redis, and releases it.

import { randomUUID } from "node:crypto";
import { createClient, ErrorReply } from "redis";

const LOCK = "gpu_lock:0";
const LEASE = "60"; // seconds until the lock becomes free if this program dies
const WAIT = 60_000; // milliseconds until this program gives up
// Milliseconds of one command. Nothing is sent on the connection in the meantime, so this is
// shorter than each timeout of the client and of the proxies on the path.
const SLICE = 1_000;

const owner = `train-${randomUUID()}`;

// A connection of its own: nothing else can be sent on it while it waits.
const client = createClient({ url: process.env.REDIS_URL });
client.on("error", (error) => console.error(error));
await client.connect();

async function acquire() {
  const end = Date.now() + WAIT;
  for (;;) {
    const rest = end - Date.now();
    const block = String(Math.max(1, Math.min(SLICE, rest)));
    // UNIQUE keeps the position in the queue from one slice to the next. The last slice
    // gives it up.
    const keep = rest <= SLICE ? ["KEEP", "0"] : [];
    try {
      const token = await client.sendCommand([
        "GPULOCK.ACQUIRE", LOCK, owner, "EX", LEASE, "BLOCK", block, "UNIQUE", ...keep,
      ]);
      if (token !== null || rest <= SLICE) return token;
    } catch (error) {
      // After a lost connection, the next call takes over the position, or returns the token
      // of a grant whose reply was lost. An error from the server is final.
      if (error instanceof ErrorReply || rest <= SLICE) throw error;
    }
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
      const released = await client.sendCommand(["GPULOCK.RELEASE", LOCK, owner]);
      console.log(released ? `released ${LOCK}` : `${LOCK} was no longer held`);
    }
  }
} finally {
  await client.close();
}
