"""Which objective runs on which problem, found by trying; and why not, in a sentence, where not."""

from collections.abc import Iterable, Mapping

from toyalign.errors import ToyalignError
from toyalign.objectives import OBJECTIVES
from toyalign.policies.transformer import Transformer
from toyalign.problems import PROBLEMS
from toyalign.problems.sources import Source
from toyalign.simulate import simulate


def matrix(
    objectives: Iterable[str] = (), problems: Iterable[str] = ()
) -> dict[tuple[str, str], str]:
    """Take one gradient step of every objective on every problem with its usual data.

    Args:
        objectives: names; every registered one if not given.
        problems: names; every registered one if not given.

    Returns:
        For (objective, problem): where its data came from ("fixed", "reference" or "policy"), or
        the sentence with which it was refused, which has a blank in it.
    """
    found = {}
    for problem in problems or sorted(PROBLEMS):  # registries are in order of import
        made = PROBLEMS[problem]()
        writes = getattr(made, "usual_policy", "") == "transformer"
        policy = Transformer(layers=1, heads=1, width=4, fits=0) if writes else "tabular"
        for name in objectives or sorted(OBJECTIVES):
            try:
                trajectory = simulate(
                    name, made, policy=policy, steps=1, marks=2, source=Source(responses=4)
                )
                found[name, problem] = trajectory.source.split()[0]
            except ToyalignError as error:
                found[name, problem] = str(error)
    return found


def page(found: Mapping[tuple[str, str], str]) -> str:
    """The matrix as a page in Markdown, with the refusals as footnotes."""
    names = list(dict.fromkeys(name for name, _ in found))
    problems = list(dict.fromkeys(problem for _, problem in found))
    reasons = list(dict.fromkeys(reason for reason in found.values() if " " in reason))
    lines = [
        "# Which objective runs on which problem",
        "",
        "Made by `python -m toyalign.matrix`, by taking a step of each; a test compares. The entry "
        "says where the data came from: the problem's own (fixed), responses of the reference or "
        "of the policy. A number is the refusal below.",
        "",
        f"| objective | {' | '.join(problems)} |",
        f"| --- {'| --- ' * len(problems)}|",
    ]
    for name in names:
        cells = []
        for problem in problems:
            entry = found[name, problem]
            cells.append(f"[{reasons.index(entry) + 1}]" if " " in entry else entry)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", *(f"[{number}] {reason}  " for number, reason in enumerate(reasons, 1))]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(matrix()), end="")
