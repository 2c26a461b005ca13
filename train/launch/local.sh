#!/usr/bin/env bash
# Several processes of one run on this machine: to try what a pod will do, or for one process per GPU.
#
#   train/launch/local.sh 2 sdejax train configs/folder64.py --data photos
#   train/launch/local.sh 2 sdejax sample runs/folder64/snapshot --seeds 0-49999999 --out gs://bucket/images
#
# Stopped, failed or killed: the same command goes on. Ctrl-C and TERM are handed on, and all processes waited for. Where
# one fails, the others get TERM, and after LAUNCH_GRACE seconds (30) KILL; the exit code is that of the first to fail.
set -u

if ! [[ ${1-} =~ ^[1-9][0-9]*$ && $# -ge 2 ]]; then
    echo "usage: $0 PROCESSES COMMAND [WORD ...]" >&2
    exit 2
fi
count=$1
shift

# A port where nobody answers, below those that the system itself gives to connections.
while port=$((20000 + RANDOM % 10000)) && (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$port JAX_NUM_PROCESSES=$count

pipes=$(mktemp -d)
trap 'rm -rf "$pipes"' EXIT
pids=() asked="" failure=0 deadline=0

# shellcheck disable=SC2317 # the traps call it
hand_on() {
    asked=yes
    kill -s "$1" "${pids[@]}" 2>/dev/null
}
trap 'hand_on INT' INT
trap 'hand_on TERM' TERM HUP

# With set -m each process is in a group of its own. The terminal's Ctrl-C then comes here alone and is handed on once;
# what helps a process (the workers that read its data) does not get it, and works until the process is done.
set -m
for ((index = 0; index < count; index++)); do
    # The last gives process I the I-th GPU; jax reads it for GPUs only.
    export JAX_PROCESS_ID=$index JAX_LOCAL_DEVICE_IDS=$index
    if ((index == 0)); then # it speaks for all, to people and with --json to machines: left as it is
        "$@" </dev/null &
    else
        mkfifo "$pipes/$index"
        while IFS= read -r line || [[ $line ]]; do # sed would keep the lines until it has many
            printf '[%s] %s\n' "$index" "$line"
        done <"$pipes/$index" >&2 &
        "$@" </dev/null >"$pipes/$index" 2>&1 &
    fi
    pids+=($!)
done
set +m

running=$count ended=()
while ((running)); do
    sleep 0.2
    for ((index = 0; index < count; index++)); do
        if [[ ${ended[index]-} ]] || kill -0 "${pids[index]}" 2>/dev/null; then continue; fi
        wait "${pids[index]}" 2>/dev/null
        code=$? ended[index]=yes running=$((running - 1))
        if ((code == 0 || failure)); then continue; fi
        failure=$code
        if [[ ! $asked ]]; then # else each of them knows already, and a second signal would cut its end short
            echo "$0: process $index ended with exit code $code; stopping the others" >&2
            kill "${pids[@]}" 2>/dev/null
            deadline=$((SECONDS + ${LAUNCH_GRACE:-30}))
        fi
    done
    if ((deadline && SECONDS >= deadline && running)); then
        for ((index = 0; index < count; index++)); do
            if [[ ! ${ended[index]-} ]]; then kill -s KILL -- "-${pids[index]}" 2>/dev/null; fi
        done
    fi
done
wait # until the last lines are through
exit "$failure"
