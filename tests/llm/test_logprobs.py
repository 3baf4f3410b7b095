"""Token log-probabilities: the numbers of a plain log-softmax, without its memory."""

import pytest
import torch
from conftest import tiny

from toyalign.errors import ToyalignError
from toyalign.llm.logprobs import head_of, score, token_logps, unwrapped

GENERATOR = torch.Generator().manual_seed(0)


def drawn(rows=3, tokens=7, width=5, vocabulary=11, dtype=torch.float64):
    hidden = torch.randn(rows, tokens, width, generator=GENERATOR, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocabulary, width, generator=GENERATOR, dtype=torch.float64).to(dtype)
    targets = torch.randint(vocabulary, (rows, tokens), generator=GENERATOR)
    mask = (torch.rand(rows, tokens, generator=GENERATOR) < 0.6).long()
    return hidden, weight, targets, mask


def plain(hidden, weight, targets, mask, bias=None):
    log_probs = torch.log_softmax(torch.nn.functional.linear(hidden, weight, bias), -1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    taken = log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return taken * mask, entropy * mask


@pytest.mark.parametrize("chunk", [1, 4, 1000])
@pytest.mark.parametrize("biased", [False, True])
def test_chunks_give_the_plain_numbers_and_gradients(chunk, biased):
    hidden, weight, targets, mask = drawn()
    bias = torch.randn(11, generator=GENERATOR, dtype=torch.float64) if biased else None
    leaves = [t.clone().requires_grad_() for t in (hidden, weight)]
    found = token_logps(*leaves, targets, mask, bias=bias, chunk=chunk)
    others = [t.clone().requires_grad_() for t in (hidden, weight)]
    expected, entropy = plain(*others, targets, mask, bias)
    torch.testing.assert_close(found.logps, expected)
    torch.testing.assert_close(found.entropy, entropy.detach())
    push = torch.randn(3, 7, generator=GENERATOR, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad((push * found.logps).sum(), leaves),
        torch.autograd.grad((push * expected).sum(), others),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
    assert not found.entropy.requires_grad


def test_small_types_are_summed_in_float32():
    hidden, weight, targets, mask = drawn(dtype=torch.bfloat16)
    found = token_logps(hidden, weight, targets, mask)
    assert found.logps.dtype == torch.float32
    logits = torch.nn.functional.linear(hidden, weight).float()
    expected = torch.log_softmax(logits, -1).gather(-1, targets.unsqueeze(-1)).squeeze(-1) * mask
    torch.testing.assert_close(found.logps, expected, atol=1e-6, rtol=0)


def test_autocast_gives_the_gradients_of_its_own_forward_pass():
    hidden, weight, targets, mask = drawn(dtype=torch.float32)
    leaves = [hidden.requires_grad_(), weight.requires_grad_()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = token_logps(*leaves, targets, mask, chunk=1000).logps
        logits = torch.nn.functional.linear(*leaves)
    assert logits.dtype == torch.bfloat16 and found.dtype == torch.float32
    log_probs = torch.log_softmax(logits.float(), -1)
    expected = log_probs.gather(-1, targets.unsqueeze(-1)).squeeze(-1) * mask
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    for one, other in zip(
        torch.autograd.grad(found.sum(), leaves),
        torch.autograd.grad(expected.sum(), leaves),
        strict=True,
    ):  # to the eight bits of what is summed
        torch.testing.assert_close(one, other, atol=2**-8 * float(other.abs().max()), rtol=0)


def test_a_logit_of_minus_infinity_has_no_share_in_the_entropy():
    hidden, weight, targets, mask = drawn()
    bias = torch.zeros(11, dtype=torch.float64)
    bias[10] = -torch.inf
    found = token_logps(hidden, weight, targets % 10, mask, bias=bias)
    _, entropy = plain(hidden, weight[:10], targets % 10, mask)
    torch.testing.assert_close(found.entropy, entropy)


def test_the_entropy_can_be_left_out():
    hidden, weight, targets, mask = drawn()
    found = token_logps(hidden, weight, targets, mask, entropy=False)
    assert torch.equal(found.logps, token_logps(hidden, weight, targets, mask).logps)
    assert found.entropy.abs().sum() == 0


def test_no_more_logits_than_a_chunk_exist_at_once(monkeypatch):
    sizes = []
    linear = torch.nn.functional.linear

    def watched(states, weight, bias=None):
        sizes.append(len(states))
        return linear(states, weight, bias)

    monkeypatch.setattr(torch.nn.functional, "linear", watched)
    hidden, weight, targets, _ = drawn(rows=4, tokens=25)
    mask = torch.ones(4, 25).long()
    found = token_logps(hidden.requires_grad_(), weight, targets, mask, chunk=8)
    found.logps.sum().backward()  # computes them once more
    assert max(sizes) == 8 and sum(sizes) == 200


def test_nothing_wanted_is_zero_with_a_gradient():
    hidden, weight, targets, mask = drawn()
    found = token_logps(hidden.requires_grad_(), weight, targets, 0 * mask)
    assert found.logps.abs().sum() == 0
    assert torch.autograd.grad(found.logps.sum(), hidden)[0].abs().sum() == 0


def test_shapes_that_do_not_fit_are_named():
    hidden, weight, targets, mask = drawn()
    with pytest.raises(ToyalignError, match="do not belong together"):
        token_logps(hidden[:, 1:], weight, targets, mask)
    with pytest.raises(ToyalignError, match="chunk must be at least 1 token, not 0"):
        token_logps(hidden, weight, targets, mask, chunk=0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "gpt2"])
def test_models_are_scored_as_their_own_logits_say(kind, tied):
    model = tiny(kind, tied=tied).eval()
    ids = torch.randint(3, 48, (4, 9), generator=GENERATOR)
    completion = torch.zeros_like(ids)
    completion[:, 4:] = 1
    attention = torch.ones_like(ids)
    found, nothing = score(model, ids, attention, completion, chunk=3)
    logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1]
    expected = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    inside = completion[:, 1:].bool()
    torch.testing.assert_close(found.logps[inside], expected[inside], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.entropy[inside], entropy[inside], atol=1e-5, rtol=1e-5)
    assert (found.logps[~inside] == 0).all() and nothing is None
    # The head is its own again.
    assert model(input_ids=ids).logits.shape == (4, 9, 48)
    _, whole = score(model, ids, attention, completion, whole=True)
    torch.testing.assert_close(whole, torch.log_softmax(logits, -1), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("kind", ["gemma2", "granite", "cohere"])
def test_bent_logits_are_scored_from_all_of_them(kind):
    # A cap, a divisor and a factor: whatever its name, a model shows it at the first look.
    import transformers as t

    size = {
        "vocab_size": 48, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 2,
    }  # fmt: skip
    made = {
        "gemma2": (t.Gemma2ForCausalLM, t.Gemma2Config(final_logit_softcapping=0.5, **size)),
        "granite": (t.GraniteForCausalLM, t.GraniteConfig(logits_scaling=4.0, **size)),
        "cohere": (t.CohereForCausalLM, t.CohereConfig(logit_scale=0.25, **size)),
    }
    cls, config = made[kind]
    torch.manual_seed(0)
    model = cls(config).eval()
    with torch.no_grad():
        model.lm_head.weight *= 20  # far enough to be bent
    ids = torch.randint(3, 48, (2, 6), generator=GENERATOR)
    ones = torch.ones_like(ids)
    expected = torch.log_softmax(model(input_ids=ids).logits[:, :-1].float(), -1)
    for _ in range(2):  # the first look, and what it has learned
        found, _ = score(model, ids, ones, ones)
        taken = expected.gather(-1, ids[:, 1:, None]).squeeze(-1)
        torch.testing.assert_close(found.logps, taken, atol=1e-5, rtol=0)


def test_a_model_without_a_head_and_one_with_an_adapter_on_it_are_refused():
    from peft import LoraConfig, get_peft_model

    with pytest.raises(ToyalignError, match="LlamaModel has no language-model head"):
        head_of(tiny().model)
    adapted = get_peft_model(tiny(), LoraConfig(target_modules=["lm_head"], task_type="CAUSAL_LM"))
    with pytest.raises(ToyalignError, match="carries an adapter"):
        head_of(adapted)
    plain_adapter = get_peft_model(
        tiny(), LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    assert type(unwrapped(plain_adapter)).__name__ == "LlamaForCausalLM"


def test_gradients_of_chunks_are_summed_in_single_precision():
    # In bfloat16 a sum of hundreds of chunks would lose what is below a 256th of it.
    torch.manual_seed(0)
    weight = torch.randn(16, 8, dtype=torch.bfloat16)
    hidden = torch.randn(1, 400, 8, dtype=torch.bfloat16)
    targets, mask = torch.randint(16, (1, 400)), torch.ones(1, 400)
    found = []
    for chunk in (1, 400):
        leaf = weight.clone().requires_grad_()
        token_logps(hidden, leaf, targets, mask, chunk=chunk).logps.sum().backward()
        found.append(leaf.grad.float())
    # Each chunk's own product is rounded; the sum of 400 of them is not.
    assert (found[0] - found[1]).norm() < 0.01 * found[1].norm()
