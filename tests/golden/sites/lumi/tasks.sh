#!/bin/bash -l
# hpc_dl VERSION: task file /FOLDER/tasks.txt, site lumi
# from template SHARE/templates/tasks.sh.j2
#SBATCH --job-name=tasks.txt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=56
#SBATCH --time=1:00:00
#SBATCH --output=/FOLDER/tasks.txt-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@60
#SBATCH --gpus-per-node=8
#SBATCH --partition=standard-g
#SBATCH --mem=480G

set -u -o pipefail
umask 077
unready=  # the exit code of what failed before the work could begin
cd /FOLDER || unready=$?
set +u +o pipefail  # scripts of modules may not know them
trap 'echo "hpc-dl: a shell line of the site file has ended the script; it should fail instead" >&2' EXIT
[ -n "$unready" ] || eval 'module purge' || { unready=$?; echo "hpc-dl: before_modules failed; see the site file:" 'module purge' >&2; }
[ -n "$unready" ] || eval 'export MIOPEN_USER_DB_PATH="/tmp/${USER}-miopen-cache-${SLURM_JOB_ID}"' || { unready=$?; echo "hpc-dl: after_modules failed; see the site file:" 'export MIOPEN_USER_DB_PATH="/tmp/${USER}-miopen-cache-${SLURM_JOB_ID}"' >&2; }
[ -n "$unready" ] || eval 'export MIOPEN_CUSTOM_CACHE_DIR="$MIOPEN_USER_DB_PATH"' || { unready=$?; echo "hpc-dl: after_modules failed; see the site file:" 'export MIOPEN_CUSTOM_CACHE_DIR="$MIOPEN_USER_DB_PATH"' >&2; }
trap - EXIT
set +e -u -o pipefail

export NCCL_SOCKET_IFNAME=hsn
export GLOO_SOCKET_IFNAME=hsn0
export HOROVOD_GLOO_IFACE=hsn0
export NCCL_NET_GDR_LEVEL=3

# As `python -m`, without the current folder on the module path: a random.py there would be taken for Python's own.
python=(PYTHON -c 'import sys; sys.path[:] = filter(None, sys.path); import runpy; runpy.run_module(sys.argv.pop(1), None, "__main__", True)')
[ -z "$unready" ] || exit "$unready"
# The runner takes the place of this shell, so that it gets the signals of scancel and --signal. Records are of this job:
# if it is requeued, it goes on where it was.
exec "${python[@]}" hpc_dl tasks run /FOLDER/tasks.txt --records /FOLDER/tasks.txt-"$SLURM_JOB_ID".records --resume '--gpu-rule={"vendor":"amd"}'
