#!/bin/sh
# Every method on cube-single-play, task 2, small: one shared checkpoint for the test-time methods, as many
# steps for those that train a policy of their own. Stopped, it goes on where it was when started again.
#
#     sh experiments/launch/cube_single_methods.sh [METHOD …]      # else all that train
#
# About 20 minutes a training on two cores; QAM takes four times as long. `qam_td` has a critic of its own,
# which bootstraps on its own actions, as in the paper; the other one shares IQL's.
set -eu
DATA=${DATA:-data}
RUNS=${RUNS:-runs/cube_methods}
CONFIG=experiments/configs/ogbench.py:cube_single_small

train() {
    run=$1
    shift
    qgf train --config=$CONFIG --config.data.dir="$DATA" --config.seeds=2 --config.seed=10 \
        --cpu_threads=1 --workdir="$RUNS/$run" "$@"
}
play() {
    run=$1
    shift
    qgf evaluate --workdir="$RUNS/$run" --episodes=50 --selection_episodes=20 --report_selected \
        --envs=40 --cpu_threads=1 "$@"
}

test -f "$DATA/cube-single-play-v0.npz" || qgf collect --env=cube-single-play-v0 --episodes=250 --out="$DATA"
for method in "${@:-qgf_distill fql robust_q cfgrl edp dac qsm_bc qsm iql rebrac fawac fbrac dsrl qam qam_td}"; do
    for name in $method; do
        case $name in
            qam_td) train "$name" --config.algorithm=qam --config.critic=td ;;
            *) train "$name" --config.algorithm="$name" ;;
        esac
        if [ "$name" = qgf_distill ]; then
            play "$name" --weights=0.01,0.03,0.05,0.1,0.3 \
                --methods=reference,best_of,qgf,qgf_jacobian,qgf_chain,qgf_regularized,qgf_smooth,qgf_ortho,jacobian_schedule,qfql,bptt,qgf_distill,qgf_jacobian_distill
            play "$name" --methods=best_of --best_of=16
            play "$name" --methods=qgf --best_of=4 --weights=0.003,0.01,0.03,0.1
            play "$name" --methods=grad_step,grad_step:sign=true
            play "$name" --methods=qgf_relative,qgf:units=variance,qgf:units=posterior,jacobian_schedule:units=spread \
                --weights=0.1,0.3,1,3,10,30
            play "$name" --methods=qgf:schedule=linear,qgf:schedule=ratio,qgf_jacobian:schedule=linear \
                --weights=0.01,0.03,0.1,0.3
        elif [ "$name" = robust_q ]; then
            play "$name" --methods="$name" --weights=0.01,0.03,0.05,0.1,0.3
        elif [ "$name" = qam ] || [ "$name" = qam_td ]; then
            play "$name" --methods=qam,qgf --best_of=1,4 --weights=0.01,0.03,0.05,0.1,0.3
        else
            play "$name" --methods="$name" --best_of=1,4
        fi
    done
done
