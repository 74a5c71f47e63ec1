#!/bin/sh
# Goals: one checkpoint for all five tasks, on three small environments, in the variants that the paper
# leaves open. Stopped, it goes on where it was when started again.
#
#     sh experiments/launch/goals.sh [ENVIRONMENT …]      # variants of goal_conditioned.py, else three
#
# 40,000 steps of one seed took ten minutes on a maze; the whole has not been run.
set -eu
DATA=${DATA:-data}
RUNS=${RUNS:-runs/goals}
CONFIG=experiments/configs/goal_conditioned.py

train() {
    name=$1
    run=$2
    shift 2
    qgf train --config=$CONFIG:"$name" --config.data.dir="$DATA" --config.seeds=2 --config.seed=10 \
        --cpu_threads=1 --workdir="$RUNS/$name/$run" "$@"
}
play() {
    qgf evaluate --workdir="$RUNS/$1" --episodes=20 --selection_episodes=10 --report_selected \
        --envs=40 --cpu_threads=1 --methods="$2" --best_of="$3" --weights="${4:-1,3,10,30,100}"
}

for name in "${@:-pointmaze_medium_small pointmaze_large_stitch_small cube_single_small}"; do
    for env in $name; do
        case $env in
            pointmaze_medium_small) data=pointmaze-medium-navigate-v0 ;;
            pointmaze_large_stitch_small) data=pointmaze-large-stitch-v0 ;;
            cube_single_small) data=cube-single-play-v0 ;;
        esac
        test -f "$DATA/$data.npz" || qgf collect --env=$data --episodes=300 --out="$DATA"
        train "$env" dqc
        play "$env/dqc" reference,best_of 4,32
        play "$env/dqc" qgf,qgf_jacobian,qfql,bptt,qgf:scale=logit 1
        # What the paper leaves open: the form of the critic, and whether the policy sees the goal.
        train "$env" squared --config.networks.critic_output=linear
        train "$env" sees_goal --config.networks.policy_goal=true
        train "$env" iql --config.critic=iql
        for run in squared sees_goal iql; do
            play "$env/$run" reference,best_of 4,32
            # IQL's Q counts steps, so its weights are smaller.
            play "$env/$run" qgf 1 $(test $run = iql && echo 0.01,0.03,0.1,0.3,1)
        done
        for method in gcbc gciql crl hiql; do
            test $env.$method = cube_single_small.hiql && continue # its goals are no observations
            train "$env" $method --config.algorithm=$method
            play "$env/$method" $method 1
        done
    done
done
