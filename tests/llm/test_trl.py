"""Objectives in TRL's own trainers: TRL's numbers where TRL has the loss, ours where it has not."""

import tomllib
from pathlib import Path

import pytest
import torch
from conftest import ROWS, losses, tiny

from toyalign.errors import ToyalignError
from toyalign.llm import trl as adapter
from toyalign.llm.trl import with_objective

trl = pytest.importorskip("trl")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of TRL's own

SAID = [
    {"prompt": f"a b {i % 10}", "completion": " c d" + f" {i % 7} e" * (1 + i % 3)}
    for i in range(16)
]
LOGGED = {"rewards/margins", "rewards/accuracies", "logps/chosen", "logits/chosen", "entropy"}
OWN_LOSS = """
from toyalign.objectives import objective
def nll(token_logps):
    return -token_logps
def nll_of_rows(logps, mask):
    return -logps / mask.sum(-1)
def leaked(chosen_logps):
    return -chosen_logps.mean()
def of_tokens(chosen_token_logps):
    return -chosen_token_logps
@objective(advantage="mean")
def against_the_mean(logps, advantages):
    return -advantages * logps
@objective(advantage="raw")
def raw_rewards(logps, advantages):
    return -advantages * logps
"""


def adapted(rank=2):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    targets = {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    return get_peft_model(tiny(), LoraConfig(r=rank, **targets))


@pytest.fixture
def make(tokenizer, tmp_path, monkeypatch):
    """A trainer of TRL on a tiny model, with the settings of the other trainers' tests."""
    from datasets import Dataset

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kinds = {
        "dpo": (trl.DPOTrainer, trl.DPOConfig, ROWS),
        "sft": (trl.SFTTrainer, trl.SFTConfig, SAID),
        "grpo": (trl.GRPOTrainer, trl.GRPOConfig, [{"prompt": row["prompt"]} for row in ROWS]),
    }

    def made(kind="dpo", model=None, rows=None, **given):
        trainer, config, data = kinds[kind]
        settings = {
            "per_device_train_batch_size": 4, "max_steps": 4, "learning_rate": 1e-2,
            "logging_steps": 1, "report_to": [], "save_strategy": "no", "use_cpu": True,
            "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True,
            "lr_scheduler_type": "constant",
        }  # fmt: skip
        own = {}
        if kind == "grpo":
            settings |= {"num_generations": 4, "max_completion_length": 6}
            own["reward_funcs"] = lambda completions, **_: [
                float(sum(word in "a c e g".split() for word in text.split()))
                for text in completions
            ]
        else:
            settings["max_length"] = 32
        if kind == "dpo" and model is None and not given.get("precompute_ref_log_probs"):
            own["ref_model"] = tiny()
        own |= {name: given.pop(name) for name in ("eval_dataset",) if name in given}
        return trainer(
            model=tiny() if model is None else model,
            args=config(str(tmp_path / "trl"), **(settings | given)),
            train_dataset=Dataset.from_list(data if rows is None else rows),
            processing_class=tokenizer,
            **own,
        )

    return made


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN_LOSS)
    return lambda name: f"{tmp_path / 'own.py'}:{name}"


def trained(trainer):
    trainer.train()
    return trainer


def same_weights(one, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True)
    )


# --- pairs


@pytest.mark.parametrize("mode", ["full", "adapter", "precomputed", "accumulated"])
def test_dpo_is_trls_to_the_last_bit(make, mode):
    given = {
        "precomputed": {"precompute_ref_log_probs": True},
        "accumulated": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
    }.get(mode, {})
    theirs, ours = (make(model=adapted() if mode == "adapter" else None, **given) for _ in range(2))
    trained(theirs)
    trained(with_objective(ours, "dpo"))
    assert losses(ours) == losses(theirs) and len(losses(ours)) == 4
    assert losses(ours)[-1] < losses(ours)[0]
    assert same_weights(ours, theirs)
    for one, other in zip(ours.state.log_history[:4], theirs.state.log_history[:4], strict=True):
        assert set(one) == set(other) > LOGGED
        assert {k: one[k] for k in LOGGED} == {k: other[k] for k in LOGGED}


