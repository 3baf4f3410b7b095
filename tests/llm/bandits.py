"""A bandit as a language model: arms are the vocabulary, prompts the contexts, answers one token.

The model sees one token and nothing of those before it, so its head is a table of logits: a
distribution over arms after each of them. Every token is an arm, those that stand for prompts, the
end and the padding as well, so that none needs a probability of 0. An answer ends where it is cut
off, without the end token. Longer answers are chains, whose contexts are the tokens.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, repeat

import pytest
import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel, TrainingArguments
from transformers.modeling_outputs import CausalLMOutput

from toyalign.glossary import is_learned, parts
from toyalign.llm.batches import Collator
from toyalign.llm.data import Example
from toyalign.llm.rows import sides_of
from toyalign.llm.trainer import AlignmentTrainer
from toyalign.policies.tabular import Tabular
from toyalign.problems.world import World
from toyalign.rows import Rows
from toyalign.scoring import constants, from_table, weights
from toyalign.streams import Streams
from toyalign.views import Residual

ARMS = 14
PROMPTS = (7, 8, 9)  # the tokens that prompts end with
BEHIND = (10, 11, 12)  # and behind the quality prompt
END = 13  # the padding, too
SIDES = ("chosen_", "rejected_")


class Bigram(PreTrainedModel, GenerationMixin):
    """Logits that are linear in an embedding of the last token, in float64."""

    config_class = PreTrainedConfig

    def __init__(self, embedding, head):
        config = {"vocab_size": ARMS, "pad_token_id": END, "eos_token_id": END}
        super().__init__(PreTrainedConfig(num_hidden_layers=1, **config))
        self.embedding = nn.Embedding(ARMS, ARMS, dtype=torch.float64)
        self.lm_head = nn.Linear(ARMS, ARMS, bias=False, dtype=torch.float64)
        self.post_init()
        self.embedding.weight.data, self.lm_head.weight.data = embedding.clone(), head.clone()

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, input_ids, attention_mask=None, **given):
        return CausalLMOutput(logits=self.lm_head(self.embedding(input_ids)))

    def table(self):
        """Log-probability of every arm after every token, [token, arm], nats."""
        with torch.no_grad():
            return torch.log_softmax(self.lm_head(self.embedding.weight), -1)


def tabular(logits):
    """A model with a logit of its own for every arm after every token, [token, arm]."""
    made = Bigram(torch.eye(ARMS, dtype=torch.float64), logits.T)
    made.embedding.requires_grad_(False)
    return made


def featured(logits, matrix):
    """A model whose arms share the features Φ, [arm, feature]: it learns the embedding alone."""
    made = Bigram(torch.linalg.solve(matrix, logits.T).T, matrix)
    made.lm_head.requires_grad_(False)
    return made


@cache
def tokenizer():
    """Tokens are their numbers, and the last one is the end."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {**{str(token): token for token in range(END)}, "</s>": END}
    made = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", pad_token="</s>")


def example(prompt, responses=(), values=None):
    """A row as the trainer reads it. Prompts differ in length, so that there is padding."""
    ids = (PROMPTS[prompt],) * (1 + prompt)
    return Example(
        ids, tuple(responses), values or {}, prompt, str(prompt), behind=(*ids, BEHIND[prompt])
    )


def toy_rows(rows, weight, values=None):
    """The same rows as the toy reads them; its contexts are the tokens.

    Args:
        rows: (prompt, response) or (prompt, chosen, rejected) each; responses are tuples of arms.
        weight: [row], of any sum.
        values: [row] by name.
    """
    sides = SIDES if len(rows[0]) == 3 else ("",)
    long = max(len(response) for _, *responses in rows for response in responses)
    cells = torch.zeros(1, len(sides), len(rows), long, dtype=torch.long)
    mask = torch.zeros(cells.shape, dtype=torch.float64)
    for row, (prompt, *responses) in enumerate(rows):
        for side, response in enumerate(responses):
            before = (PROMPTS[prompt], *response[:-1])
            for place, (context, arm) in enumerate(zip(before, response, strict=True)):
                cells[0, side, row, place] = context * ARMS + arm
                mask[0, side, row, place] = 1
    share = torch.tensor([weight], dtype=torch.float64)
    share = share / share.sum()
    given = {name: torch.tensor([v], dtype=torch.float64) for name, v in (values or {}).items()}
    if long == 1:
        return Rows(share, cells[..., 0], sides, given)
    return Rows(share, cells, sides, given, mask=mask)


@dataclass(frozen=True)
class Given:
    """A problem for the toy: prompts with their own reference, and rows of single arms.

    Args:
        logits: [prompt, arm], of the reference.
        rewards: [prompt, arm].
        rows: (prompt, chosen, rejected) or (prompt, response), or () where they are collected.
        written: collections of responses, [prompt, response] arms each, that take the place of
            those that the toy would draw.
    """

    logits: torch.Tensor
    rewards: torch.Tensor
    rows: tuple = ()
    written: tuple = ()
    pairs = ()
    has_pairs = True

    def world(self, streams, dtype=torch.float64):
        """The problem as tensors."""
        sides = len(self.rows[0]) - 1 if self.rows else 0
        cells = torch.tensor(
            [[prompt * ARMS + row[side][0] for prompt, *row in self.rows] for side in range(sides)]
        )
        counts = torch.zeros(1, self.logits.numel(), dtype=dtype)
        if sides == 1:
            counts += torch.bincount(cells[0], minlength=counts.numel()).to(dtype) / len(self.rows)
        reference = torch.log_softmax(self.logits, -1).view(1, -1)
        return World(
            len(PROMPTS), ARMS, reference.expand(streams.runs, -1), self.rewards.view(1, -1),
            target_log_probs=reference, demonstrations=counts,
            pairs=cells[None] if sides == 2 else None, groups=len(PROMPTS),
            respond=self._respond() if self.written else None,
        )  # fmt: skip

    def _respond(self):
        # The simulator looks at the rows once more after the last step.
        collections = chain(self.written, repeat(self.written[-1]))

        def respond(probabilities, groups, n, streams):
            arms = next(collections)
            assert arms.shape == (groups, n)
            cells = (arms + torch.arange(groups).unsqueeze(1) * ARMS).view(1, 1, -1, 1)
            rewards = self.rewards.gather(1, arms).view(1, -1).expand(streams.runs, -1)
            weight = self.rewards.new_full((1, arms.numel()), 1 / arms.numel())
            return Rows(weight, cells, mask=torch.ones(cells.shape).to(weight)), rewards

        return respond


