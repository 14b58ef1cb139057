#!/bin/bash
# hpc_dl VERSION: job train, mode sync, site minicluster
# from template SHARE/templates/sbatch.sh.j2
# and job description SHARE/jobs/train.toml
#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=00:30:00
#SBATCH --output=/FOLDER/work/runs/train-%j/job.log
#SBATCH --open-mode=append
#SBATCH --gres=gpu:k80:2
#SBATCH --partition=main

set -u -o pipefail
umask 077
run=/FOLDER/work/runs/train-"$SLURM_JOB_ID"

# However the script ends, it writes the outcome; its exit code is that of the first process that failed.
started=$(date +%s.%N)
finish() {
  local code=$?
  trap - EXIT
  trap '' TERM INT
  PYTHON -m hpc_dl finish "$run" --code "$code" --started "$started"
  exit $?  # without a number it would be the code from before the trap
}
trap finish EXIT

# A signal goes on to the step, and the script waits on for it; without a step it ends here.
step=
trap '[ -n "$step" ] || exit 143; kill -TERM "$step" 2>/dev/null' TERM INT
await() {
  local code
  step=$1
  while :; do
    wait "$step"
    code=$?
    kill -0 "$step" 2>/dev/null || break
  done
  step=
  return "$code"
}

# What an earlier run of this job, before a requeue, said of its end does not count.
rm -rf -- "$run/state" "$run/summary.json" "$run/result.json"
cd /FOLDER/work || exit



# The data set is made ready once, before the processes that read it.
PYTHON -m hpc_dl.data prepare digits --data-dir /FOLDER/work/data &
await $! || exit

# What each node has for this job decides the placement, which gives the task file.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task=8 --export=ALL PYTHON -m hpc_dl facts "$run" > "$run/nodes.jsonl" &
await $! || exit
PYTHON -m hpc_dl place "$run" --nodelist "$SLURM_JOB_NODELIST" --job-id "$SLURM_JOB_ID" || exit

# One task per node; each runs the line of its node. A task that fails ends the others.
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task=8 --export=ALL --kill-on-bad-exit=1 PYTHON -m hpc_dl tasks node "$run/tasks.txt" &
await $!
