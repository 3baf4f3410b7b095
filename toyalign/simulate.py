"""The simulator: problem, rows, named log-probabilities, loss, gradient, policy; again and again.

All runs (seeds times settings) are rows of one tensor. `train` below is the whole method; what
surrounds it only splits the runs into chunks and gathers their records.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from toyalign.chunks import chunk_size, map_chunks, tick
from toyalign.errors import ToyalignError, unknown
from toyalign.objectives import Loss, Objective, get_objective
from toyalign.optimisers import Optimiser, clip_per_run, get_optimiser
from toyalign.plan import (
    DTYPES,
    Plan,
    columns,
    grid,
    log_spaced,
    seed_list,
    settled_source,
    settled_view,
)
from toyalign.policies import get_policy
from toyalign.problems import get_problem
from toyalign.problems.sources import Collector, Source
from toyalign.problems.world import World
from toyalign.records import Records, gather
from toyalign.rows import Rows
from toyalign.scoring import constants, from_table, reduce_rows, weights
from toyalign.streams import Streams
from toyalign.trajectory import Trajectory
from toyalign.views import Residual

# Elementwise kernels treat a tensor's last few entries, up to one short of this many, with scalar
# code whose sigmoid or softplus rounds differently. Ghost runs at the end of every chunk take that
# place, so that a real run gives the same bits wherever it stands in a batch. A column of
# hyperparameters has one entry per run, so a sweep needs that many ghosts.
_VECTOR = 32
_LOOKED_AT = 64  # responses that a policy writes when it is measured


def simulate(
    objective: str | Loss | Objective,
    problem: Any = "adjacent_arms",
    *,
    policy: Any = "tabular",
    source: str | Source = "",
    steps: int = 1000,
    lr: float | Sequence[float] = 0.1,
    optimiser: str | Optimiser = "sgd",
    seeds: int | Sequence[int] = 1,
    marks: int | Sequence[int] = 50,
    max_grad_norm: float | None = None,
    view: Residual | None = None,
    dtype: str = "float64",
    jobs: int = 1,
    chunk: int | None = None,
    progress: bool = False,
    **hyper: Any,
) -> Trajectory:
    """Train a policy on a problem with an objective, for many seeds and settings at once.

    Args:
        objective: a name ("dpo"), a function, or `path/to/file.py:function`.
        problem: a name ("far") or a `Bandit`.
        policy: a name ("tabular", "features", "mlp") or a policy object.
        source: where the data comes from: "fixed", "reference", "policy", or a `Source`.
        steps: gradient steps.
        lr: learning rate, or several to be crossed with everything else.
        optimiser: "sgd", "adam", "rmsprop", or an optimiser object with its own settings.
        seeds: the seeds, or how many to take from 0 on. A seed names a run: its numbers are the
            same alone and in any batch, chunk, order and number of jobs.
        marks: how many steps to record, logarithmically spaced, or the steps themselves.
        max_grad_norm: largest norm of each run's gradient; longer ones are scaled down.
        view: how inputs are mixed for an objective with the residual view (`ift`).
        dtype: "float64" or "float32".
        jobs: processes to share the runs among.
        chunk: runs per chunk; chosen by size if not given.
        progress: whether to report on standard error how far the work is.
        **hyper: hyperparameters of the objective; a list is crossed with everything else.

    Returns:
        The trajectories of all runs: settings in the order given, seeds innermost.

    Raises:
        ToyalignError: for unknown names, a data source that the objective does not allow, a loss
            of the wrong shape, or numbers that make no sense.
    """
    card = get_objective(objective)
    world_maker = get_problem(problem)
    settings = card.settings({k: list(v) if isinstance(v, tuple) else v for k, v in hyper.items()})
    if steps < 1:
        raise ToyalignError(f"steps must be at least 1, not {steps}")
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if jobs < 1 or (chunk is not None and chunk < 1):
        raise ToyalignError("jobs and chunk must be at least 1")
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ToyalignError(f"max_grad_norm must be above 0, not {max_grad_norm}")
    runs, varied = grid(seed_list(seeds), list(lr) if isinstance(lr, tuple) else lr, settings)
    swept = any(isinstance(value, np.ndarray) for value in varied.values())
    plan = Plan(
        objective=card,
        problem=world_maker,
        policy=get_policy(policy),
        source=settled_source(source, card, world_maker),
        optimiser=get_optimiser(optimiser),
        steps=steps,
        marks=log_spaced(steps, marks),
        runs=runs,
        hyper=varied,
        max_grad_norm=max_grad_norm,
        view=settled_view(view, card),
        dtype=DTYPES[dtype],
    )
    count = len(runs["seed"])
    plan, row_count, numbers = _try_out(plan)
    plan = replace(plan, ghosts=_VECTOR if swept else -(-_VECTOR // row_count))
    size = chunk or chunk_size(numbers, plan.dtype)
    pieces = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    return gather(plan, pieces, map_chunks(train, plan, pieces, jobs, progress))


def train(plan: Plan, piece: slice) -> dict[str, Any]:
    """The method itself, for one chunk of runs. Returns the records, [mark, run, ...] each."""
    runs = list(range(*piece.indices(len(plan.runs["seed"]))))
    batch = runs + runs[-1:] * plan.ghosts
    streams = Streams(plan.runs["seed"][batch])
    world = plan.problem.world(streams, plan.dtype)
    hyper = columns(plan, batch)
    lr = torch.from_numpy(plan.runs["lr"][batch]).to(plan.dtype).unsqueeze(1)
    needs, loss_of = plan.objective.needs, plan.objective.fn

    theta = plan.policy.start(world, streams)
    first = theta.clone()
    world, reference, prompted = _scene(plan, world, first, first, streams)
    collector = Collector(plan.source, needs, world, reference, streams)
    state = plan.optimiser.state(theta)
    records = Records(plan, len(runs), world)

    rows = None
    for step in range(plan.steps + 1):
        if world.write is not None and step and collector.renews(step):
            author = theta if plan.source.origin == "policy" else first
            world, reference, prompted = _scene(plan, world, first, author, streams)
            collector.move(world, reference)
        leaf = theta.detach().requires_grad_()
        log_probs = plan.policy.log_probs(leaf, world)
        previous, rows = rows, collector.rows(step, log_probs.detach())
        if rows is not previous:
            fixed = constants(needs, rows, reference, world.actions, prompted)
            moving = [name for name in needs if name not in fixed]
        made = _scored(plan, moving, rows, leaf, log_probs, world, reference, streams, step)
        tensors = {**fixed, **made}
        loss = _checked(loss_of(**tensors, **hyper), plan, rows, len(batch))
        if step in plan.marks:
            with torch.no_grad():
                beyond = None
                if world.unseen_states is not None:
                    beyond = plan.policy.log_probs(theta, world, unseen=True)
                own = _measured(plan, world, theta, first, log_probs.detach(), reference, streams)
                alive = records.write(
                    step, reduce_rows(loss, rows), log_probs, tensors, rows, beyond, own
                )
            tick(step, plan.steps)
            if step == plan.steps or not alive:
                break
        # The gradient of the weighted sum over rows. Every run has its own parameters, so one
        # backward pass serves all runs and mixes none.
        (grad,) = torch.autograd.grad(loss, leaf, grad_outputs=weights(loss, rows).expand_as(loss))
        if plan.max_grad_norm is not None:
            grad = clip_per_run(grad, plan.max_grad_norm)
        plan.optimiser.step(theta, grad, lr, state, step)

    records.arrays["theta"] = theta[: len(runs)].numpy()
    records.arrays["queries"] = np.array([collector.queries(step) for step in plan.marks])
    return records.arrays


def _scored(
    plan: Plan,
    names: list[str],
    rows: Rows,
    theta: Tensor,
    log_probs: Tensor,
    world: World,
    reference: Tensor,
    streams: Streams,
    step: int = 0,
) -> dict[str, Tensor]:
    """The named tensors that the gradient flows to, or that compare policy and reference."""
    seen: dict[str, Tensor] = {}
    if plan.view is not None and world.sequential:
        tokens = plan.view.token_logps(plan.policy, theta, log_probs, world, rows, streams, step)
        seen = {"token_logps": tokens, "logps": tokens.sum(-1)}
    behind = [name for name in names if name.startswith("prompted_")]
    if behind:
        table = _prompted(plan, theta.detach(), world)
        seen |= from_table(behind, rows, log_probs if table is None else table, world.actions)
    rest = [name for name in names if name not in seen]
    looked_up = from_table(rest, rows, log_probs, world.actions, reference=reference)
    return {**looked_up, **{name: seen[name] for name in names if name in seen}}


def _prompted(plan: Plan, theta: Tensor, world: World) -> Tensor | None:
    """The policy's table behind a quality prompt, or None if that says nothing to it."""
    behind = getattr(plan.policy, "prompted", None)
    return None if behind is None else behind(theta, world)


