#!/usr/bin/env bash
# A TPU pod slice from gcloud: the same command on every host. jax learns of the other hosts from Google's metadata
# server; no option of sdejax is needed.
#
#   export TPU=sdejax ZONE=us-west4-a BUCKET=gs://bucket
#   train/launch/tpu_pod.sh create v5litepod-16 v2-alpha-tpuv5-lite     # 16 chips on 4 hosts; add --spot for cheap ones
#   train/launch/tpu_pod.sh install                                     # this repository's last commit, on all hosts
#
# Training. Every host reads the data, so each needs them; the checkpoints are common to all:
#
#   train/launch/tpu_pod.sh each gcloud storage cp --recursive $BUCKET/photos .
#   train/launch/tpu_pod.sh start sdejax train configs/folder64.py --data photos --checkpoints $BUCKET/runs/folder64
#   train/launch/tpu_pod.sh first tail -F run.log                       # Ctrl-C ends the looking on, not the run
#   train/launch/tpu_pod.sh first gcloud storage cp --recursive runs/folder64/snapshot $BUCKET/runs
#
# Generation:
#
#   train/launch/tpu_pod.sh each gcloud storage cp --recursive $BUCKET/runs/snapshot .
#   train/launch/tpu_pod.sh start sdejax sample snapshot --seeds 0-49999999 --out $BUCKET/images
#
#   train/launch/tpu_pod.sh stop       # in order: training writes a checkpoint
#   train/launch/tpu_pod.sh delete     # it costs until then
#
# To go on, whatever happened: the same start. On a new slice, create, install and copy come before it.
set -euo pipefail

usage() {
    echo "usage: TPU=NAME ZONE=ZONE $0 create TYPE VERSION [OPTION ...] | install | each COMMAND | first COMMAND |" \
        "start COMMAND | stop | delete" >&2
    exit 2
}

# on HOSTS TEXT: a line of shell on hosts ("all", or a number), in the folder of the repository.
on() {
    gcloud compute tpus tpu-vm ssh "$TPU" --zone="$ZONE" --worker="$1" --command="
        mkdir -p sdejax && cd sdejax && export PATH=\$HOME/env/bin:\$PATH || exit
        $2"
}

[[ ${TPU-} && ${ZONE-} && $# -ge 1 ]] || usage
verb=$1
shift
words=""
(($#)) && words=$(printf '%q ' "$@") # as they are, whatever blanks and quotes they have
case $verb in
create)
    (($# >= 2)) || usage
    gcloud compute tpus tpu-vm create "$TPU" --zone="$ZONE" --accelerator-type="$1" --version="$2" "${@:3}"
    ;;
install)
    archive=$(mktemp)
    trap 'rm -f "$archive"' EXIT
    git archive --format=tar.gz --output="$archive" HEAD
    gcloud compute tpus tpu-vm scp "$archive" "$TPU":sdejax.tar.gz --zone="$ZONE" --worker=all
    # The system's Python is older than sdejax needs: uv brings one. gcsfs is what writes to gs:// addresses.
    on all "tar -xzf ../sdejax.tar.gz && python3 -m pip install --quiet --user uv &&
        python3 -m uv venv --quiet --allow-existing --python 3.12 ~/env &&
        python3 -m uv pip install --quiet --python ~/env/bin/python 'jax[tpu]' gcsfs ."
    ;;
each) on all "$words" ;;
first) on 0 "$words" ;;
start) on all "nohup $words >>run.log 2>&1 </dev/null & echo \$! >run.pid" ;; # outlives the connection
stop) on all "kill -TERM \$(cat run.pid)" ;;
delete) gcloud compute tpus tpu-vm delete "$TPU" --zone="$ZONE" ;;
*) usage ;;
esac
