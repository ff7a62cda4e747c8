#!/usr/bin/env bash
# slurm/launch.sh COMMAND key=value ...: the program in every task of a job; back into the queue if it was told to stop.
#
# Status 75 means that the run was asked to stop (preemption, time limit), saved its state and continues when it is
# started again. Whoever uses containers names them in SRUN_OPTIONS, for instance --container-image=FILE: scontrol is
# needed outside only.
# Tasks of a training wait for one that died, so they are ended after a minute (SLURM_WAIT=0: never); a task that has
# saved its state waits for the others to leave.
# Since SLURM 22.05 srun does not take over how many cores sbatch was asked for: each task would run on one.
srun --wait="${SLURM_WAIT:-60}" ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} ${SRUN_OPTIONS:-} depth-anything "$@"
status=$?
if [ "$status" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
