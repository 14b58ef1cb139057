#!/bin/bash
# hpc_dl VERSION: job train, mode async, site hortense
# from job description SHARE/jobs/train.toml
# from template SHARE/templates/sbatch.sh.j2
#SBATCH --job-name=train
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=48
#SBATCH --time=00:30:00
#SBATCH --output=/FOLDER/runs/train-%j/job.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
#SBATCH --gpus-per-node=4
#SBATCH --export=NONE
#SBATCH --partition=gpu_rome_a100_40
#SBATCH --get-user-env=60L

set -u -o pipefail
usual=$(umask)
umask 077
unready=  # the exit code of what failed before the work could begin
run=/FOLDER/runs/train-"$SLURM_JOB_ID"
srun=
# What fails from here on, or a signal, is told once the outcome can be written.
told=
warned=
trap 'told=yes' TERM INT
trap 'told=yes; warned=yes' USR1
cd /FOLDER || unready=$?
# Else a command that calls srun would start with nothing, as this script did.
unset SLURM_EXPORT_ENV SLURM_GET_USER_ENV
set +u +o pipefail  # scripts of modules may not know them
trap 'echo "hpc-dl: a shell line of the site file has ended the script; it should fail instead" >&2' EXIT
[ -n "$unready" ] || eval 'module --force purge' || { unready=$?; echo "hpc-dl: before_modules failed; see the site file:" 'module --force purge' >&2; }
[ -n "$unready" ] || eval 'module load env/vsc/dodrio/gpu_rome_a100_40' || { unready=$?; echo "hpc-dl: before_modules failed; see the site file:" 'module load env/vsc/dodrio/gpu_rome_a100_40' >&2; }
trap - EXIT
set +e -u -o pipefail

export OMPI_MCA_orte_keep_fqdn_hostnames=1

# As `python -m`, without the current folder on the module path: a random.py there would be taken for Python's own.
python=(PYTHON -c 'import sys; sys.path[:] = filter(None, sys.path); import runpy; runpy.run_module(sys.argv.pop(1), None, "__main__", True)')
# An attempt is one start of the processes; what an earlier one, before a requeue, said of its end does not count.
attempt=$("${python[@]}" hpc_dl begin "$run") || exit
[ -n "$attempt" ] || exit 0  # the job has completed already

# However the script ends, it writes the outcome; its exit code is that of the first process that failed. If the job has to
# end before its training does, it is requeued there.
started=$(date +%s.%N)
finish() {
  local code=$?
  trap - EXIT
  trap '' TERM INT USR1
  "${python[@]}" hpc_dl finish "$run" --attempt "$attempt" --code "$code" --started "$started" ${told:+--told} ${warned:+--warned}
  exit $?  # without a number it would be the code from before the trap
}
trap finish EXIT
[ -z "$told" ] || exit 143
[ -z "$unready" ] || exit "$unready"

# A signal goes on to the step, and the script waits on for it; without a step it ends here, or once it knows which attempt
# is the latest. USR1 comes ahead of the time limit. The launchers find it in the run folder, since srun, told itself, would
# kill its tasks at once.
step=
between=
tell() {
  told=yes
  { : > "$run/state/$attempt/stop"; } 2>/dev/null || { tell_later & }
  [ -n "$step$between" ] || exit 143
  [ -z "$step" ] || [ -n "$srun" ] || kill -TERM "$step" 2>/dev/null
}
# A disk that takes no file now may take it soon.
tell_later() {
  for _ in {1..60}; do
    sleep 1
    : > "$run/state/$attempt/stop" && break
  done 2>/dev/null
}
trap 'signalled=yes; tell' TERM INT
trap 'signalled=yes; warned=yes; tell' USR1
await() {
  local code
  step=$1
  while :; do
    signalled=
    wait "$step"
    code=$?
    [ -n "$signalled" ] || break  # else the code may be that of the signal
  done
  step=
  return "$code"
}


# The data set is made ready once, before the processes that read it; others may share it, as the user's umask says.
inner=("${python[@]}")
(umask "$usual"; exec "${inner[@]}" hpc_dl.data prepare digits --data-dir /FOLDER/data) &
await $! || exit

while :; do
  # What each node has for this job decides the placement, which gives the task file. 1 is what srun says where it can't
  # start a step: slurmctld is away for a moment, or a node has just been lost, for which Slurm requeues the job.
  srun=
  for pause in 5 15 40 60 0; do
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task=48 --export=ALL --cpu-bind=none "${python[@]}" hpc_dl facts "$run" --attempt "$attempt" &
    await $!
    code=$?
    if [ "$code" -ne 1 ] || [ -n "$told" ] || [ "$pause" -eq 0 ]; then break; fi
    echo "hpc-dl: srun can't ask the nodes now; it is tried again in $pause s" >&2
    sleep "$pause" &
    await $!
    [ -z "$told" ] || exit 143
  done
  [ -z "$told" ] || exit 143
  [ "$code" -eq 0 ] || exit "$code"
  "${python[@]}" hpc_dl place "$run" --nodelist "$SLURM_JOB_NODELIST" --job-id "$SLURM_JOB_ID" --attempt "$attempt" || exit

  # One task per node; each runs the line of its node. A task that fails ends the others.
  srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpus-per-task=48 --export=ALL --cpu-bind=none --kill-on-bad-exit=1 "${python[@]}" hpc_dl tasks node "$run/tasks.txt" &
  srun=yes
  await $!
  # A failure that a new start may cure leads to the next attempt, on the same nodes; else the job ends.
  code=$?
  [ -z "$told" ] || exit "$code"
  between=yes
  # What tells this script to end must not end the command that has just made the next attempt the latest.
  next=$(trap '' TERM INT USR1; "${python[@]}" hpc_dl again "$run" --attempt "$attempt" --code "$code") || exit "$code"
  attempt=$next
  between=
  [ -z "$told" ] || exit 143
done
