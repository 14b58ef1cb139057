#!/bin/bash
# hpc_dl VERSION: job train, mode async, site local
# from job description SHARE/jobs/train.toml
# from template SHARE/templates/local.sh.j2

set -u -o pipefail
usual=$(umask)
umask 077
unready=  # the exit code of what failed before the work could begin
run=/FOLDER/work/runs/train-"$HPC_DL_JOB_ID"
# What fails from here on, or a signal, is told once the outcome can be written.
told=
warned=
trap 'told=yes' TERM INT
trap 'told=yes; warned=yes' USR1
cd /FOLDER/work || unready=$?
set +e -u -o pipefail


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
  [ -z "$step" ] || kill -TERM "$step" 2>/dev/null
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
(umask "$usual"; exec "${inner[@]}" hpc_dl.data prepare digits --data-dir /FOLDER/work/data) &
await $! || exit

while :; do
  # What this machine has for each node decides the placement, which gives the task file.
  "${python[@]}" hpc_dl facts "$run" --nodelist 'node[1-2]' --attempt "$attempt" || exit
  "${python[@]}" hpc_dl place "$run" --nodelist 'node[1-2]' --job-id "$HPC_DL_JOB_ID" --attempt "$attempt" || exit

  # All nodes are this machine: every line of the task file runs here. A line that fails ends the others.
  "${python[@]}" hpc_dl tasks all "$run/tasks.txt" &
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