def test_dpop_is_that_of_our_own_trainer(make, train):
    ours = trained(with_objective(make(), "dpop", beta=0.3, lam=5))
    alone = train("dpop", hyper={"beta": 0.3, "lam": 5})
    assert losses(ours) == pytest.approx(losses(alone), abs=1e-6)
    found, expected = (t.state.log_history[3]["rewards/margins"] for t in (ours, alone))
    assert found == pytest.approx(expected, abs=1e-5)  # in units of the objective's beta


@pytest.mark.parametrize("objective", ["ld_dpo", "simpo", "bco", "unlikelihood"])
def test_losses_on_tokens_lengths_and_the_batch_are_those_of_our_own_trainer(
    make, train, objective
):
    ours = trained(with_objective(make(), objective))
    assert losses(ours) == pytest.approx(losses(train(objective)), abs=1e-5)


def test_accumulation_changes_nothing_but_rounding(make):
    whole = trained(with_objective(make(), "dpop"))
    split = make(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert losses(trained(with_objective(split, "dpop"))) == pytest.approx(losses(whole), abs=2e-6)


def test_evaluation_is_of_the_objective_and_trls_metrics_stay(make):
    from datasets import Dataset

    held_out = Dataset.from_list(ROWS[:4])
    trainer = make(eval_dataset=held_out)
    plain = make(eval_dataset=held_out).evaluate()
    found = with_objective(trainer, "hinge", beta=0.1).evaluate()
    assert found["eval_loss"] == pytest.approx(1) and plain["eval_loss"] == pytest.approx(0.6931472)
    assert found["eval_logps/chosen"] == plain["eval_logps/chosen"]
    batch = next(iter(trainer.get_eval_dataloader()))
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    assert loss.item() == pytest.approx(1) and outputs.logits.shape[0] == 8


# --- demonstrations


def test_sft_is_trls_where_all_answers_are_as_long(make):
    rows = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in ROWS]
    theirs = trained(make("sft", rows=rows))
    ours = trained(with_objective(make("sft", rows=rows), "sft"))
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-6)
    assert set(ours.state.log_history[0]) == set(theirs.state.log_history[0])


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("objective", ["nll", "dft"])
def test_losses_per_token_are_trls_whatever_the_lengths(make, own, objective, parts):
    given = {"per_device_train_batch_size": 4 // parts, "gradient_accumulation_steps": parts}
    theirs = trained(make("sft", loss_type=objective, **given))
    ours = make("sft", **given)
    trained(with_objective(ours, own("nll") if objective == "nll" else "dft"))
    assert losses(ours) == pytest.approx(losses(theirs), abs=1e-6)


def test_rows_weigh_alike_however_they_are_accumulated(make, own):
    whole = trained(with_objective(make("sft"), own("nll_of_rows")))
    split = make("sft", per_device_train_batch_size=2, gradient_accumulation_steps=2)
    assert losses(trained(with_objective(split, "sft"))) == pytest.approx(losses(whole), abs=2e-6)


@pytest.mark.parametrize("mode", ["adapter", "given"])
def test_a_reference_for_demonstrations(make, train, mode):
    model = adapted if mode == "adapter" else tiny
    reference = None if mode == "adapter" else tiny()
    trainer = with_objective(make("sft", model=model()), "minor_sft", reference=reference)
    alone = train("minor_sft", model=model(), rows=SAID, kind="demonstrations")
    assert losses(trained(trainer)) == pytest.approx(losses(alone), abs=1e-5)


# --- samples


GRPO = [  # objective, its hyperparameters, TRL's settings for it, settings of both
    ("grpo", {"beta": 0}, {"loss_type": "grpo"}, {}),
    ("dapo", {"clip_high": 0.2}, {}, {}),
    ("dr_grpo", {"max_length": 6}, {"loss_type": "dr_grpo"}, {"scale_rewards": "none"}),
    ("cispo", {"clip_high": 0.2}, {"loss_type": "cispo", "epsilon_high": 1.2}, {}),
]


@pytest.mark.parametrize("reuse", [{}, {"num_iterations": 2}, {"gradient_accumulation_steps": 2}])
@pytest.mark.parametrize(
    ("objective", "hyper", "theirs", "both"), GRPO, ids=[case[0] for case in GRPO]
)
def test_on_samples_the_losses_are_trls(make, objective, hyper, theirs, both, reuse):
    stock = trained(make("grpo", **theirs, **both, **reuse))
    ours = trained(with_objective(make("grpo", **both, **reuse), objective, **hyper))
    assert losses(ours) == pytest.approx(losses(stock), abs=1e-6)
    assert [e.get("reward") for e in ours.state.log_history] == [
        e.get("reward") for e in stock.state.log_history
    ]
    for one, other in zip(ours.model.parameters(), stock.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_grpo_with_its_kl_term_is_trls(make):
    both = {"beta": 0.04, "num_iterations": 2, "use_bias_correction_kl": False}
    stock = trained(make("grpo", adapted(), loss_type="grpo", **both))
    ours = trained(with_objective(make("grpo", adapted(), **both), "grpo"))
    assert losses(ours) == pytest.approx(losses(stock), abs=1e-6)
    assert [e.get("kl") for e in ours.state.log_history] == pytest.approx(
        [e.get("kl") for e in stock.state.log_history]
    )
    assert max(e.get("kl", 0) for e in ours.state.log_history) > 1e-4


def test_where_a_baseline_is_wanted_a_response_is_compared_with_the_others(make, own):
    given = {"scale_rewards": "none", "max_steps": 1}
    mean = trained(with_objective(make("grpo", **given), own("against_the_mean")))
    for objective in ("rloo", "reinforce"):
        others = trained(with_objective(make("grpo", **given), objective))
        assert losses(others)[0] == pytest.approx(losses(mean)[0] * 4 / 3, abs=1e-5)
        assert abs(losses(mean)[0]) > 1e-3
    kl = make("grpo", adapted(), beta=0.1, **given)
    assert abs(losses(trained(with_objective(kl, "reinforce_kl", beta=0.1)))[0]) > 1e-3


# --- every objective, and what is refused

REFUSED = {
    "xpo", "infonca", "offset_dpo", "sr_dpo", "sr_ipo", "wpo", "tdpo1", "tdpo2", "online_dpo",
    "online_ipo", "ift", "eaft", "gem", "asft", "minor_sft", "sft_kl", "best_of_n", "rwr",
}  # fmt: skip


def test_every_objective_has_a_finite_loss_or_is_refused(make):
    from toyalign.objectives import OBJECTIVES

    trainers = {
        "pairs": make(),
        "demonstrations": make("sft"),
        "samples": make("grpo"),
    }
    refused = set()
    for card in OBJECTIVES.values():
        if card.kind in trainers:
            trainer = trainers[card.kind]
            if card.kind == "samples":
                trainer.scale_rewards = "group" if card.advantage == "group" else "none"
                trainer.beta = card.hyper.get("beta", 0)
            try:
                with_objective(trainer, card)
            except ToyalignError:
                refused.add(card.name)
                continue
            if card.kind != "samples":
                batch = next(iter(trainer.get_train_dataloader()))
                loss = trainer.compute_loss(trainer.model, batch)
                assert torch.isfinite(loss) and loss.requires_grad, card.name
    assert refused == REFUSED


@pytest.mark.parametrize(
    ("kind", "given", "objective", "hyper", "said"),
    [
        ("dpo", {}, "dpoo", {}, "unknown objective 'dpoo'; did you mean 'dpo'"),
        ("dpo", {}, "dpo", {"bata": 1}, "unknown hyperparameter of dpo 'bata'"),
        ("dpo", {}, "sft", {}, "sft learns from demonstrations, and DPOTrainer from pairs; its"),
        ("sft", {}, "dpo", {}, "its place is DPOTrainer"),
        ("dpo", {}, "kto", {}, "kto learns from labelled, and DPOTrainer from pairs$"),
        ("dpo", {}, "tdpo2", {}, "tdpo2 asks for chosen_log_probs, .*which DPOTrainer does not h"),
        ("dpo", {}, "sr_dpo", {}, "sr_dpo asks for prompted_chosen_logps, prompted_rejected_logps"),
        ("dpo", {}, "infonca", {}, "infonca asks for chosen_rewards, rejected_rewards, which"),
        ("dpo", {}, "online_dpo", {}, "pairs that the policy writes as it trains, and DPOTrainer"),
        ("dpo", {"precompute_ref_log_probs": True}, "ld_dpo", {},
         r"ld_dpo asks for ref_chosen_token_logps.*\(precompute_ref_log_probs keeps sums"),
        ("dpo", {"loss_type": "ipo"}, "dpo", {}, r"loss_type=\['ipo'\] in the DPOConfig is of TRL"),
        ("dpo", {"beta": 0.5}, "dpo", {}, "beta=0.5 in the DPOConfig is of TRL's own loss"),
        ("dpo", {}, "dpo", {"reference": tiny()}, "DPOTrainer has a reference of its own"),
        ("sft", {}, "minor_sft", {}, r"asks for ref_logps, which SFTTrainer .*\(give it one, r"),
        ("sft", {}, "ift", {}, r"ift shows the model inputs of its own \(the residual view\)"),
        ("sft", {}, "eaft", {}, "eaft asks for log_probs, which SFTTrainer does not have$"),
        ("sft", {"loss_type": "dft"}, "sft", {}, "loss_type='dft' in the SFTConfig"),
        ("grpo", {}, "rwr", {}, "rwr asks for rewards, which GRPOTrainer does not have"),
        ("grpo", {}, "grpo", {}, r"grpo asks for ref_token_logps, .*\(with beta=0 in the GRPOCon"),
        ("grpo", {}, "reinforce", {}, "wants the advantage 'baseline': set scale_rewards='none'"),
        ("grpo", {"scale_rewards": "none"}, "dapo", {}, "'group': set scale_rewards='group'"),
        ("grpo", {"epsilon": 0.3}, "dapo", {}, "epsilon=0.3 in the GRPOConfig"),
        ("grpo", {"importance_sampling_level": "sequence"}, "dapo", {}, "'sequence' in the GR"),
    ],
)  # fmt: skip
def test_what_is_refused(make, kind, given, objective, hyper, said):
    trainer = make(kind, **given)
    before = vars(trainer).get("compute_loss")
    with pytest.raises(ToyalignError, match=said):
        with_objective(trainer, objective, **hyper)
    assert vars(trainer).get("compute_loss") is before is None


@pytest.mark.parametrize(
    ("kind", "objective", "setting", "value", "said"),
    [
        ("dpo", "dpo", "aux_loss_enabled", True, "TRL adds a load-balancing loss"),
        ("sft", "sft", "compute_loss_func", len, "compute_loss_func and sft are two losses"),
        ("sft", "sft", "args.packing", True, "packing=True in the SFTConfig"),
        ("sft", "sft", "args.padding_free", True, "padding_free=True in the SFTConfig"),
        ("grpo", "dapo", "args.use_vllm", True, "no place for vllm_importance_sampling_corr"),
        ("grpo", "raw_rewards", "scale_rewards", "none", "learns from raw rewards, and TRL hands"),
    ],
)
def test_settings_that_would_be_lost_are_refused(make, own, kind, objective, setting, value, said):
    trainer = make(kind)
    holder = trainer.args if setting.startswith("args.") else trainer
    setattr(holder, setting.removeprefix("args."), value)
    with pytest.raises(ToyalignError, match=said):
        with_objective(trainer, own(objective) if objective == "raw_rewards" else objective)


def test_betas_that_differ_are_refused_and_equal_ones_are_not(make):
    trainer = make("grpo", adapted(), beta=0.1)
    for objective, mine in (("grpo", 0.04), ("dapo", 0)):
        with pytest.raises(ToyalignError, match=f"beta is 0.1 in the GRPOConfig, and {mine} in "):
            with_objective(trainer, objective)
    with_objective(trainer, "grpo", beta=0.1)
    assert with_objective(make(beta=0.5), "dpop", beta=0.5).beta == 0.5


def test_losses_that_reduce_or_that_nobody_counts_are_refused(make, own):
    with pytest.raises(
        ToyalignError, match=r"leaked returned shape \[\], .*one value per row, \[1, 4"
    ):
        with_objective(make(), own("leaked")).train()
    with pytest.raises(ToyalignError, match="DPOTrainer does not count the tokens of a step"):
        with_objective(make(), own("of_tokens")).train()


def test_trainers_that_are_not_trls_are_refused(train):
    with pytest.raises(ToyalignError, match="AlignmentTrainer is none of TRL's DPOTrainer, SFT"):
        with_objective(train("dpo", max_steps=1), "dpo")


# --- what notices that TRL is another


def test_the_versions_are_those_of_the_extra():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    first, end = adapter.SUPPORTED
    assert project["project"]["optional-dependencies"]["trl"] == [f"trl>={first},<{end}"]


@pytest.mark.parametrize("version", ["1.15.0", "1.17.0", "1.17.0.dev0", "2.0"])
def test_other_versions_are_refused_by_name(make, monkeypatch, version):
    trainer = make()
    monkeypatch.setattr(adapter.metadata, "version", lambda name: version)
    with pytest.raises(
        ToyalignError, match=f"TRL {version} is installed, .*from 1.16 to before 1.17"
    ):
        with_objective(trainer, "dpo")


def test_a_trl_that_is_not_there_is_named(make, monkeypatch):
    def missing(name):
        raise adapter.metadata.PackageNotFoundError(name)

    trainer = make()
    monkeypatch.setattr(adapter.metadata, "version", missing)
    with pytest.raises(ToyalignError, match="TRL is not installed"):
        with_objective(trainer, "dpo")


def scaled(loss):
    return lambda *given, **named: 1.01 * loss(*given, **named)


def elsewhere(loss):
    def own(self, model, inputs, *_, **__):
        loss(self, model, inputs)
        return model(**{k: inputs[k] for k in ("input_ids", "attention_mask")}).logits.mean()

    return own


def without_a_forward(loss):
    return lambda self, model, inputs, *_, **__: next(model.parameters()).sum()


def renamed(loss):
    def own(self, model, inputs, *given, **named):
        found = loss(self, model, inputs, *given, **named)
        for name in ("completion_mask", "labels", "old_per_token_logps"):
            inputs.pop(name, None)
        return found

    return own


PLANTED = [
    ("dpo", "dpop", scaled, "its gradient has the norm .* and lies"),
    ("sft", "sft", scaled, "its gradient has the norm .* and lies"),
    ("grpo", "dapo", scaled, "its gradient has the norm .* and lies"),
    ("dpo", "dpop", elsewhere, "it does not depend on the log_probs"),
    ("sft", "sft", elsewhere, "it does not depend on the log_probs"),
    ("dpo", "dpop", without_a_forward, "its model returned no log_probs"),
    ("dpo", "dpop", renamed, "KeyError: 'completion_mask'"),
    ("sft", "sft", renamed, "KeyError: 'labels'"),
    ("grpo", "dapo", renamed, "KeyError: 'completion_mask'"),
]


@pytest.mark.parametrize(("kind", "objective", "planted", "said"), PLANTED)
def test_a_trl_that_changed_inside_trains_nothing(
    make, monkeypatch, kind, objective, planted, said
):
    trainer = with_objective(make(kind), objective)
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    monkeypatch.setattr(type(trainer), "compute_loss", planted(type(trainer).compute_loss))
    with pytest.raises(ToyalignError, match=f"of TRL .* does not compute its own loss .*{said}"):
        trainer.train()
    assert all(map(torch.equal, before, trainer.model.parameters()))


def test_old_log_probabilities_under_another_name_are_noticed_when_they_matter(make, monkeypatch):
    trainer = with_objective(make("grpo", num_iterations=2), "dapo")
    kind, name = type(trainer), "old_per_token_logps"
    generate, stock = kind._generate_and_score_completions, kind.compute_loss

    def generated(self, inputs):
        found = generate(self, inputs)
        return found | {"sampled": found.pop(name)}

    def own(self, model, inputs, *given, **named):
        return stock(self, model, {**inputs, name: inputs["sampled"]}, *given, **named)

    monkeypatch.setattr(kind, "_generate_and_score_completions", generated)
    monkeypatch.setattr(kind, "compute_loss", own)
    with pytest.raises(ToyalignError, match="its gradient has the norm"):
        trainer.train()
    assert trainer.state.global_step >= 1
