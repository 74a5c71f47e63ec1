#!/bin/sh
# One weight for all tasks, without a sweep: relative against raw weights. The relative ones were fixed in advance.
#
#     sh experiments/launch/relative_weights.sh [medium|large|cube4|cube2 …]      # else all
#
# About ten minutes a task on a core, twenty for the cube.
set -eu
DATA=${DATA:-data}
RUNS=${RUNS:-runs/relative}
CONFIG=experiments/configs/ogbench.py

for task in "${@:-medium large cube4 cube2}"; do
    for name in $task; do
        case $name in
            medium) config=pointmaze_medium_small data=pointmaze-medium-navigate-v0 task=1 n=300 ;;
            large) config=pointmaze_medium_small data=pointmaze-large-navigate-v0 task=1 n=300 ;;
            cube4) config=cube_single_small data=cube-single-play-v0 task=4 n=250 ;;
            cube2) config=cube_single_small data=cube-single-play-v0 task=2 n=250 ;;
        esac
        test -f "$DATA/$data.npz" || qgf collect --env=$data --episodes=$n --out="$DATA"
        qgf train --config=$CONFIG:$config --config.env="${data%-v0}-singletask-task$task-v0" \
            --config.data.dir="$DATA" --config.seeds=2 --config.seed=10 --cpu_threads=1 --workdir="$RUNS/$name"
        play() {
            qgf evaluate --workdir="$RUNS/$name" --episodes=50 --selection_episodes=20 --report_selected \
                --envs=40 --cpu_threads=1 "$@"
        }
        play --methods=reference,best_of
        play --methods=qgf --weights=0.01,0.03,0.1,0.3,1,3,10,30
        play --methods=qgf_relative --weights=0.3,1,2,3
        for weight in 1 2; do play --methods=qgf_relative --weights=$weight; done
        for weight in 0.1 10; do play --methods=qgf --weights=$weight; done
    done
done