def _scene(
    plan: Plan, world: World, first: Tensor, author: Tensor, streams: Streams
) -> tuple[World, Tensor, Tensor | None]:
    """The world, newly written where a policy writes it, and the reference's tables in it."""
    if world.write is not None and not hasattr(plan.policy, "write"):
        raise ToyalignError(
            f"policy {type(plan.policy).__name__.lower()} cannot write responses of its own, which "
            "this problem needs: try policy transformer"
        )
    with torch.no_grad():
        if world.write is not None and plan.source.origin != "fixed":
            groups, n = plan.source.prompts or world.groups, plan.source.responses
            world = world.write(plan.policy, author, groups, n, streams, "responses")
        return world, plan.policy.log_probs(first, world), _prompted(plan, first, world)


def _measured(
    plan: Plan,
    world: World,
    theta: Tensor,
    first: Tensor,
    log_probs: Tensor,
    reference: Tensor,
    streams: Streams,
) -> dict[str, Tensor]:
    """What the problem itself measures; of responses that the policy writes for this, if it can."""
    measure = getattr(plan.problem, "measure", None)
    if measure is None:
        return {}
    if world.write is not None:
        world = world.write(plan.policy, theta, _LOOKED_AT, 1, streams, "evaluation")
        log_probs, reference = (plan.policy.log_probs(t, world) for t in (theta, first))
    found: dict[str, Tensor] = measure(world, log_probs, reference)
    return found


