"""The command line: `toyalign list`, `explain`, `run`, `check`, `study` and `doctor`.

Each command is a dataclass, whose fields are the options and whose docstrings are the help, and a
function that does the work. Everything heavy is imported where it is used, so that
`toyalign --help` starts at once. Whatever is wrong with what the user wrote becomes one line on
standard error and exit status 2.
"""

import io
import itertools
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

import tyro

from toyalign import __version__
from toyalign.errors import ToyalignError, unknown
from toyalign.options import (
    File,
    Folder,
    MaybeNumber,
    MaybeWhole,
    Numbers,
    Whole,
    Word,
    check_target,
    parse,
    with_hyperparameters,
)

if TYPE_CHECKING:
    from toyalign.objectives import Objective
    from toyalign.trajectory import Trajectory

ABOUT = """\
A wind tunnel for alignment losses: see where a loss function moves the probability.
`toyalign COMMAND --help` explains a command; `toyalign --version` says which version this is."""
PLOT_SUFFIXES = (".svg", ".png", ".pdf")
REPORT_SUFFIXES = (".html", ".md", ".json")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status.

    Args:
        argv: the words after `toyalign`; those of the process if not given.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without π shows a question mark
    try:
        _dispatch(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return 0
    except BrokenPipeError:  # `toyalign list | head -1`: the reader has left, so say no more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except ModuleNotFoundError as error:
        return _complain(f"{error} (`toyalign doctor` says what is missing)", 2)
    except (ToyalignError, OSError) as error:
        return _complain(str(error), 2)
    except SystemExit as end:  # tyro has printed the help
        return int(end.code or 0)


def _complain(text: str, status: int) -> int:
    print(f"toyalign: {' '.join(text.split())}", file=sys.stderr)
    return status


def _dispatch(words: list[str]) -> None:
    """Find the command that the words ask for, and run it."""
    if words[:1] == ["--version"]:
        print(f"toyalign {__version__}")
    elif not words or words[0] in ("-h", "--help"):
        forms = tuple(
            Annotated[
                form, tyro.conf.subcommand(name, description=str(form.__doc__).splitlines()[0])
            ]
            for name, (form, _) in COMMANDS.items()
        )
        every: Any = Union[forms]  # noqa: UP007
        tyro.cli(every, prog="toyalign", description=ABOUT, args=["--help"])
    elif words[0] == "run":
        from toyalign.catalogue import load_cards

        cards = load_cards(itertools.takewhile(lambda word: not word.startswith("-"), words[1:]))
        run(parse(with_hyperparameters(Run, cards), "run", words[1:]), cards)
    elif words[0] not in COMMANDS:
        raise unknown("command", words[0], COMMANDS, "`toyalign --help` explains them")
    else:
        form, work = COMMANDS[words[0]]
        work(parse(form, words[0], words[1:]))


@dataclass(frozen=True)
class List:
    """What there is: objectives with the data they need, problems, policies."""

    needs: bool = False
    """Also show the tensors that each objective asks for, with shape, unit and meaning."""


def show_list(options: List) -> None:
    """`toyalign list`."""
    from toyalign.catalogue import listing

    print(listing(options.needs))


@dataclass(frozen=True)
class Explain:
    """An objective in full: formula, data, hyperparameters, gradient, limits, paper."""

    name: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME", help_behavior_hint="")
    ] = ""
    """A name from `toyalign list`, or path/to/file.py:function."""


def explain(options: Explain) -> None:
    """`toyalign explain NAME`."""
    import torch

    from toyalign.catalogue import explanation

    torch.set_num_threads(1)  # many small tensors: threads would only wait for each other
    if not options.name:
        raise ToyalignError("explain what? `toyalign explain dpo`; `toyalign list` shows the names")
    print(explanation(options.name))


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
    policy: Word = "features"
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
        _write(options.csv, frame.to_csv(index=False))
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
    policy = _changed(
        get_policy(options.policy), f"policy {options.policy}", {"overlap": options.overlap}
    )
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


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


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


