// Acquires the lock of a GPU, extends its lease, and releases it.

import { randomUUID } from "node:crypto";
import { createClient } from "redis";

const LOCK = "gpu_lock:0";
const LEASE = "60"; // seconds until the lock becomes free if this program dies

// Identifies this run, not the task: a run must not release the lock of another run.
const owner = `train-${randomUUID()}`;

const client = createClient({ url: process.env.REDIS_URL });
client.on("error", (error) => console.error(error));
await client.connect();

async function main() {
  // UNIQUE: no other client uses this owner. If the reply is lost, the command can be
  // repeated, and returns the same token if the lock was already granted.
  const token = await client.sendCommand(["GPULOCK.ACQUIRE", LOCK, owner, "EX", LEASE, "UNIQUE"]);
  if (token === null) {
    // The lock is an ordinary key whose value is the owner.
    console.log(`${LOCK} is held by ${await client.sendCommand(["GET", LOCK])}`);
    return 1;
  }
  try {
    // The token rises with every grant. A store for the results can reject lower tokens:
    // they come from holders that were paused past their lease.
    console.log(`acquired ${LOCK}, fencing token ${token}`);
    // ... the first half of the work ...
    if ((await client.sendCommand(["GPULOCK.EXTEND", LOCK, owner, "EX", LEASE])) === null) {
      console.log(`lost ${LOCK}: its lease expired`);
      return 1;
    }
    console.log(`extended ${LOCK} to ${LEASE} seconds from now`);
    // ... the second half ...
    return 0;
  } finally {
    // Returns 0 if this run no longer held the lock, and never releases a successor's.
    const released = await client.sendCommand(["GPULOCK.RELEASE", LOCK, owner]);
    console.log(released ? `released ${LOCK}` : `${LOCK} was no longer held`);
  }
}

try {
  process.exitCode = await main();
} finally {
  await client.close();
}
