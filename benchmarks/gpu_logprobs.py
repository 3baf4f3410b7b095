"""A training step on pairs on a GPU: chunked log-probabilities against other ways to get them.

Random Llama models of 0.1 and 1 billion parameters with a vocabulary of 128,256, in bfloat16: four
pairs of 2,048 tokens, half of them completion, a DPO loss, forward and backward, no optimiser and
no reference pass. The ways take turns in every round: ours, plain log-softmax, and where they are
installed TRL's fused head and Liger's fused loss. `--tiny` tries the script on a CPU.

    python benchmarks/gpu_logprobs.py    # about three minutes on an H100
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from toyalign.llm.logprobs import score
from toyalign.objectives.pairwise import dpo

HERE = Path(__file__).parent
ROUNDS = 5
SIZES = {
    "0.1B": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
             "num_key_value_heads": 12, "intermediate_size": 2048},
    "1B": {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "intermediate_size": 8192},
}  # fmt: skip
TINY = {"tiny": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                 "num_key_value_heads": 2, "intermediate_size": 64}}  # fmt: skip

Batch = dict[str, Tensor]


def chunked(chunk: int) -> Callable[[Any, Batch], Tensor]:
    """Ours: the head on completion tokens alone, so many at a time."""

    def logps(model: Any, batch: Batch) -> Tensor:
        found, _ = score(model, **batch, chunk=chunk)
        return found.logps.sum(-1)

    return logps


def log_softmax(model: Any, batch: Batch) -> Tensor:
    """All logits, to float32, log-softmax, gather."""
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    log_probs = torch.log_softmax(logits.float(), -1)
    taken = log_probs.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    return (taken * batch["completion_mask"][:, 1:]).sum(-1)


def gather_less_logsumexp(model: Any, batch: Batch) -> Tensor:
    """All logits, to float32, the taken one less the log-sum-exp."""
    logits = (
        model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1].float()
    )
    taken = logits.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    return ((taken - logits.logsumexp(-1)) * batch["completion_mask"][:, 1:]).sum(-1)


def trl_head(model: Any, batch: Batch) -> Tensor:
    """TRL's fused head, on completion tokens alone."""
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    found = model(**inputs, labels=labels, fused_lm_head=True).log_probs
    return found.float().sum(-1)


def liger_loss(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """Liger's fused DPO loss, which makes the gradient by the logits in its forward pass."""
    from liger_kernel.chunked_loss import LigerFusedLinearDPOLoss

    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    hidden = model.model(
        batch["input_ids"], attention_mask=batch["attention_mask"]
    ).last_hidden_state
    fused = LigerFusedLinearDPOLoss(beta=0.1, use_ref_model=False, compiled=hidden.is_cuda)
    loss, (chosen, *_) = fused(model.lm_head.weight, hidden[:, :-1], labels[:, 1:])
    return loss, chosen


def dpo_of(way: Callable[[Any, Batch], Tensor]) -> Callable[[Any, Batch], tuple[Tensor, Tensor]]:
    """The loss and the log-probabilities of the chosen answers, from those of all texts."""

    def step(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        chosen, rejected = way(model, batch).unsqueeze(0).chunk(2, 1)
        frozen = chosen.detach(), rejected.detach()
        return dpo(chosen, rejected, *frozen, beta=0.1).mean(), chosen

    return step


WAYS = {
    "chunks of 1024": dpo_of(chunked(1024)),
    "chunks of 4096": dpo_of(chunked(4096)),
    "log_softmax of all": dpo_of(log_softmax),
    "gather − logsumexp of all": dpo_of(gather_less_logsumexp),
}
if find_spec("trl") is not None:
    WAYS["TRL's fused head"] = dpo_of(trl_head)
if find_spec("liger_kernel") is not None:
    WAYS["Liger's fused loss"] = liger_loss


def step(model: Any, batch: Batch, way: Callable[[Any, Batch], tuple[Tensor, Tensor]]) -> float:
    """Forward, a DPO loss, backward. Returns the mean log-probability of the chosen answers."""
    loss, chosen = way(model, batch)
    model.zero_grad(set_to_none=True)
    loss.backward()
    return chosen.float().mean().item()


def ceiling(device: str) -> float:
    """FLOP per second of a large bfloat16 matrix product."""
    size = 8192 if device == "cuda" else 256
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in "ab")
    for _ in range(3):
        one @ other
    wait(device)
    start = time.perf_counter()
    for _ in range(10):
        one @ other
    wait(device)
    return 10 * 2 * size**3 / (time.perf_counter() - start)


def wait(device: str) -> None:
    """Until the device has done what was asked."""
    if device == "cuda":
        torch.cuda.synchronize()


def measure(sizes: dict[str, dict[str, int]], device: str, tokens: int, vocabulary: int) -> Any:
    """Every way on every model, in turns."""
    most = ceiling(device)
    print(f"a matrix product reaches {most / 1e12:.0f} TFLOP/s")
    table = []
    for name, size in sizes.items():
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=vocabulary, max_position_embeddings=tokens, **size)
        model = LlamaForCausalLM(config).to(device, torch.bfloat16).train()
        if find_spec("trl") is not None:
            from trl.trainer import add_fused_lm_head

            add_fused_lm_head(model)  # plain calls are as they were
        parameters = sum(p.numel() for p in model.parameters())
        ids = torch.randint(vocabulary, (8, tokens), device=device)
        completion = torch.zeros_like(ids)
        completion[:, tokens // 2 :] = 1
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        batch["completion_mask"] = completion
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        peaks, logps = {}, {}
        for turn in range(ROUNDS + 1):
            for label, way in WAYS.items():
                if device == "cuda":
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                wait(device)
                start = time.perf_counter()
                logps[label] = step(model, batch, way)
                wait(device)
                if turn:  # the first round warms up
                    seconds[label].append(time.perf_counter() - start)
                if device == "cuda":
                    peaks[label] = torch.cuda.max_memory_allocated() / 2**30
        for label, times in seconds.items():
            middle = statistics.median(times)
            row = {
                "model": name,
                "parameters": parameters,
                "way": label,
                "tokens_per_second": 8 * tokens / middle,
                "peak_gib": peaks.get(label),
                "share_of_ceiling": 6 * parameters * 8 * tokens / middle / most,
                "seconds": middle,
                "fastest": min(times),
                "slowest": max(times),
                "chosen_logps": logps[label],
            }
            table.append(row)
            peak = "" if row["peak_gib"] is None else f", peak {row['peak_gib']:.1f} GiB"
            print(f"{name}, {label}: {row['tokens_per_second']:,.0f} tokens/s{peak}")
        del model
    return {"matrix_product_flops": most, "rows": table}


def main() -> None:
    """Measure, print, and write the table beside this file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "gpu_logprobs.json")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() and not options.tiny else "cpu"
    if device == "cpu" and not options.tiny:
        raise SystemExit("there is no GPU here; --tiny tries the script on the CPU")
    found = measure(*((TINY, device, 32, 96) if options.tiny else (SIZES, device, 2048, 128256)))
    found["hardware"] = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    names = ("torch", "transformers", "trl", "liger_kernel")
    found["versions"] = {name: version(name) for name in names if find_spec(name) is not None}
    if not options.tiny:
        options.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
