"""How fast are rollouts on Frozen Lake, against gymnasium's own environment in a loop?

Random moves; an episode that has ended begins anew. Both take turns in one process on
one thread; the unit is environment steps per CPU second, the figure to look at is the ratio.

    python benchmarks/frozen_lake.py    # about a minute
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import torch

from toyalign.problems.lake import lake
from toyalign.problems.lake_rollouts import begin, step, tables

HERE = Path(__file__).parent
ROUNDS, LOOP_EPISODES, MOMENTS = 7, 1000, 100
BARS = {1_000: 80, 16_000: 200}  # times gymnasium's steps per CPU second


def loop() -> int:
    """Episodes one after the other in gymnasium's environment; returns the steps taken."""
    env, rng, steps = gymnasium.make("FrozenLake-v1", is_slippery=True), np.random.default_rng(0), 0
    for episode in range(LOOP_EPISODES):
        env.reset(seed=episode)
        ended = cut = False
        while not (ended or cut):
            _, _, ended, cut, _ = env.step(int(rng.integers(4)))
            steps += 1
    return steps


def batched(episodes: int) -> Callable[[], int]:
    """As many episodes at once, with the random numbers drawn in the time that is measured."""
    table, rng = tables(lake("4x4", slippery=True)), np.random.Generator(np.random.SFC64(0))
    start = begin(table, torch.zeros(1, dtype=torch.float64))  # the map has one first cell

    def run() -> int:
        state, total = start.expand(episodes), torch.zeros(episodes, dtype=torch.float64)
        for _ in range(MOMENTS):
            action = torch.from_numpy(rng.integers(4, size=episodes))
            number = torch.from_numpy(rng.random(episodes))
            state, reward, ended = step(table, state * 4 + action, number)
            total += reward
            state = torch.where(ended, start, state)
        return episodes * MOMENTS

    return run


def speed(run: Callable[[], int]) -> float:
    """Steps per CPU second."""
    before = time.process_time()
    steps = run()
    return steps / (time.process_time() - before)


def main() -> None:
    """Take turns, print the medians and write them beside this file."""
    torch.set_num_threads(1)
    ours = {episodes: batched(episodes) for episodes in BARS}
    for run in ours.values():
        run()
    rounds = [(speed(loop), {n: speed(run) for n, run in ours.items()}) for _ in range(ROUNDS)]
    theirs = statistics.median(one for one, _ in rounds)
    print(f"gymnasium in a loop: {theirs:,.0f} steps per CPU second (median of {ROUNDS} rounds)")
    results = {}
    for episodes, bar in BARS.items():
        ratios = sorted(many[episodes] / one for one, many in rounds)
        middle = statistics.median(ratios)
        results[episodes] = {"ratio": middle, "lowest": ratios[0], "highest": ratios[-1]}
        print(
            f"{episodes:,} episodes at once: {middle:.0f} times as many "
            f"({ratios[0]:.0f} to {ratios[-1]:.0f}; bar {bar})"
        )
    report = {
        "machine": f"{platform.machine()}, one thread",
        "versions": {"torch": torch.__version__, "gymnasium": gymnasium.__version__},
        "gymnasium_steps_per_cpu_second": theirs,
        "times_gymnasium": results,
    }
    (HERE / "results" / "frozen_lake.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
