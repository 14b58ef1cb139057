#!/bin/bash
# hpc_dl VERSION: task file /FOLDER/tasks.txt, site hortense
# from template SHARE/templates/tasks.sh.j2
#SBATCH --job-name=tasks.txt
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=48
#SBATCH --time=1:00:00
#SBATCH --output=/FOLDER/tasks.txt-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@60
#SBATCH --gpus-per-node=4
#SBATCH --export=NONE
#SBATCH --partition=gpu_rome_a100_40
#SBATCH --get-user-env=60L

set -u -o pipefail
umask 077
unready=  # the exit code of what failed before the work could begin
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
[ -z "$unready" ] || exit "$unready"
# The runner takes the place of this shell, so that it gets the signals of scancel and --signal. Records are of this job:
# if it is requeued, it goes on where it was.
exec "${python[@]}" hpc_dl tasks run /FOLDER/tasks.txt --records /FOLDER/tasks.txt-"$SLURM_JOB_ID".records --resume
