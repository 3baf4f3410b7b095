"""How fast is the simulator, against the loop that everybody writes first?

The loop has one run at a time, an nn.Parameter and torch.optim.Adam. Both take turns in one
process on one thread; the unit is CPU time per run-step (one gradient step of one run), the figure
to look at is the ratio, because machines differ and are shared.

    python benchmarks/simulator.py            # everything, about half an hour
    python benchmarks/simulator.py --quick    # the headline rows only, some two minutes
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import logsigmoid

import toyalign as ta

HERE = Path(__file__).parent
PAIRS, STORED, SAMPLES, LR = 64, 1024, 64, 0.01
CASES = {
    "SFT exact": ("sft", ta.Source()),
    "DPO, 64 fixed pairs": (
        "dpo",
        ta.Source("reference", exact=False, prompts=PAIRS, responses=2),
    ),
    "DPO, minibatches of 64 of 1,024 stored pairs": (
        "dpo",
        ta.Source("reference", exact=False, prompts=STORED, responses=2, minibatch=PAIRS),
    ),
    "REINFORCE, 64 samples": (
        "reinforce",
        ta.Source("policy", exact=False, responses=SAMPLES),
    ),
}
BARS = {  # times the loop, at R = 1,000 and K = 100 with Adam, float32 and float64
    "SFT exact": (300, 150),
    "DPO, 64 fixed pairs": (200, 100),
    "DPO, minibatches of 64 of 1,024 stored pairs": (70, 50),
    "REINFORCE, 64 samples": (90, 60),
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def bandit(arms: int) -> ta.Bandit:
    """A problem of any size with a skewed reference and one reward peak."""
    place = np.linspace(-2, 2, arms)
    reference = np.exp(-(place**2))
    return ta.Bandit(
        reference / reference.sum(), rewards=np.exp(-((place - 1) ** 2)), name=f"{arms} arms"
    )


def naive_steps(case: str, arms: int, dtype: torch.dtype, steps: int) -> float:
    """CPU seconds per step of the loop that has one run."""
    problem = bandit(arms)
    generator = torch.Generator().manual_seed(0)
    reference = torch.tensor(problem.reference, dtype=dtype).log()
    reward = torch.tensor(problem.rewards, dtype=dtype)
    target = torch.tensor(problem.optimum(problem.temperature), dtype=dtype)
    logits = nn.Parameter(reference.clone())
    optimiser = torch.optim.Adam([logits], lr=LR)
    draws = torch.multinomial(reference.exp(), 2 * STORED, True, generator=generator)
    swap = reward[draws[:STORED]] < reward[draws[STORED:]]
    chosen = torch.where(swap, draws[STORED:], draws[:STORED])
    rejected = torch.where(swap, draws[:STORED], draws[STORED:])

    def step() -> None:
        logp = torch.log_softmax(logits, -1)
        if case.startswith("SFT"):
            loss = -(target * logp).sum()
        elif case.startswith("DPO"):
            index = torch.arange(PAIRS)
            if "minibatches" in case:
                index = torch.randint(STORED, (PAIRS,), generator=generator)
            w, l = chosen[index], rejected[index]  # noqa: E741
            margin = (logp[w] - logp[l]) - (reference[w] - reference[l])
            loss = -logsigmoid(0.1 * margin).mean()
        else:
            with torch.no_grad():
                a = torch.multinomial(logp.exp(), SAMPLES, True, generator=generator)
                advantage = reward[a] - (logp.exp() * reward).sum()
            loss = -(advantage * logp[a]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    for _ in range(20):
        step()
    start = time.process_time()
    for _ in range(steps):
        step()
    return (time.process_time() - start) / steps


def batched_steps(case: str, arms: int, dtype: str, runs: int, steps: int) -> float:
    """CPU seconds per run-step of the simulator, set-up not counted."""
    name, source = CASES[case]

    def spent(count: int) -> float:
        start = time.process_time()
        ta.simulate(
            name,
            bandit(arms),
            source=source,
            steps=count,
            marks=2,
            optimiser="adam",
            lr=LR,
            seeds=runs,
            dtype=dtype,
        )
        return time.process_time() - start

    few = 5
    return max(1e-9, spent(steps + few) - spent(few)) / (steps * runs)


def measure(case: str, arms: int, dtype: str, runs: int, rounds: int) -> dict:
    """Both in turn; the medians, and the median of the ratios round by round."""
    budget = 2e5 if arms < 1000 else 4e4  # run-steps per round, a few tenths of a second
    steps = int(min(1000, max(15, budget / runs)))
    naive, batched = [], []
    for _ in range(rounds):
        naive.append(naive_steps(case, arms, DTYPES[dtype], 300))
        batched.append(batched_steps(case, arms, dtype, runs, steps))
    ratios = [a / b for a, b in zip(naive, batched, strict=True)]
    return {
        "case": case,
        "dtype": dtype,
        "runs": runs,
        "arms": arms,
        "loop_us": 1e6 * statistics.median(naive),
        "ours_us": 1e6 * statistics.median(batched),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "rounds": rounds,
    }


def growth() -> list[dict]:
    """Does a step cost the same late as early, and a run the same in a large batch?"""
    rows = []
    for steps in (1000, 4000, 16000):
        start = time.process_time()
        ta.simulate("dpo", bandit(100), source=CASES["DPO, 64 fixed pairs"][1], steps=steps,
                    marks=2, optimiser="adam", lr=LR, seeds=100)  # fmt: skip
        rows.append({"steps": steps, "us": 1e6 * (time.process_time() - start) / steps / 100})
    return rows


def peak_memory() -> float:
    """Peak resident memory of a process with 8,000 runs of 1,000 arms in float32, MiB (Linux)."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import torch; torch.set_num_threads(1)\n"
        "import simulator as s, toyalign as ta\n"
        "ta.simulate('dpo', s.bandit(1000), source=s.CASES['DPO, 64 fixed pairs'][1], steps=5,"
        " marks=2, optimiser='adam', seeds=8000, dtype='float32')\n"
        # Not getrusage: its peak is inherited from the process that started this one.
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print([int(l.split()[1]) / 1024 for l in lines if l.startswith('VmHWM')][0])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(HERE)], capture_output=True, text=True, check=True
    )
    return float(out.stdout)


