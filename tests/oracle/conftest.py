"""Only `make oracle` collects this folder; it ends with a table of who was compared with whom."""

import os

import pytest
import torch

collect_ignore_glob = [] if os.environ.get("TOYALIGN_ORACLE") else ["*"]  # the folder of wheels


@pytest.fixture(autouse=True)
def double_precision():
    """Constants that the judges' code makes, such as torch.tensor(0.1), are double too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def pytest_terminal_summary(terminalreporter):
    """Loss, implementation, how much was compared, and the largest differences."""
    if not os.environ.get("TOYALIGN_ORACLE"):
        return
    from judging import JUDGES, SCORES

    terminalreporter.section("oracle")
    head = ("loss", "implementation", "values", "gradients", "absolute", "relative", "")
    rows = [
        (
            judged.loss,
            judged.package,
            f"{score.values:,}",
            f"{score.gradients:,}",
            f"{score.absolute:.1e}",
            f"{score.relative:.1e}",
            judged.note,
        )
        for judged in sorted(JUDGES, key=lambda judged: judged.loss)
        if (score := SCORES.get(judged.name))
    ]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [
            text.ljust(width) if i in (0, 1, 6) else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        terminalreporter.write_line("  ".join(cells).rstrip())
    scores = list(SCORES.values())
    terminalreporter.write_line(
        f"{len({judged.loss for judged in JUDGES})} losses, {len(scores)} comparisons, "
        f"{sum(score.values for score in scores):,} values and "
        f"{sum(score.gradients for score in scores):,} gradients; largest relative difference "
        f"{max((score.relative for score in scores), default=0.0):.1e}"
    )
