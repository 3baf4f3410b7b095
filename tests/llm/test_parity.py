"""The toy and the trainer on a language model: the same losses, pushes and trajectories.

What the two define differently, and these tests therefore give to both or arrange to be the same:
the rows that KTO's divergence is estimated from; pairs of equal reward, which the trainer leaves
out; and the advantage "baseline", which in a bandit knows the expected reward.
"""

import gc
from dataclasses import replace

import pytest
import torch
from bandits import (
    ARMS,
    END,
    PROMPTS,
    SIDES,
    Given,
    batch_of,
    by_toy,
    by_trainer,
    example,
    featured,
    tabular,
    toy_rows,
    trainer,
)
from transformers import TrainerCallback

from toyalign.errors import ToyalignError
from toyalign.llm.online import OnPolicy
from toyalign.objectives import OBJECTIVES, get_objective
from toyalign.policies.features import Features
from toyalign.problems.sources import Source
from toyalign.rows import Rows
from toyalign.scoring import from_table
from toyalign.simulate import simulate

FEATURES = Features(overlap=1.0)
CLOSE = 1e-6
UNFIT = {  # objectives that texts cannot teach, and what the trainer says
    "forward_kl": "learns from whole next-action distributions",
    "reverse_kl": "learns from whole next-action distributions",
    "jsd": "learns from whole next-action distributions",
    "xpo": r"needs logps \(log-probability of the response",
}
BOTH = sorted(set(OBJECTIVES) - set(UNFIT))

