"""The command line: `toyalign list`, `explain`, `run`, `check`, `study`, `train` and the others.

Each command is a dataclass, whose fields are the options and whose docstrings are the help, and a
function that does the work. Everything heavy is imported where it is used, so that
`toyalign --help` starts at once. Whatever is wrong with what the user wrote becomes one line on
standard error and exit status 2.
"""

import io
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Union

import tyro

from toyalign import __version__
from toyalign.errors import ToyalignError, unknown
from toyalign.files import write
from toyalign.llm_command import Audit, Diagnose, Example, audit, diagnose, example
from toyalign.options import File, Folder, Whole, Word, check_target, parse, with_hyperparameters
from toyalign.run_command import Run, run
from toyalign.train_command import Train, train

ABOUT = """\
A wind tunnel for alignment losses: see where a loss function moves the probability.
`toyalign COMMAND --help` explains a command; `toyalign --version` says which version this is."""
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
    elif words[0] not in COMMANDS:
        raise unknown("command", words[0], COMMANDS, "`toyalign --help` explains them")
    else:
        form, work = COMMANDS[words[0]]
        if work not in (run, train):
            work(parse(form, words[0], words[1:]))
            return
        from toyalign.catalogue import load_cards

        # The objectives come first, and their hyperparameters are options of the command.
        cards = load_cards(itertools.takewhile(lambda word: not word.startswith("-"), words[1:]))
        work(parse(with_hyperparameters(form, cards), words[0], words[1:]), cards)


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

        write(options.report, render(report, options.name, options.report.suffix))
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
class Reproduce:
    """The papers: without a name what they claim, with one every claim measured anew and judged."""

    paper: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar="[PAPER]", help_behavior_hint="")
    ] = ""
    """A paper, or all."""
    preset: Annotated[str, tyro.conf.arg(metavar="fast|full")] = "full"
    """How large the studies are to be."""
    force: bool = False
    """Simulate again, even what is in the cache."""
    jobs: Whole = 1
    """Processes to share the runs among."""
    papers: Folder = None
    """Folder with the papers, instead of the one that is found from here."""
    figures: Folder = None
    """Folder for the figures and tables of the studies that a paper reads."""


def reproduce(options: Reproduce) -> None:
    """`toyalign reproduce [PAPER]`."""
    from toyalign.reproduce import find_papers, overview, reproduce_papers

    known = find_papers(options.papers)
    if not options.paper:
        print(overview(known))
        return
    if options.paper != "all" and options.paper not in known:
        raise unknown("paper", options.paper, [*known, "all"], "`toyalign reproduce` lists them")
    if options.jobs < 1:
        raise ToyalignError(f"--jobs must be at least 1, not {options.jobs}")
    chosen = list(known.values()) if options.paper == "all" else [known[options.paper]]
    reproduce_papers(chosen, options.preset, options.figures, options.force, options.jobs)


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
    "reproduce": (Reproduce, reproduce),
    "example": (Example, example),
    "train": (Train, train),
    "audit": (Audit, audit),
    "diagnose": (Diagnose, diagnose),
    "doctor": (Doctor, doctor),
}

if __name__ == "__main__":
    sys.exit(main())