@dataclass(frozen=True)
class Check:
    """Hold a loss to its contracts, and measure it beside SFT and DPO.

    Exit status 0 if every contract holds, 1 if one is broken, 2 if the loss cannot be found.
    """

    name: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME", help_behavior_hint="")
    ] = ""
    """path/to/file.py:function, or a name from `toyalign list`."""
    contracts: bool = False
    """Only the contracts, which take a second or two; no probes."""
    only: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Only these contracts and probes."""
    same_as: Annotated[Word, tyro.conf.arg(help_behavior_hint="")] = ""
    """Also compare value, gradient and trajectories with this built-in loss."""
    report: File = None
    """Write the report into this .html, .md or .json file."""
    seed: Whole = 0
    """Of the points at which the loss is looked at."""
    list: bool = False
    """Say what the contracts and the probes are, and check nothing."""


def check(options: Check) -> None:
    """`toyalign check NAME`."""
    import torch

    from toyalign.catalogue import blame
    from toyalign.check import check as check_loss
    from toyalign.check.report import described

    if options.list:
        print(described())
        return
    if not options.name:
        raise ToyalignError("check what? The loss comes first: `toyalign check my_loss.py:my_loss`")
    check_target(options.report, REPORT_SUFFIXES)
    torch.set_num_threads(1)
    with blame(options.name):
        report = check_loss(
            options.name,
            contracts=options.contracts,
            only=options.only,
            same_as=options.same_as,
            seed=options.seed,
            progress=_tell if sys.stderr.isatty() else lambda name: None,
        )
    if sys.stderr.isatty():
        _tell("")
    if options.report:
        from toyalign.check.card import render

        _write(options.report, render(report, options.name, options.report.suffix))
    print(report)
    if options.report:
        print(f"written: {options.report}")
    if not report.passed:
        raise SystemExit(1)


def _tell(name: str) -> None:
    """Say what is being looked at, on one line of the terminal."""
    print(f"\r\033[K{name}", end="", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Study:
    """The studies: without a name their questions, with one its table, claims and figures anew."""

    name: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar="[NAME]", help_behavior_hint="")
    ] = ""
    """A study, or all."""
    preset: Annotated[str, tyro.conf.arg(metavar="fast|full")] = "full"
    """How large the study is to be."""
    force: bool = False
    """Simulate again, even what is in the cache."""
    jobs: Whole = 1
    """Processes to share the runs among."""
    figures: Folder = None
    """Folder for the figures and tables, instead of the study's own."""
    studies: Folder = None
    """Folder with the studies, instead of the one that is found from here."""


def study(options: Study) -> None:
    """`toyalign study [NAME]`."""
    from toyalign.study import find_studies, regenerate

    known = find_studies(options.studies)
    name = options.name.replace("-", "_")
    if not name:
        for entry in known.values():
            question = entry.question.strip().splitlines()[0]
            print(f"{entry.name}: {question} ({', '.join(entry.presets)})")
        print("\nnext: toyalign study NAME --preset fast, or toyalign study all")
        return
    if name != "all" and name not in known:
        raise unknown("study", options.name, [*known, "all"], "`toyalign study` lists them")
    if options.jobs < 1:
        raise ToyalignError(f"--jobs must be at least 1, not {options.jobs}")
    chosen = list(known.values()) if name == "all" else [known[name]]
    for entry in chosen:
        if options.preset not in entry.presets:
            raise unknown("preset", options.preset, entry.presets)
    for entry in chosen:
        regenerate(entry, options.preset, options.figures, options.force, options.jobs)


@dataclass(frozen=True)
class Doctor:
    """What is installed, what is missing, and for what."""


def doctor(options: Doctor) -> None:
    """`toyalign doctor`."""
    from toyalign.doctor import report

    print(report())


COMMANDS: dict[str, tuple[type, Callable[..., None]]] = {
    "list": (List, show_list),
    "explain": (Explain, explain),
    "run": (Run, run),
    "check": (Check, check),
    "study": (Study, study),
    "doctor": (Doctor, doctor),
}

if __name__ == "__main__":
    sys.exit(main())
