#!/bin/sh
# Rules of guidance, their options and real-time chunking over one checkpoint of each task (experiments/configs/study.py).
#
#     sh experiments/launch/rules.sh [pointmaze_large_1|cube_single_2|puzzle_3x3_4 …]      # else all
#
# Five seeds, 50 report and 20 selection episodes each (the puzzle, whose episodes are long: 10). `agf` is trained
# beside the frozen policy and critic. Chunks of 10 actions serve the delays; their weight is fixed in advance.
set -eu
DATA=${DATA:-data}
RUNS=${RUNS:-runs/study}
CONFIG=experiments/configs/study.py

for task in "${@:-pointmaze_large_1 cube_single_2 puzzle_3x3_4}"; do
    for name in $task; do
        # The gate's c is about 1 / the spread of Q among actions; `fixed`: the weight under delays.
        case $name in
            pointmaze_*) data=pointmaze-large-navigate-v0 n=300 selection=20 gate=0.5 fixed=10 ;;
            cube_single_*) data=cube-single-play-v0 n=250 selection=20 gate=1 fixed=0.03 ;;
            puzzle_3x3_*) data=puzzle-3x3-play-v0 n=250 selection=10 gate=0.1 fixed=0.03 ;;
        esac
        test -f "$DATA/$data.npz" || qgf collect --env=$data --episodes=$n --out="$DATA"
        train() {
            folder=$1
            shift
            qgf train "$@" --cpu_threads=1 --workdir="$RUNS/$folder"
        }
        play() {
            folder=$1
            shift
            qgf evaluate --workdir="$RUNS/$folder" --cpu_threads=1 --episodes=50 --selection_episodes=$selection --report_selected "$@"
        }
        train $name --config=$CONFIG:$name --config.data.dir="$DATA" --config.seeds=5 --config.seed=10
        play $name --methods=reference,best_of,qgf,qgf_jacobian,qgf:gate=$gate,qgf:slope_clip=1,bptt
        play $name --methods=qpilots_u,qgf:units=velocity --weights=0.1,0.2,0.5,1,2
        play $name --methods=qgf:units=spread --weights=0.03,0.1,0.3,1,3
        play $name --methods=qgf:units=posterior,qgf_relative --weights=0.3,1,3,10
        train ${name}_agf --from="$RUNS/$name" --add=agf --config.train.steps=10000
        play ${name}_agf --methods=agf
        train ${name}_chunks --config=$CONFIG:$name --config.data.dir="$DATA" --config.seeds=5 --config.seed=10 --config.data.chunk=10
        for delay in 0 1 2 3 4; do
            play ${name}_chunks --methods=qgf,qgf:rtc=5 --weights=$fixed --execute=5 --delay=$delay
        done
    done
done
