"""What happened in a trajectory, told in one sentence and a small before/after table.

Where there are several runs, the numbers are medians over those that did not diverge, and the
sentence counts the runs of which it is true.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toyalign.trajectory import Trajectory

Array = NDArray[np.float64]

SEEN = 0.005  # a smaller change prints as 0.00, so it is told as no change
NEITHER = "neither answer"
# What the table shows: the measure, and the two lines of its header.
ANSWERS = {
    "chosen_logps": ("chosen", "log-prob, nats"),
    "rejected_logps": ("rejected", "log-prob, nats"),
    "mass_on_neither": ("neither", "probability"),
    "margin": ("margin", "nats"),
    "kl_to_reference": ("KL to reference", "nats"),
}
REWARDS = {
    "expected_reward": ("expected reward", "reward"),
    "kl_to_reference": ("KL to reference", "nats"),
    "entropy": ("entropy", "nats"),
    "mass_moved": ("mass moved", "probability"),
}


def sentence(trajectory: Trajectory) -> str:
    """The sentence: did the chosen answer (or the reward) rise or fall, and who gained?"""
    name, ended = trajectory.objective, trajectory.diverged
    count, lost = len(ended), int(ended.sum())
    if lost == count:
        who = "the run" if count == 1 else f"all {count} runs"
        return (
            f"{name}: {who} diverged (non-finite numbers) by step {trajectory.diverged_at.max()}; "
            "a smaller learning rate may help."
        )
    alive = pick(trajectory, np.flatnonzero(~ended))
    if alive.own_measures:
        parts = [_own(alive)]
    else:
        parts = [_answers(alive) if alive.pairs else _rewards(alive), _gain(alive)]
    if lost:
        parts.append(f"{lost} of {count} runs diverged (non-finite numbers) and are left out")
    return f"{name}: {'; '.join(parts)}."


def table(trajectories: Sequence[Trajectory]) -> str:
    """One row for each objective and setting: before -> after, with units in the header."""
    first = trajectories[0]
    columns = ANSWERS if first.pairs else REWARDS
    if first.own_measures:
        columns = {n: (n.replace("_", " "), first.own_units[n]) for n in first.own_measures}
    rates = {float(rate) for trajectory in trajectories for rate in trajectory.runs["lr"]}
    hidden = ("seed",) if len(rates) > 1 else ("seed", "lr")
    parts = [part for trajectory in trajectories for part in by_setting(trajectory)]
    several = any(len(part.diverged) > 1 for part in parts)

    rows = [
        ["objective", "setting", "runs", *(name for name, _ in columns.values())],
        ["", "", "", *(unit for _, unit in columns.values())],
    ]
    for part in parts:
        alive, count = np.flatnonzero(~part.diverged), len(part.diverged)
        runs = f"{len(alive)} of {count}" if part.diverged.any() else f"{count}"
        cells = ["diverged"] * len(columns)
        if len(alive):
            measured = pick(part, alive).measured()
            ends = [(measured[name][0], measured[name][-1]) for name in columns]
            cells = [f"{_middle(before)} -> {_middle(after)}" for before, after in ends]
        rows.append([part.objective, setting_of(part, hidden), runs * several, *cells])
    return _aligned(rows)


def circumstances(trajectories: Sequence[Trajectory], optimiser: str) -> str:
    """Under what circumstances the numbers were got, in a line or two."""
    first = trajectories[0]
    origins = {trajectory.source for trajectory in trajectories}
    source = f"data {first.source}"
    if len(origins) > 1:
        source = "data " + ", ".join(f"{t.source} for {t.objective}" for t in trajectories)
    rates = " ".join(f"{rate:g}" for rate in dict.fromkeys(first.runs["lr"].tolist()))
    seeds = sorted(set(first.runs["seed"].tolist()))
    which = (
        f"seeds {seeds[0]} to {seeds[-1]}, medians over them" if seeds[1:] else f"seed {seeds[0]}"
    )
    told = (
        f"problem {first.problem}, policy {first.policy}, {source}; "
        f"{first.steps[-1]} steps of {optimiser}, lr {rates}; {which}"
    )
    parts = [part for trajectory in trajectories for part in by_setting(trajectory)]
    if seeds[1:] and all((part.theta == part.theta[:1]).all() for part in parts):
        told += (
            "\nevery seed gave the same numbers, since nothing here is random: --spread 0.5 gives "
            "each a start of its own, --sampled draws the data"
        )
    return told


def by_setting(trajectory: Trajectory) -> list[Trajectory]:
    """The trajectory of each setting by itself, with all its seeds, in the order of the runs."""
    settings = [name for name in trajectory.runs if name != "seed"]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for run in range(len(trajectory.runs["seed"])):
        key = tuple(trajectory.runs[name][run] for name in settings)
        groups.setdefault(key, []).append(run)
    return [pick(trajectory, np.array(runs)) for runs in groups.values()]


def setting_of(part: Trajectory, hidden: Iterable[str] = ("seed",)) -> str:
    """The setting that all runs of `part` share, for example "beta=0.3 lam=50"."""
    return " ".join(
        f"{name}={value[0]:g}"
        if isinstance(value[0], float | int | np.number)
        else f"{name}={value[0]}"
        for name, value in part.runs.items()
        if name not in hidden
    )


def pick(trajectory: Trajectory, runs: NDArray[np.int64]) -> Trajectory:
    """The trajectory of some of its runs, given by their numbers."""
    return replace(
        trajectory,
        runs={name: column[runs] for name, column in trajectory.runs.items()},
        log_probs=trajectory.log_probs[:, runs],
        reference=trajectory.reference[runs],
        loss=trajectory.loss[:, runs],
        scores={name: score[:, runs] for name, score in trajectory.scores.items()},
        diverged_at=trajectory.diverged_at[runs],
        theta=trajectory.theta[runs],
        unseen=None if trajectory.unseen is None else trajectory.unseen[:, runs],
        own_measures={name: v[:, runs] for name, v in trajectory.own_measures.items()},
    )


def _answers(alive: Trajectory) -> str:
    """What became of the chosen answer, and of the margin."""
    measured = alive.measured()
    chosen, margin = measured["chosen_logps"], measured["margin"]
    what = "the chosen log-prob" if len(alive.pairs) == 1 else "the mean chosen log-prob"
    won = np.median(margin[-1])
    way = "rose to" if won >= SEEN else "fell to" if won <= -SEEN else "stayed at"
    fell = np.median(chosen[-1] - chosen[0]) <= -SEEN
    joined = "while" if fell and won >= SEEN else "and"
    which = "" if margin.shape[1] == 1 else "a median of "
    return f"{_course(what, chosen, ' nats')} {joined} the margin {way} {which}{_shown(won)} nats"


def _rewards(alive: Trajectory) -> str:
    """What became of the expected reward, and how far the policy went for it."""
    measured = alive.measured()
    drift = measured["kl_to_reference"][-1]
    which = "a" if len(drift) == 1 else "a median"
    told = _course("the expected reward", measured["expected_reward"], "")
    return f"{told} at {which} KL to the reference of {_middle(drift)} nats"


def _own(alive: Trajectory) -> str:
    """What became of the first two things that the problem itself measures."""
    return "; ".join(
        _course(f"the {name.replace('_', ' ')}", values, f" {alive.own_units[name]}")
        for name, values in list(alive.own_measures.items())[:2]
    )


def _course(what: str, values: Array, unit: str) -> str:
    """How a quantity [mark, run] went from the first record to the last."""
    before, after = values[0], values[-1]
    change, count = after - before, len(after)
    fell, rose, middle = (change <= -SEEN).sum(), (change >= SEEN).sum(), np.median(change)
    verb, hits = ("fell", fell) if (fell, 0) > (rose, middle) else ("rose", rose)
    if not hits:
        runs = "" if count == 1 else f" in all {count} runs"
        return f"{what} stayed at {_middle(after)}{unit}{runs}"
    ends = f"{_middle(before)} to {_middle(after)}"
    if count == 1:
        return f"{what} {verb} by {_shown(abs(middle))}{unit} ({ends})"
    moved = f"median change {_shown(middle, '+')}{unit}"
    return f"{what} {verb} in {hits} of {count} runs ({moved}, {ends})"


def _gain(alive: Trajectory) -> str:
    """Which arm gained the most probability, averaged over contexts, and what that arm is."""
    first, last = np.exp(alive.log_probs[[0, -1]]).mean(-2)  # [run, action] each
    gain = last - first
    winners, middle, count = gain.argmax(1).tolist(), np.median(gain.max(1)), len(gain)
    if middle < SEEN:
        return "no arm gained as much as 0.01 of probability"
    size = f"{middle:+.2f} of probability"
    arm, hits = Counter(winners).most_common(1)[0]
    if count == 1:
        return f"the largest gain, {size}, went to arm {arm}{_described(alive, arm)}"
    if not alive.pairs:
        where = f"arm {arm} in {hits} of {count} runs{_described(alive, arm)}"
        return f"the largest gain (median {size}) went to {where}"
    # Runs that start apart may differ in the arm and still agree on what kind of arm it is.
    roles = [_role(alive, winner) for winner in winners]
    role, hits = Counter(roles).most_common(1)[0]
    arms = Counter(arm for arm, its_role in zip(winners, roles, strict=True) if its_role == role)
    which = ", most often arm {}" if len(arms) > 1 else " (arm {})"
    where = "an arm that is neither answer" if role == NEITHER else role
    which = which.format(arms.most_common(1)[0][0])
    return f"the largest gain (median {size}) went to {where} in {hits} of {count} runs{which}"


def _described(alive: Trajectory, arm: int) -> str:
    """What an arm is, as the end of a sentence."""
    if alive.pairs:
        return f", which is {_role(alive, arm)}"
    assert alive.rewards is not None  # the actions of a bandit have one each
    best, own = alive.rewards.max(), alive.rewards[arm]
    if own == best:
        return ", whose reward is the highest" if alive.rewards.min() < best else ""
    return (
        f", whose reward is {own:z.2f} (the highest is {best:z.2f}, arm {alive.rewards.argmax()})"
    )


def _role(alive: Trajectory, arm: int) -> str:
    """What an arm is in the problem's own pairs."""
    the = "the" if len(alive.pairs) == 1 else "a"
    chosen, rejected = (arm in side for side in zip(*alive.pairs, strict=True))
    if chosen and rejected:
        return "an answer chosen in one pair and rejected in another"
    if chosen or rejected:
        return f"{the} {'chosen' if chosen else 'rejected'} answer"
    return NEITHER


def _middle(values: Array) -> str:
    return _shown(np.median(values))


def _shown(value: float, sign: str = "") -> str:
    """A number with two decimals, or two digits where it is so large that decimals say nothing."""
    return f"{value:{sign}.2g}" if abs(value) >= 1e5 else f"{value:{sign}z.2f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """The rows as text, without the columns that have nothing below their header."""
    columns = [column for column in zip(*rows, strict=True) if any(column[2:])]
    padded = [[cell.ljust(max(map(len, column))) for cell in column] for column in columns]
    return "\n".join("  ".join(row).rstrip() for row in zip(*padded, strict=True))
