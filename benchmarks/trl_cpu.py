"""How much time and memory does a step of DPO cost on a CPU, here and with TRL's DPOTrainer?

The same random Llama of 19.5 million parameters, the same tokenizer, pairs, order and settings on
both sides, each used as a user would use it. Every cell is a process of its own with one thread;
the two sides take turns. Time is CPU time of the process per step after some steps of warm-up.
Memory is the peak while the trainer is made and trains, above what the process held before, with
everything imported and policy and reference built. The logged losses of the two sides are compared
step by step, and once more on short completions: a sum of 500 nats has steps of 3e-5 in float32,
and no loss is finer than that.

    python benchmarks/trl_cpu.py                                # everything, half an hour if alone
    python benchmarks/trl_cpu.py --rounds 1 --modes lora --pairs 2    # one row, half a minute
"""

import argparse
import copy
import gc
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIDES = ("TRL", "toyalign")
MODES = {
    "full": "all parameters, a frozen copy as reference",
    "precomputed": "all parameters, reference log-probabilities computed once",
    "lora": "an adapter of rank 8, without it the reference",
}
WORDS = {"long": (32, 64), "short": (4, 8)}  # in a completion
STEPS = {2: (3, 8), 8: (2, 4)}  # steps of warm-up and measured ones, by pairs in a batch
CPU_BAR, MEMORY_BAR, LOSS_BAR = 0.5, 0.6, 1e-6
SEED, VOCABULARY, ROWS, LR = 0, 32_000, 64, 1e-4
SIZE = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4,
        "max_position_embeddings": 256}  # fmt: skip
ADAPTER = {"r": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
SPECIAL = ("<unk>", "<pad>", "<s>", "</s>")
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


# --- what both sides get


def tokenizer() -> Any:
    """One word, one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *(f"w{i}" for i in range(VOCABULARY - len(SPECIAL)))]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", pad_token="<pad>", bos_token="<s>",
        eos_token="</s>",
    )  # fmt: skip


def pairs(words: str) -> list[dict[str, str]]:
    """Prompts of 16 to 32 words, completions of a key of `WORDS`."""
    drawn = random.Random(SEED)

    def text(low: int, high: int) -> str:
        count = drawn.randint(low, high)
        return " ".join(f"w{drawn.randrange(VOCABULARY - len(SPECIAL))}" for _ in range(count))

    def pair() -> dict[str, str]:
        completions = {side: " " + text(*WORDS[words]) for side in ("chosen", "rejected")}
        return {"prompt": text(16, 32), **completions}

    return [pair() for _ in range(ROWS)]


def policy() -> Any:
    """The random model."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(SEED)
    ids = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 3}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **SIZE, **ids))


def settings(folder: str, batch: int) -> dict[str, Any]:
    """Training arguments; float32, AdamW and a linear schedule are the defaults here."""
    return {
        "output_dir": folder, "per_device_train_batch_size": batch, "max_steps": sum(STEPS[batch]),
        "learning_rate": LR, "logging_steps": 1, "report_to": [], "save_strategy": "no",
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True,
        "seed": SEED,
    }  # fmt: skip


# --- the two trainers


def theirs(
    mode: str, batch: int, rows: list[dict[str, str]], folder: str, model: Any, reference: Any
) -> Any:
    """TRL's trainer."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    return DPOTrainer(
        model=model,
        ref_model=reference,
        args=DPOConfig(
            **settings(folder, batch), beta=0.1, precompute_ref_log_probs=mode == "precomputed"
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
        peft_config=LoraConfig(**ADAPTER) if mode == "lora" else None,
    )


def ours(
    mode: str, batch: int, rows: list[dict[str, str]], folder: str, model: Any, reference: Any
) -> Any:
    """This package's trainer."""
    from peft import LoraConfig, get_peft_model
    from transformers import TrainingArguments

    from toyalign.llm.data import prepare
    from toyalign.llm.trainer import AlignmentTrainer

    words = tokenizer()
    return AlignmentTrainer(
        get_peft_model(model, LoraConfig(**ADAPTER)) if mode == "lora" else model,
        "dpo",
        args=TrainingArguments(**settings(folder, batch)),
        train_dataset=prepare(rows, words, "pairs")[0],
        processing_class=words,
        reference=reference,
        precompute=Path(folder) / "reference.pt" if mode == "precomputed" else None,
        hyper={"beta": 0.1},
    )


# --- one cell, in a process of its own