PAIRS = {
    "one token": [
        (0, (2,), (3,)), (0, (2,), (5,)), (1, (4,), (0,)), (1, (1,), (6,)), (2, (3,), (2,)),
        (2, (3,), (2,)),
    ],
    "several tokens": [
        (0, (2,), (3, 1)), (0, (2, 4, 4), (5,)), (1, (4, 0), (0, 1, 2, 6)), (1, (1, 6), (6, 1)),
        (2, (3, 3, 1), (2, 3)), (2, (3,), (2,)),
    ],
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """A training ends with a search for garbage, which is long if it goes over all modules."""
    gc.freeze()
    yield
    gc.unfreeze()


def logits(seed, scale=1.0):
    """Logits of every arm after every token, [token, arm]."""
    drawn = torch.randn(ARMS, ARMS, generator=torch.Generator().manual_seed(seed))
    return scale * drawn.double()


def data_of(card, answers):
    """Rows, weights and values of the objective's kind."""
    rows, weight = PAIRS[answers], [1.0, 2.0, 0.5, 1.0, 0.0, 1.0]
    if card.kind != "pairs":
        rows = [(prompt, side) for prompt, *sides in rows for side in sides]
        weight = [w for w in weight for _ in SIDES]
    if {"kl_estimate", "mean_log_ratio"} & set(card.needs):  # means over all rows alike
        weight = [1.0] * len(rows)
    place = range(len(rows))
    values = {
        "labels": [float(i % 2 == 0) for i in place],
        "rewards": [0.3 * (i % 4) for i in place],
        "advantages": [0.7 - 0.3 * (i % 5) for i in place],
        "best_weights": [float(i % 3) for i in place],
        "chosen_rewards": [0.1 * i for i in place],
        "rejected_rewards": [0.5 - 0.1 * i for i in place],
    }
    return rows, weight, {name: values[name] for name in card.needs if name in values}


@pytest.mark.parametrize("objective", BOTH)
def test_losses_and_pushes_agree(objective, tmp_path):
    card = get_objective(objective)
    reference, behaviour = logits(0), logits(3)
    # The trainer is told that the policy responds itself, and then given the responses.
    written = card.kind == "samples" or card.sources == ("policy",)
    rows, _, values = data_of(card, "one token")
    first = [
        example(prompt, () if written else responses, {name: v[0] for name, v in values.items()})
        for prompt, *responses in rows
    ]
    made = trainer(
        tmp_path, tabular(reference), objective, first, reference=tabular(reference),
        on_policy=OnPolicy(len) if written else None,
    )  # fmt: skip
    made.own = None
    for place, policy in (("at", reference), ("away from", logits(1, 1.5))):
        made.model.lm_head.weight.data = policy.T.clone()
        for answers in PAIRS:
            rows, weight, values = data_of(card, answers)
            batch = batch_of(card, rows, weight, values, behaviour)
            tensors, theirs = by_trainer(card, batch, made)
            toy = toy_rows(rows, weight, values)
            if "kl_estimate" in tensors:  # which the two estimate from other rows, see below
                toy = replace(toy, values={**toy.values, "kl_estimate": tensors["kl_estimate"]})
            ours = by_toy(card, toy, [policy, reference, behaviour])
            assert set(ours) == set(theirs)
            assert ours["gradient by the logits"].abs().max() > CLOSE
            for name, value in ours.items():
                apart = (theirs[name] - value).abs().max()
                assert apart < CLOSE, f"{name} {place} the reference, {answers}: {apart:.3g} apart"


@pytest.mark.parametrize("objective", sorted(UNFIT))
def test_what_cannot_be_trained_on_texts_is_refused(objective, tmp_path):
    card = get_objective(objective)
    rows = [example(0, ((2,), (3,)) if card.kind == "pairs" else ((2,),))]
    with pytest.raises(ToyalignError, match=UNFIT[objective]):
        trainer(tmp_path, tabular(logits(0)), objective, rows)
    with pytest.raises(ToyalignError, match=UNFIT[objective]):
        trainer(tmp_path, tabular(logits(0)), objective, [example(0)], on_policy=OnPolicy(len))


def test_the_two_estimates_of_ktos_divergence(tmp_path):
    """The toy's is over every response in every context, the trainer's over the next prompt's."""
    rows = [(prompt, (arm,)) for prompt, arm in ((0, 2), (0, 3), (1, 4), (2, 1))]
    others = [4, 4, 1, 2]  # the first later row with another prompt
    policy, reference = (table.log_softmax(-1) for table in (logits(1), logits(0)))
    ratio = (policy - reference)[list(PROMPTS)]
    examples = [example(p, (r,), {"labels": float(p == 0)}) for p, r in rows]
    made = trainer(tmp_path, tabular(policy), "kto", examples, reference=tabular(reference))
    batch = made.data_collator(made.train_dataset)
    ready, _ = made.get_batch_samples(iter([batch]), 1, torch.device("cpu"))
    theirs = ready[0]["data"]["kl_estimate"].item()
    own = [prompt for prompt, _ in rows]
    assert theirs == pytest.approx(ratio[own, others].mean().clamp(min=0).item(), abs=CLOSE)
    cells = torch.tensor([[[p * ARMS + arm for p, (arm,) in rows]]])
    tables = [table[list(PROMPTS)].view(1, -1) for table in (policy, reference)]
    toy = Rows(torch.full((1, 4), 0.25, dtype=torch.float64), cells)
    ours = from_table(["kl_estimate"], toy, tables[0], ARMS, tables[1])["kl_estimate"].item()
    assert ours == pytest.approx(ratio[:, [2, 3, 4, 1]].mean().clamp(min=0).item(), abs=CLOSE)
    assert min(ours, theirs) > 0.01 and abs(ours - theirs) > 0.01


# --- whole trajectories

STEPS = 50
# The same in every prompt, so that the two estimates of KTO's divergence agree.
ARMS_OF_PAIRS = ((2, 3), (4, 0), (2, 3), (1, 5))


class Tables(TrainerCallback):
    """Keeps what the policy says after every step, [prompt, arm] each."""

    def __init__(self):
        self.kept = []

    def on_train_begin(self, args, state, control, model, **given):
        self.kept.append(model.table()[list(PROMPTS)])

    def on_step_end(self, args, state, control, model, **given):
        self.kept.append(model.table()[list(PROMPTS)])


def rewards():
    """A reward of every arm in every prompt, [prompt, arm], from −2 to 2 in steps of a quarter."""
    return (logits(4)[list(PROMPTS)] * 4).round().clamp(-8, 8) / 4


def trained(folder, objective, examples, policy="tabular", parts=1, lr=1.0, **given):
    """The trainer's trajectory, [step, prompt, arm], nats."""
    start = logits(0)
    made = tabular(start)
    if policy == "features":
        made = featured(start, FEATURES.matrix(ARMS))
    tables = Tables()
    trainer(
        folder, made, objective, examples, lr, STEPS, parts=parts, callbacks=[tables], **given
    ).train()
    return torch.stack(tables.kept)


def simulated(objective, policy="tabular", lr=1.0, source="fixed", **problem):
    """The toy's trajectory, [step, prompt, arm], nats."""
    given = Given(logits(0)[list(PROMPTS)], rewards(), **problem)
    found = simulate(
        objective, given, policy=FEATURES if policy == "features" else policy, source=source,
        steps=STEPS, lr=lr, marks=range(STEPS + 1),
    )  # fmt: skip
    return torch.from_numpy(found.log_probs[:, 0])


def assert_same(ours, theirs):
    """Two trajectories agree at every step, and go somewhere."""
    assert ours.shape == theirs.shape
    assert (ours[-1] - ours[0]).abs().max() > 0.05
    assert (theirs - ours).abs().max() < CLOSE


@pytest.mark.parametrize(
    "objective, lr, policy, parts",
    [
        ("dpo", 3.0, "tabular", 1), ("dpop", 0.1, "tabular", 1), ("ipo", 0.02, "tabular", 1),
        ("simpo", 0.3, "tabular", 1), ("infonca", 10.0, "tabular", 1),
        ("tdpo2", 3.0, "tabular", 1), ("sft", 1.0, "tabular", 1), ("kto", 3.0, "tabular", 1),
        ("dpop", 0.1, "features", 1), ("bco_unpaired", 3.0, "features", 1),
        ("kto", 10.0, "features", 2), ("dft", 1.0, "features", 2),
    ],
)  # fmt: skip
def test_on_fixed_data_the_trajectories_are_the_same(objective, lr, policy, parts, tmp_path):
    card = get_objective(objective)
    prompts = range(len(PROMPTS))
    pairs = [(p, (won,), (lost,)) for won, lost in ARMS_OF_PAIRS for p in prompts]
    rows, labels = pairs, []
    if card.kind == "labelled":
        rows = [(p, (arm,)) for pair in ARMS_OF_PAIRS for arm in pair for p in prompts]
        labels = [good for _ in ARMS_OF_PAIRS for good in (1.0, 0.0) for p in prompts]
    elif card.kind == "demonstrations":
        rows = [pair[:2] for pair in pairs]
    values = [{"labels": label} for label in labels] or [{}] * len(rows)
    if "chosen_rewards" in card.needs:
        known = rewards()
        values = [
            {"chosen_rewards": known[p, won].item(), "rejected_rewards": known[p, lost].item()}
            for p, (won,), (lost,) in rows
        ]
    examples = [example(p, r, v) for (p, *r), v in zip(rows, values, strict=True)]
    theirs = trained(tmp_path, objective, examples, policy, parts, lr)
    of_toy = rows if card.kind == "demonstrations" else pairs
    assert_same(simulated(objective, policy, lr, rows=tuple(of_toy)), theirs)


@pytest.mark.parametrize("objective", ["best_of_n", "awr"])
def test_on_responses_with_rewards_the_trajectories_are_the_same(objective, tmp_path):
    drawn = torch.tensor([[2, 3, 3, 5], [0, 1, 13, 4], [6, 9, 8, 2]])
    known = rewards()
    examples = [
        example(p, ((arm,),), {"rewards": known[p, arm].item()})
        for p, arms in enumerate(drawn.tolist())
        for arm in arms
    ]
    theirs = trained(tmp_path, objective, examples)
    source = Source("reference", exact=False, prompts=3, responses=4)
    assert_same(simulated(objective, source=source, written=(drawn,)), theirs)


@pytest.mark.parametrize(
    "objective, lr, fresh_every",
    [
        ("reinforce_kl", 1.0, 1), ("ppo_clip", 2.0, 4), ("grpo", 1.0, 3), ("online_dpo", 3.0, 1),
        ("dpop", 0.1, 3), ("sft", 0.3, 2),
    ],
)  # fmt: skip
def test_on_what_the_policy_writes_the_trajectories_are_the_same(
    objective, lr, fresh_every, tmp_path
):
    """The trainer's responses, as its reward function sees them, are given to the toy."""
    written, known = [], rewards()

    def reward(prompts, completions):
        arms = [int(text or END) for text in completions]  # the end token is not shown
        order = [int(prompt) for prompt in prompts]
        collection = torch.zeros(len(PROMPTS), 4, dtype=torch.long)
        for prompt in range(len(PROMPTS)):
            mine = [arm for arm, p in zip(arms, order, strict=True) if p == prompt]
            collection[prompt] = torch.tensor(mine)
        written.append(collection)
        return [known[prompt, arm].item() for prompt, arm in zip(order, arms, strict=True)]

    own = OnPolicy(reward, responses=4, fresh_every=fresh_every, max_new_tokens=1)
    examples = [example(prompt) for prompt in range(len(PROMPTS))]
    theirs = trained(tmp_path, objective, examples, lr=lr, on_policy=own)
    assert len(written) == -(-STEPS // fresh_every)
    # Responses of equal reward are no pair for the trainer, and one for the toy unless it is told.
    gap = 0.0 if get_objective(objective).kind == "samples" else 1e-9
    source = Source("policy", exact=False, prompts=3, responses=4, reuse=fresh_every, min_gap=gap)
    assert_same(simulated(objective, lr=lr, source=source, written=tuple(written)), theirs)
