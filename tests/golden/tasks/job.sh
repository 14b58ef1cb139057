#!/bin/bash
# hpc_dl …: task file /FOLDER/it's.txt, site minotauro
# from template …
#SBATCH --job-name='it'"'"'s.txt'
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=1:00:00
#SBATCH --output='/FOLDER/it'"'"'s.txt-%j.log'
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@60
#SBATCH --gres=gpu:k80:4
#SBATCH --exclusive
#SBATCH --partition=projects

set -u -o pipefail
umask 077
unready=  # the exit code of what failed before the work could begin
cd /FOLDER || unready=$?
set +u +o pipefail  # scripts of modules may not know them
# shellcheck disable=SC1090,SC1091
source /etc/profile.d/modules.sh || { echo "hpc-dl: module_init failed; see the site file:" /etc/profile.d/modules.sh >&2; unready=1; }
module load K80 || { echo "hpc-dl: module load failed; see modules in the site file:" K80 >&2; unready=1; }
module load cuda/7.5 || { echo "hpc-dl: module load failed; see modules in the site file:" cuda/7.5 >&2; unready=1; }
module load mkl/2017.0.098 || { echo "hpc-dl: module load failed; see modules in the site file:" mkl/2017.0.098 >&2; unready=1; }
module load CUDNN/5.1.3 || { echo "hpc-dl: module load failed; see modules in the site file:" CUDNN/5.1.3 >&2; unready=1; }
module load python/3.5.2 || { echo "hpc-dl: module load failed; see modules in the site file:" python/3.5.2 >&2; unready=1; }
set +e -u -o pipefail


# As `python -m`, without the current folder on the module path: a random.py there would be taken for Python's own.
python=(PYTHON -c 'import sys; sys.path[:] = filter(None, sys.path); import runpy; runpy.run_module(sys.argv.pop(1), None, "__main__", True)')
[ -z "$unready" ] || exit "$unready"
# The runner takes the place of this shell, so that it gets the signals of scancel and --signal. Records are of this job:
# if it is requeued, it goes on where it was.
exec "${python[@]}" hpc_dl tasks run '/FOLDER/it'"'"'s.txt' --records '/FOLDER/it'"'"'s.txt'-"$SLURM_JOB_ID".records --resume --cores=1 --gpus=1
