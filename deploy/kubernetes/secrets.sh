#!/bin/bash
# Prints Secrets with new random passwords for the users of the lock server:
#
#     deploy/kubernetes/secrets.sh [NAMESPACE] | kubectl apply -f -      default: gpulock
#
# The server's Secret contains only the hashes of the passwords, in its file of ACL users. The users
# `worker`, `reader` and `watchdog` are those of docs/operations.md: adapt the patterns of keys and
# channels to the names of your locks. `probe` may only call PING. To replace the passwords, run the
# script again, copy the Secret `gpulock-worker` to the other namespaces that have it, and restart
# the pods.
set -euo pipefail
namespace=${1:-gpulock}

password() { head -c 32 /dev/urandom | sha256sum | cut -d' ' -f1; }
hash() { printf '%s' "$1" | sha256sum | cut -d' ' -f1; }

secret() { # USER PASSWORD
    cat <<SECRET
---
apiVersion: v1
kind: Secret
metadata:
  name: gpulock-$1
  namespace: $namespace
stringData:
  password: $2
SECRET
}

worker=$(password)
reader=$(password)
watchdog=$(password)
cat <<SECRETS
apiVersion: v1
kind: Secret
metadata:
  name: gpulock-users
  namespace: $namespace
stringData:
  users.acl: |
    user default off
    user probe on nopass resetkeys resetchannels -@all +ping
    user worker on #$(hash "$worker") resetkeys ~gpu_lock:* ~gpu:* ~{*}:gpu:* ~{*}:GPU-* ~{*}:MIG-* resetchannels &gpu_lock:gpu_lock:* &gpu_lock:gpu:* &gpu_lock:{*}:gpu:* &gpu_lock:{*}:GPU-* &gpu_lock:{*}:MIG-* -@all +@connection -@dangerous +gpulock.acquire +gpulock.acquireany +gpulock.release +gpulock.extend +gpulock.inspect +subscribe +psubscribe +unsubscribe +punsubscribe
    user watchdog on #$(hash "$watchdog") resetkeys ~gpu_lock:* ~gpu:* ~{*}:gpu:* ~{*}:GPU-* ~{*}:MIG-* resetchannels -@all +@connection -@dangerous +gpulock.list +gpulock.inspect +gpulock.forcerelease
    user reader on #$(hash "$reader") resetkeys %R~gpu_lock:* %R~gpu:* %R~{*}:gpu:* %R~{*}:GPU-* %R~{*}:MIG-* resetchannels -@all +@connection -@dangerous +gpulock.inspect +gpulock.list +gpulock.stats +gpulock.log +gpulock.metrics +info
$(secret worker "$worker")
$(secret reader "$reader")
$(secret watchdog "$watchdog")
SECRETS
