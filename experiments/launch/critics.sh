#!/bin/sh
# Five critics under one rule each: heads and target taken apart (experiments/configs/critics.py).
#
#     sh experiments/launch/critics.sh [pointmaze_large|cube_single|puzzle_3x3 …]      # else all
#
# iql_10, td_reference_10 and sarsa_10 share one flow policy, bit for bit: the last two are trained beside the frozen first one.
# Five seeds, 50 report and 20 selection episodes each (the puzzle, whose episodes are long: 10). SEEDS and STEPS make it smaller.
set -eu
DATA=${DATA:-data}
RUNS=${RUNS:-runs/critics}
SEEDS=${SEEDS:-5}
CONFIG=experiments/configs/critics.py

for task in "${@:-pointmaze_large cube_single puzzle_3x3}"; do
    for name in $task; do
        case $name in
            pointmaze_large) data=pointmaze-large-navigate-v0 n=300 selection=20 ;;
            cube_single) data=cube-single-play-v0 n=250 selection=20 ;;
            puzzle_3x3) data=puzzle-3x3-play-v0 n=250 selection=10 ;;
        esac
        test -f "$DATA/$data.npz" || qgf collect --env=$data --episodes=$n --out="$DATA"
        train() {
            folder=$1
            shift
            qgf train "$@" --cpu_threads=1 ${STEPS:+--config.train.steps=$STEPS} --workdir="$RUNS/$name/$folder"
        }
        for critic in iql_2 iql_10 td_qam_10; do
            train $critic --config=$CONFIG:${name}_$critic --config.data.dir="$DATA" --config.seeds="$SEEDS" --config.seed=10
        done
        train td_reference_10 --from="$RUNS/$name/iql_10" --add=td --config.critics.td.next=reference
        train sarsa_10 --from="$RUNS/$name/iql_10" --add=td --config.critics.td.next=data
        for critic in iql_2 iql_10 td_qam_10 td_reference_10 sarsa_10; do
            case $critic in td_reference_10 | sarsa_10) own=:critic=td ;; *) own= ;; esac
            qgf evaluate --workdir="$RUNS/$name/$critic" --cpu_threads=1 --episodes=50 --selection_episodes=$selection --report_selected \
                --methods=reference,best_of$own,qgf$own,qgf_jacobian$own
        done
    done
done
