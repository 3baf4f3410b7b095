"""Small models and tokenizers, made on the spot."""

import pytest
import torch

WORDS = "a b c d e f g h i j k l m n o p q r 0 1 2 3 4 5 6 7 8 9 + = ; user assistant"
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' </s> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)
OWN = ("hyper", "reference", "chunk", "eval_dataset", "on_policy", "precompute", "view",
       "callbacks")  # fmt: skip
ROWS = [
    {"prompt": f"a b {i % 10}", "chosen": f" c d {i % 7} e f", "rejected": f" c d {(i + 3) % 7} g"}
    for i in range(16)
]


@pytest.fixture(scope="session")
def tokenizer():
    """One word, one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.train_from_iterator(
        [WORDS], trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>", "</s>"])
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        chat_template=TEMPLATE,
    )


def tiny(kind="llama", seed=0, tied=False, dtype=torch.float32):
    """A causal language model of about ten thousand parameters."""
    import transformers as t

    shared = {"vocab_size": 48, "tie_word_embeddings": tied, "pad_token_id": 2}
    common = {
        **shared, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64,
    }  # fmt: skip
    small = {**shared, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    made = {
        "llama": (t.LlamaForCausalLM, lambda: t.LlamaConfig(**common)),
        "mistral": (t.MistralForCausalLM, lambda: t.MistralConfig(**common)),
        "qwen2": (t.Qwen2ForCausalLM, lambda: t.Qwen2Config(**common)),
        "gpt2": (t.GPT2LMHeadModel, lambda: t.GPT2Config(**small)),
    }
    cls, config = made[kind]
    torch.manual_seed(seed)
    return cls(config()).to(dtype)


@pytest.fixture
def train(tokenizer, tmp_path):
    """Train a tiny model on the rows, and return the trainer."""
    from transformers import TrainingArguments

    from toyalign.llm.data import prepare
    from toyalign.llm.trainer import AlignmentTrainer

    def run(objective="dpo", model=None, rows=ROWS, kind="pairs", resume=None, quality="", **given):
        arguments = {
            "per_device_train_batch_size": 4, "max_steps": 4, "learning_rate": 1e-2,
            "logging_steps": 1, "report_to": [], "save_strategy": "no", "use_cpu": True,
            "disable_tqdm": True, "lr_scheduler_type": "constant",
        }  # fmt: skip
        own = {k: given.pop(k) for k in list(given) if k in OWN}
        arguments |= given
        folder = arguments.pop("output_dir", tmp_path / "run")
        examples, _ = prepare(rows, tokenizer, kind, max_length=32, quality=quality)
        trainer = AlignmentTrainer(
            tiny() if model is None else model,
            objective,
            args=TrainingArguments(str(folder), **arguments),
            train_dataset=examples,
            processing_class=tokenizer,
            **own,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def losses(trainer):
    """The logged losses."""
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
