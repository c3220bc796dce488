// Takes the lock of a GPU, works, asks for more time, and gives the lock back.

import { randomUUID } from "node:crypto";
import { createClient } from "redis";

const LOCK = "gpu_lock:0";
const LEASE = "60"; // seconds after which the lock is free again should this program die

// Names this run, not the task: two runs must not give back each other's lock.
const owner = `train-${randomUUID()}`;

const client = createClient({ url: process.env.REDIS_URL });
client.on("error", (error) => console.error(error));
await client.connect();

async function main() {
  // UNIQUE says that nobody else uses this owner: should the answer get lost, the same
  // command may be sent again, and gets the lock that we have already.
  const token = await client.sendCommand(["GPULOCK.ACQUIRE", LOCK, owner, "EX", LEASE, "UNIQUE"]);
  if (token === null) {
    // The lock is an ordinary key whose value is the owner.
    console.log(`${LOCK} is held by ${await client.sendCommand(["GET", LOCK])}`);
    return 1;
  }
  try {
    // The token rises with every grant. Whoever stores our results can refuse a lower one:
    // it comes from a holder that was paused past its lease.
    console.log(`${LOCK} is ours, fencing token ${token}`);
    // ... the first half of the work ...
    if ((await client.sendCommand(["GPULOCK.EXTEND", LOCK, owner, "EX", LEASE])) === null) {
      console.log(`lost ${LOCK}, its lease was over: stop working`);
      return 1;
    }
    console.log(`extended ${LOCK} to ${LEASE} seconds from now`);
    // ... the second half ...
    return 0;
  } finally {
    // 0 means that we did not hold it any more; a successor's lock is left alone.
    const released = await client.sendCommand(["GPULOCK.RELEASE", LOCK, owner]);
    console.log(released ? `gave ${LOCK} back` : `${LOCK} was no longer ours`);
  }
}

try {
  process.exitCode = await main();
} finally {
  await client.close();
}