def memory(field: str) -> float:
    """Resident memory of this process now (VmRSS) or at its peak (VmHWM), MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def cell(side: str, mode: str, batch: int, words: str, folder: str) -> dict[str, Any]:
    """Train on one side and say what it cost."""
    import torch
    from transformers import TrainerCallback

    if side == "TRL":
        import trl

        trl.DPOTrainer  # noqa: B018 - imported at last when it is named
    else:
        import toyalign.llm.trainer  # noqa: F401
    torch.set_num_threads(1)
    model = policy()
    reference = copy.deepcopy(model) if mode == "full" else None
    gc.collect()
    baseline = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew

    clock: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **given: Any) -> None:
            clock.append(time.process_time())

    start = time.process_time()
    trainer = (theirs if side == "TRL" else ours)(
        mode, batch, pairs(words), folder, model, reference
    )  # fmt: skip
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in trainer.model.named_parameters():  # the same adapter on both sides
        if "lora_A" in name:
            with torch.no_grad():
                parameter.normal_(0, 0.02, generator=generator)
    trainer.add_callback(Clock())
    ready = time.process_time()
    trainer.train()
    warm, measured = STEPS[batch]
    return {
        "cpu_s_per_step": (clock[-1] - clock[warm - 1]) / measured,
        "setup_cpu_s": ready - start,
        "baseline_mib": baseline,
        "peak_mib": memory("VmHWM"),
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
    }


def run(side: str, mode: str, batch: int, words: str = "long") -> dict[str, Any]:
    """A cell in a new process."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        environment["HF_DATASETS_CACHE"] = folder  # nothing is taken from an earlier run
        done = subprocess.run(
            [sys.executable, __file__, "--cell", side, mode, str(batch), words, folder],
            env=environment, capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{side}, {mode}, {batch} {words} pairs failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# --- the table


def summary(mode: str, batch: int, rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """A row of the table: both sides, their ratios round by round, and the losses."""
    row: dict[str, Any] = {"mode": mode, "pairs": batch, "rounds": len(rounds["TRL"])}
    for side, cells in rounds.items():
        seconds = [found["cpu_s_per_step"] for found in cells]
        above = [found["peak_mib"] - found["baseline_mib"] for found in cells]
        row[side] = {
            "cpu_s_per_step": spread(seconds),
            "peak_above_baseline_mib": spread(above),
            "peak_mib": statistics.median(found["peak_mib"] for found in cells),
            "baseline_mib": statistics.median(found["baseline_mib"] for found in cells),
            "setup_cpu_s": statistics.median(found["setup_cpu_s"] for found in cells),
            "losses": cells[0]["losses"],
        }
    their, own = rounds["TRL"], rounds["toyalign"]
    both = list(zip(own, their, strict=True))
    row["cpu_ratio"] = spread([o["cpu_s_per_step"] / t["cpu_s_per_step"] for o, t in both])
    row["memory_ratio"] = spread(
        [(o["peak_mib"] - o["baseline_mib"]) / (t["peak_mib"] - t["baseline_mib"]) for o, t in both]
    )
    row["loss_difference"] = max(apart(o, t) for o, t in both)
    row["within_bar"] = (
        row["cpu_ratio"]["median"] <= CPU_BAR and row["memory_ratio"]["median"] <= MEMORY_BAR
    )
    return row


def apart(own: dict[str, Any], their: dict[str, Any]) -> float:
    """The largest difference of the losses of two cells, step by step."""
    return max(abs(a - b) for a, b in zip(own["losses"], their["losses"], strict=True))


def spread(values: list[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def report(found: dict[str, Any]) -> str:
    """The table, in Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    lines = [
        f"Measured on {found['processor']}, {found['cores']} cores, one thread; {versions}.",
        "",
        "| mode | pairs | TRL, CPU s per step | toyalign | ratio | TRL, MiB above baseline "
        "| toyalign | ratio | largest difference of losses |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found["rows"]:
        cells = [row["mode"], str(row["pairs"])]
        for field, ratio, form in (
            ("cpu_s_per_step", "cpu_ratio", "{median:.3f} ({lowest:.3f})"),
            ("peak_above_baseline_mib", "memory_ratio", "{median:.0f} ({lowest:.0f})"),
        ):
            cells += [form.format(**row[side][field]) for side in SIDES]
            cells.append("**{median:.2f}** ({lowest:.2f} to {highest:.2f})".format(**row[ratio]))
        lines.append("| " + " | ".join([*cells, f"{row['loss_difference']:.0e}"]) + " |")
    said = ", ".join(f"{mode} {value:.0e}" for mode, value in found["short_difference"].items())
    lines += ["", f"Largest difference of losses on completions of 4 to 8 words: {said}."]
    return "\n".join(lines) + "\n"


def processor() -> str:
    """The processor's name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def main() -> None:
    """Measure, print, and write the table beside this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cell", nargs=5, metavar=("SIDE", "MODE", "PAIRS", "WORDS", "FOLDER"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--pairs", nargs="+", type=int, choices=STEPS, default=list(STEPS))
    parser.add_argument("--output", type=Path, help="default: none, unless everything is measured")
    options = parser.parse_args()
    if options.cell:
        side, mode, batch, words, folder = options.cell
        print("\n" + json.dumps(cell(side, mode, int(batch), words, folder)))
        return
    everything = (set(options.modes), set(options.pairs)) == (set(MODES), set(STEPS))
    rounds: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {
        (mode, batch): {side: [] for side in SIDES}
        for mode in options.modes
        for batch in options.pairs
    }
    for turn in range(options.rounds):
        for (mode, batch), sides in rounds.items():
            for side in SIDES:
                sides[side].append(run(side, mode, batch))
                last = sides[side][-1]
                print(
                    f"round {turn + 1}, {mode}, {batch} pairs, {side}: "
                    f"{last['cpu_s_per_step']:.3f} CPU s per step, peak {last['peak_mib']:.0f} MiB,"
                    f" {last['peak_mib'] - last['baseline_mib']:.0f} above baseline",
                    flush=True,
                )
    short = {
        mode: apart(*(run(side, mode, 2, "short") for side in SIDES)) for mode in options.modes
    }
    found = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "versions": {"Python": platform.python_version(), **{n: version(n) for n in PACKAGES}},
        "seed": SEED,
        "learning_rate": LR,
        "steps": {str(batch): STEPS[batch] for batch in options.pairs},
        "bars": {"cpu": CPU_BAR, "memory": MEMORY_BAR, "losses": LOSS_BAR},
        "short_difference": short,
        "rows": [summary(mode, batch, sides) for (mode, batch), sides in rounds.items()],
    }
    print("\n" + report(found))
    output = options.output or (HERE / "results" / "trl_cpu.json" if everything else None)
    if output:
        output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