def processor() -> str:
    """The processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def report(results: list[dict], steps: list[dict], memory: float) -> str:
    """The tables, in Markdown."""
    lines = [
        f"Measured on {processor()}, {os.cpu_count()} cores, one thread; Python "
        f"{platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}.",
        "",
        "### Against the loop, R = 1,000 runs, K = 100 arms, Adam",
        "",
        "| case | precision | loop, µs | toyalign, µs | times faster | lowest to highest | bar |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in results:
        if (row["runs"], row["arms"]) == (1000, 100):
            bar = BARS[row["case"]][row["dtype"] == "float64"]
            lines.append(
                f"| {row['case']} | {row['dtype']} | {row['loop_us']:.0f} | {row['ours_us']:.2f} | "
                f"**{row['ratio']:.0f}** | {row['lowest']:.0f} to {row['highest']:.0f} | {bar} |"
            )
    lines += ["", "### Times faster than the loop, by number of runs R and arms K", ""]
    sizes = sorted({(row["arms"], row["runs"]) for row in results})
    lines.append("| case | precision | " + " | ".join(f"K={k}, R={r:,}" for k, r in sizes) + " |")
    lines.append("| --- | --- |" + " ---: |" * len(sizes))
    for case in CASES:
        for dtype in DTYPES:
            cells = {
                (row["arms"], row["runs"]): f"{row['ratio']:.3g} ({row['ours_us']:.3g} µs)"
                for row in results
                if row["case"] == case and row["dtype"] == dtype
            }
            if cells:
                lines.append(
                    f"| {case} | {dtype} | " + " | ".join(cells.get(s, "") for s in sizes) + " |"
                )
    lines += ["", "### Growth with the number of steps (DPO, 64 fixed pairs, R = 100, K = 100)", ""]
    lines += ["| steps | µs per run-step |", "| ---: | ---: |"]
    lines += [f"| {row['steps']:,} | {row['us']:.2f} |" for row in steps]
    lines += [
        "",
        f"Peak resident memory, R = 8,000, K = 1,000, DPO, float32, imports included: "
        f"**{memory:.0f} MiB**.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, and put the tables into benchmarks/README.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the headline rows, print only")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs, arms = ((1000,), (100,)) if options.quick else ((1, 100, 1000, 8000), (10, 100, 1000))
    results = []
    for case in CASES:
        for dtype in DTYPES:
            for k in arms:
                for r in runs:
                    row = measure(case, k, dtype, r, options.rounds)
                    results.append(row)
                    print(
                        f"{case:46s} {dtype} K={k:5d} R={r:5d}: loop {row['loop_us']:6.0f} µs, "
                        f"ours {row['ours_us']:8.2f} µs, {row['ratio']:7.1f} times faster",
                        flush=True,
                    )
    if options.quick:
        return
    steps, memory = growth(), peak_memory()
    (HERE / "results").mkdir(exist_ok=True)
    record = {"results": results, "growth": steps, "peak_mib": memory, "processor": processor()}
    (HERE / "results" / "simulator.json").write_text(json.dumps(record, indent=1) + "\n")
    readme = HERE / "README.md"
    head, rest = readme.read_text().split("<!-- measured -->")
    _, tail = rest.split("<!-- end of measured -->")
    made = f"<!-- measured -->\n\n{report(results, steps, memory)}\n<!-- end of measured -->"
    readme.write_text(head + made + tail)
    print(f"\nwritten: {readme}")


if __name__ == "__main__":
    main()