def _checked(loss: Any, plan: Plan, rows: Rows, runs: int) -> Tensor:
    """Refuse a loss that has been reduced or broadcast, or that teaches nothing."""
    shape = tuple(getattr(loss, "shape", ()))
    tokens = 1 if rows.mask is None else rows.mask.shape[-1]
    if shape[:2] != (runs, rows.count) or shape[2:] not in ((), (tokens,)):
        raise ToyalignError(
            f"{plan.objective.name} returned shape {list(shape)}, but must return one value per "
            f"row, [run, row] = [{runs}, {rows.count}], or per token: take no mean and no sum"
        )
    if not loss.requires_grad:
        raise ToyalignError(
            f"{plan.objective.name} does not depend on the policy: nothing that it returns has a "
            "gradient (a detach too many?)"
        )
    return loss


def _try_out(plan: Plan) -> tuple[Plan, int, int]:
    """Take the first step of one run, so that mistakes show at once.

    Returns:
        The plan with a source that suits the world, the number of rows, and the largest number of
        entries that a tensor has per run.
    """
    streams = Streams(plan.runs["seed"][:1])
    world = plan.problem.world(streams, plan.dtype)
    plan = replace(plan, source=plan.source.in_world(world))
    theta = plan.policy.start(world, streams).requires_grad_()
    world, reference, prompted = _scene(plan, world, theta, theta, streams)
    log_probs, needs = plan.policy.log_probs(theta, world), plan.objective.needs
    rows = Collector(plan.source, needs, world, reference, streams).rows(0, reference)
    tensors = constants(needs, rows, reference, world.actions, prompted)
    moving = [name for name in needs if name not in tensors]
    tensors |= _scored(plan, moving, rows, theta, log_probs, world, reference, streams)
    _checked(plan.objective.fn(**tensors, **columns(plan, [0])), plan, rows, 1)
    sides = rows.count * max(1, len(rows.sides))
    widest = max(theta.shape[1], sides, *(tensor.numel() for tensor in tensors.values()))
    return plan, rows.count, widest