def trainer(folder, model, objective, examples, lr=0.1, steps=1, parts=1, **given):
    """A trainer that does what the toy does: all rows at every step, and plain SGD."""
    arguments = TrainingArguments(
        str(folder), max_steps=steps, learning_rate=lr, lr_scheduler_type="constant", optim="sgd",
        weight_decay=0.0, max_grad_norm=0.0, gradient_accumulation_steps=parts,
        per_device_train_batch_size=len(examples) // parts, logging_strategy="no",
        report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    return AlignmentTrainer(
        model, objective, args=arguments, train_dataset=examples, processing_class=tokenizer(),
        **given,
    )  # fmt: skip


def batch_of(card, rows, weight, values, behaviour):
    """The rows as a batch; what the policy that drew them said, where they are samples."""
    batch = Collator(END)(
        example(prompt, responses, {name: v[row] for name, v in values.items()})
        for row, (prompt, *responses) in enumerate(rows)
    )
    batch["weights"] = torch.tensor(weight)
    if card.kind == "samples":
        ids, mask = batch["input_ids"], batch["completion_mask"]
        batch["old_logps"] = behaviour.log_softmax(-1)[ids[:, :-1], ids[:, 1:]] * mask[:, 1:]
    return batch


def behind(table):
    """The table behind the quality prompt, which a chain forgets after its first token."""
    found = table.view(1, ARMS, ARMS).clone()
    found[:, PROMPTS] = found[:, BEHIND]
    return found.view(1, -1)


def by_toy(card, rows, tables):
    """Loss, push on each token of the responses by side, and gradient by the logits.

    Args:
        card: the objective.
        rows: from `toy_rows`.
        tables: logits of the policy, of the reference and of who drew the samples, [token, arm].
    """
    policy, reference, behaviour = (t.log_softmax(-1).view(1, -1) for t in tables)
    world = World(
        ARMS, ARMS, reference, *(reference[:, :1] for _ in range(3)),
        states=torch.eye(ARMS, dtype=torch.float64)[None],
        next_context=torch.arange(ARMS).repeat(ARMS),
    )  # fmt: skip
    leaf = tables[0].reshape(1, -1).clone().requires_grad_()
    table = Tabular().log_probs(leaf, world)
    if card.kind == "samples":
        rows = replace(rows, behaviour=behaviour)
    tensors = constants(card.needs, rows, reference, ARMS, behind(reference))
    said = [name for name in card.needs if name.startswith("prompted_")]
    tensors |= from_table(said, rows, behind(policy), ARMS)
    if card.view == "residual" and rows.mask is not None:
        tensors["token_logps"] = Residual().token_logps(
            Tabular(), leaf, table, world, rows, Streams([0])
        )
    rest = [name for name in card.needs if name not in tensors]
    tensors |= from_table(rest, rows, table, ARMS, reference)
    named = constants([f"{side}mask" for side in sides_of(card)], rows, reference, ARMS)
    masks = {side: named[f"{side}mask"] for side in sides_of(card)}
    values = card.fn(**tensors, **card.hyper)
    loss = (values * weights(values, rows)).sum()
    asked = {n: tensors[n] for n in card.needs if is_learned(n) and parts(n)[2] != "log_probs"}
    found = torch.autograd.grad(loss, [*asked.values(), leaf], allow_unused=True)
    push = {side: torch.zeros_like(mask) for side, mask in masks.items()}
    for name, grad in zip(asked, found, strict=False):
        if grad is not None:
            push[parts(name)[1]] -= grad if grad.ndim == 3 else grad.unsqueeze(-1)
    push = {side: push[side][mask.bool()] for side, mask in masks.items()}
    return {"loss": loss.detach(), **push, "gradient by the logits": found[-1].view(ARMS, ARMS)}


def by_trainer(card, batch, made):
    """The same of a trainer, on its own way from a batch to a loss."""
    seen, tensors_of = {}, made.scorer.tensors

    def watched(*given):
        seen["tensors"], seen["scores"] = tensors_of(*given)
        return seen["tensors"], seen["scores"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made.scorer, "tensors", watched)
        ready, counts = made.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
        loss = made.compute_loss(made.model.eval(), ready[0], num_items_in_batch=counts)
    logps, weight = seen["scores"].logps, made.model.lm_head.weight
    grad, by_logits = torch.autograd.grad(loss, [logps, weight])
    push = {
        side: -grad[texts][batch["completion_mask"][texts, 1:].bool()]
        for side, texts in zip(made.scorer.sides, batch["sides"], strict=True)
    }
    return seen["tensors"], {"loss": loss.detach(), **push, "gradient by the logits": by_logits.T}
