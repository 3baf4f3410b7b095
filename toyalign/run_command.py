"""The command `toyalign run`: train with some objectives, and say where the probability went."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from toyalign.errors import ToyalignError
from toyalign.files import write
from toyalign.options import (
    File,
    MaybeNumber,
    MaybeWhole,
    Numbers,
    Whole,
    Word,
    check_target,
)

if TYPE_CHECKING:
    from toyalign.objectives import Objective
    from toyalign.trajectory import Trajectory

PLOT_SUFFIXES = (".svg", ".png", ".pdf")


@dataclass(frozen=True)
class Run:
    """Train a policy with each of some objectives and say where the probability went.

    The objectives come first. Their hyperparameters are options too: `toyalign run dpo --help`.

    Several values (--beta 0.1 0.3) are all run.
    """

    names: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(metavar="NAME ...", help_behavior_hint=""),
    ]
    """Objectives: names from `toyalign list`, or path/to/file.py:function."""
    problem: Word = "adjacent_arms"
    """A problem from `toyalign list`, or path/to/file.py:function."""
    policy: Annotated[
        Word, tyro.conf.arg(help_behavior_hint="(default: features, or what the problem needs)")
    ] = ""
    """A policy from `toyalign list`. With tabular, arms share nothing."""
    source: Annotated[Word, tyro.conf.arg(help_behavior_hint="(default: the objective's own)")] = ""
    """Where the data comes from: fixed, reference or policy."""
    steps: Whole = 1000
    """Gradient steps."""
    lr: Numbers = (0.1,)
    """Learning rates."""
    seeds: Whole = 1
    """Runs per setting, with the seeds 0, 1, 2, ..."""
    optimiser: Word = "sgd"
    """sgd, adam or rmsprop."""
    overlap: MaybeNumber = None
    """Width of the shared features, in arms (policy features; there 1.5, and 0 shares nothing)."""
    spread: MaybeNumber = None
    """Noise on the reference's logits, in nats, that gives every seed a start of its own."""
    prompts: MaybeWhole = None
    """Prompts (contexts) of the problem."""
    state_size: MaybeWhole = None
    """Length of the random state that describes a prompt; policy mlp needs one."""
    sampled: bool = False
    """Draw the data, instead of weighting every response by its probability."""
    responses: Whole = 10
    """Responses per prompt when drawing; also the N of best_of_n."""
    jobs: Whole = 1
    """Processes to share many runs among."""
    plot: File = None
    """Draw the runs into this .svg, .png or .pdf file."""
    csv: File = None
    """Write every recorded number into this file: one row per run, step and quantity."""


def run(options: Run, cards: Sequence["Objective"]) -> None:
    """`toyalign run NAME ...`: a sentence per objective, a table, files.

    Args:
        options: with a field more for every hyperparameter of the objectives.
        cards: the objectives that the command line begins with.
    """
    if not cards or len(set(options.names)) != len(cards):
        raise ToyalignError("the objectives come first: `toyalign run dpo dpop --steps 500`")
    check_target(options.plot, PLOT_SUFFIXES)
    check_target(options.csv)
    from toyalign.sentences import by_setting, circumstances, sentence, setting_of, table

    trajectories = _simulate(options, cards)
    parts = [part for trajectory in trajectories for part in by_setting(trajectory)]
    for trajectory in trajectories:
        print(sentence(trajectory))
    print(f"\n{table(trajectories)}\n\n{circumstances(trajectories, options.optimiser)}")
    if options.csv:
        import pandas as pd

        frame = pd.concat([trajectory.to_frame() for trajectory in trajectories])
        write(options.csv, frame.to_csv(index=False))
        print(f"written: {options.csv}")
    if options.plot:
        from toyalign.plotting import plot_runs, save_figure

        drawn = [part for part in parts if not part.diverged.all()]
        if not drawn:
            raise ToyalignError(f"nothing to draw in {options.plot}: every run diverged")
        if len(parts) > len(trajectories):
            drawn = [replace(p, objective=f"{p.objective} {setting_of(p)}") for p in drawn]
        save_figure(plot_runs(drawn), options.plot)
        print(f"written: {options.plot}")


def _simulate(options: Run, cards: Sequence["Objective"]) -> list["Trajectory"]:
    """Train with each objective, under the same circumstances."""
    import torch

    from toyalign.catalogue import blame
    from toyalign.policies import get_policy
    from toyalign.problems import get_problem
    from toyalign.problems.sources import Source
    from toyalign.records import DivergenceWarning
    from toyalign.simulate import simulate

    torch.set_num_threads(1)
    with blame(options.problem):
        problem = get_problem(options.problem)
    changes = {name: getattr(options, name) for name in ("spread", "prompts", "state_size")}
    problem = _changed(problem, f"problem {options.problem}", changes)
    name = options.policy or getattr(problem, "usual_policy", "features")
    policy = _changed(get_policy(name), f"policy {name}", {"overlap": options.overlap})
    trajectories = []
    for card in cards:
        values = {name: getattr(options, name) for name in card.hyper}
        given = {name: _one_or_list(value) for name, value in values.items() if value}
        with blame(card.name), warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # the sentence says so
            trajectory = simulate(
                # On the card, hyperparameters cannot be taken for options of `simulate`.
                replace(card, hyper={**card.hyper, **given}),
                problem,
                policy=policy,
                source=Source(options.source, not options.sampled, responses=options.responses),
                steps=options.steps,
                lr=_one_or_list(options.lr),
                optimiser=options.optimiser,
                seeds=options.seeds,
                jobs=options.jobs,
                progress=sys.stderr.isatty(),
            )
        trajectories.append(trajectory)
    return trajectories


def _one_or_list(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values)


def _changed(thing: Any, what: str, changes: Mapping[str, Any]) -> Any:
    """A problem or a policy with those fields changed for which an option was given."""
    given = {name: value for name, value in changes.items() if value is not None}
    known = {field.name for field in fields(thing)} if is_dataclass(thing) else set()
    for name in given:
        if name not in known:
            raise ToyalignError(f"{what} has no {name}: leave --{name.replace('_', '-')} out")
    return replace(thing, **given) if given else thing
