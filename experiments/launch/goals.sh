#!/bin/sh
# Goals: one checkpoint for all five tasks, in the variants that the paper leaves open, and the
# benchmark's own methods. Stopped, it goes on where it was when started again.
#
#     sh experiments/launch/goals.sh ENVIRONMENT [RUN …]      # variants of goal_conditioned.py, see below
#
# Ten to twenty minutes a run on a core.
set -eu
DATA=${DATA:-data}
RUNS=${RUNS:-runs/goals}
CONFIG=experiments/configs/goal_conditioned.py
env=$1
shift

case $env in
    pointmaze_medium_small) data=pointmaze-medium-navigate-v0 n=300 ;;
    pointmaze_large_stitch_small) data=pointmaze-large-stitch-v0 n=300 ;;
    cube_single_small) data=cube-single-play-v0 n=250 ;;
esac
test -f "$DATA/$data.npz" || qgf collect --env=$data --episodes=$n --out="$DATA"

train() {
    run=$1
    shift
    qgf train --config=$CONFIG:"$env" --config.data.dir="$DATA" --config.seeds=2 --config.seed=10 \
        --cpu_threads=1 --workdir="$RUNS/$env/$run" "$@"
}
play() {
    qgf evaluate --workdir="$RUNS/$env/$run" --episodes=10 --selection_episodes=5 --report_selected \
        --envs=40 --workers=1 --cpu_threads=1 --methods="$1" --best_of="$2" --weights="${3:-1,3,10,30,100}"
}

for run in "${@:-dqc sees_goal squared iql gcbc gciql crl hiql}"; do
    for run in $run; do
        case $run in
            dqc) train dqc --config.networks.critic_output=sigmoid ;;
            sees_goal)
                train sees_goal --config.networks.critic_output=sigmoid --config.networks.policy_goal=true
                ;;
            squared)
                train squared --config.networks.critic_output=linear --config.networks.ranking=slow
                ;;
            iql) train iql --config.critic=iql ;;
            # HIQL's subgoals are observations, which the cube's goals are not.
            *) train "$run" --config.algorithm="$run"; play "$run" 1 ;;
        esac
        case $run in
            dqc)
                play reference,best_of 4,32
                play qgf,qgf_jacobian,qfql,bptt,qgf:scale=logit 1
                ;;
            squared) play reference,best_of 4,32; play qgf,qgf_jacobian,qfql,bptt 1 ;;
            sees_goal) play reference,best_of 4,32; play qgf 1 ;;
            # IQL's Q counts steps, so its weights are smaller.
            iql) play reference,best_of 4,32; play qgf 1 0.01,0.03,0.1,0.3,1 ;;
        esac
    done
done
