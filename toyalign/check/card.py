"""The report as a file: Markdown, JSON, or one self-contained HTML page with two pictures.

The pictures show the loss beside DPO: what it asks for in the plane of the two log-ratios, with the
paths of a short training drawn in, and the log-probabilities over time.
"""

import html
import io

import numpy as np
from matplotlib.figure import Figure

import toyalign
from toyalign import plotting
from toyalign.check.probes import Reading
from toyalign.check.report import MARKS, Report, shown
from toyalign.check.subject import Broken
from toyalign.check.training import train
from toyalign.objectives import Objective, get_objective
from toyalign.objectives.coefficients import push_on_pair
from toyalign.optimisers import Adam
from toyalign.policies.features import Features
from toyalign.problems.bandit import adjacent_arms
from toyalign.trajectory import Trajectory

_BESIDE = "dpo"
_GRID = np.meshgrid(np.linspace(-6, 6, 13), np.linspace(-10, 4, 13))
_PLANE = ("pairs", "labelled", "demonstrations")


def render(report: Report, target: str, suffix: str) -> str:
    """The report in the format that a file suffix asks for.

    Args:
        report: what the check found.
        target: what was checked, as it was given.
        suffix: ".html", ".md" or ".json".
    """
    if suffix == ".json":
        return report.json()
    if suffix == ".md":
        return report.markdown()
    pictures = []
    if report.kind:  # else its signature cannot be read, and nothing can be drawn
        cards = [get_objective(target), get_objective(_BESIDE)]
        runs = [_trained(card) for card in cards]
        drawn = {_fields(cards, runs): _FIELDS, _traces(runs): _TRACES}
        pictures = [(_svg(figure), text) for figure, text in drawn.items() if figure]
    return _page(report, pictures)


def _trained(card: Objective) -> Trajectory | None:
    """A short training on two neighbouring answers that share features; None if it breaks."""
    try:
        return train(
            card,
            adjacent_arms(spread=0.5),
            policy=Features(1.5),
            steps=300,
            lr=0.03,
            optimiser=Adam(eps=1e-4),
            seeds=6,
        )
    except Broken:
        return None


def _fields(cards: list[Objective], runs: list[Trajectory | None]) -> Figure | None:
    """Phase fields side by side."""
    drawn = []
    for card in cards:
        try:
            pushes = push_on_pair(card, *_GRID, reference=(-12.0, -12.0), hyper=card.hyper)
        except Exception:  # a user's loss may do anything; its contracts say so
            continue
        if card.kind in _PLANE and np.isfinite(pushes).all() and np.abs(pushes).max() > 0:
            drawn.append((card, pushes))
    if len(drawn) < len(cards):
        return None
    figure, axes = plotting.new_figure(1, len(drawn), width=3.1, height=3.0)
    for ax, (card, pushes), traj in zip(axes.flat, drawn, runs, strict=True):
        paths = []
        if traj is not None:
            ((chosen, rejected),) = traj.pairs
            ratios = (traj.log_probs - traj.reference)[:, :, 0]
            paths = [(run[:, chosen], run[:, rejected]) for run in ratios.swapaxes(0, 1)]
        plotting.phase_field(ax, *_GRID, *pushes, paths=paths)
        ax.set_title(card.name)
    return figure


def _traces(runs: list[Trajectory | None]) -> Figure | None:
    """Log-probabilities over time side by side."""
    alive = [traj for traj in runs if traj is not None and not traj.diverged.all()]
    return plotting.plot_runs(alive) if alive else None


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


_FIELDS = (
    f"What the loss asks for, beside {_BESIDE}: arrows push a pair of answers in the plane of "
    "their log-ratios to the reference. The ground is tinted where the chosen answer is pushed "
    "down; blue lines are short trainings in which neighbouring answers share features."
)
_TRACES = "Short trainings over time: where the probability is at the end, and how it got there."
_CSS = """
:root { color-scheme: light dark; --line: #8886; --bad: #b3261e; --good: #1b6e3c; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.3rem; margin-bottom: .2rem; } .headline { font-size: 1.15rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; margin: 1rem 0; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem;
  border-bottom: 1px solid var(--line); }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.fail { color: var(--bad); font-weight: 600; } .pass { color: var(--good); }
.quiet { opacity: .75; } figure { background: white; color: black; margin: 1rem 0;
  padding: .5rem; overflow-x: auto; } figure svg { max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { :root { --bad: #ffb4ab; --good: #7fd99a; } }
"""


def _page(report: Report, pictures: list[tuple[str, str]]) -> str:
    """One file: no script, no network, no fonts."""
    name = html.escape(report.loss)
    contracts = "".join(
        f'<tr><td>{f.contract}</td><td class="{f.status.split()[0]}">{MARKS[f.status]}</td>'
        f'<td>{html.escape(f.seen)}</td><td class="quiet">{html.escape(f.why)}</td></tr>\n'
        for f in report.findings
    )
    figures = "".join(
        f"<figure>{svg}<figcaption>{caption}</figcaption></figure>\n" for svg, caption in pictures
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>toyalign check: {name}</title><style>{_CSS}</style></head><body>
<h1>toyalign check: {name}</h1>
<p class="headline {"pass" if report.passed else "fail"}">{html.escape(report.headline)}</p>
<h2>Contracts</h2>
<table><tr><th>contract</th><th>outcome</th><th>seen</th><th>why it matters</th></tr>
{contracts}</table>
{_probes(report.readings, name)}{figures}
<p class="quiet">toyalign {toyalign.__version__}, seed {report.seed}. A probe measures and does not
judge: more is not better.</p>
</body></html>
"""


def _probes(readings: tuple[Reading, ...], name: str) -> str:
    if not readings:
        return ""
    peers = "".join(f"<th>{peer}</th>" for peer in readings[0].peers)
    rows = "".join(
        f"<tr><td>{r.probe}</td>"
        + "".join(f'<td class="number">{shown(v)}</td>' for v in (r.value, *r.peers.values()))
        + f'<td>{r.unit}</td><td>{html.escape(r.sentence)}</td><td class="quiet">{r.study}</td>'
        "</tr>\n"
        for r in readings
    )
    return (
        "<h2>Probes</h2>\n<table><tr><th>probe</th>"
        f"<th>{name}</th>{peers}<th>unit</th><th>in words</th><th>study</th></tr>\n{rows}</table>\n"
    )
