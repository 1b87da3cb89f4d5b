"""A plain Hugging Face model goes wherever a TransformerLens model goes, as it is."""

import copy
import sys
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch.testing import assert_close
from transformers.modeling_outputs import CausalLMOutput

import steerlens as sl
from steerlens.evaluate.compare import compare
from steerlens.evaluate.fluency import writing_cost
from steerlens.evaluate.sign_margin import sign_margin
from steerlens.methods.baselines.mean_difference import fit_mean_difference
from steerlens.methods.gist.distill import distil_prompt
from steerlens.models.adapters import HuggingFace, TransformerLens
from steerlens.models.decoding import habits
from steerlens.models.folders import find_model
from steerlens.models.hooks import adapter, check_site, convention, run_until
from steerlens.models.tokenization import encode_prompts
from steerlens.show.explorer.build import explore
from steerlens.values.training import Training
from tests.models.zoo import COMMON, copy_of, folder, random_steer, tiny_with, tokenizer, zoo

DATA = sl.toy.corpus("sentiment", n=60, seed=0)
PROMPTS = ["the film was", "it", "a very slow and"]
ONCE = Training(epochs=1, batch_size=16)


def hugging_face(name: str = "toy-64") -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(find_model(name)).eval()


@pytest.fixture(scope="module")
def model() -> Any:
    return hugging_face()


@pytest.fixture(scope="module")
def bridge() -> Any:
    return sl.load_model("toy-64")


@pytest.fixture(scope="module")
def joy(model) -> sl.Fit:
    return sl.fit_steer(sl.collect(model, DATA, progress=False), solver="closed-form", name="joy")


# ---- the same as through a bridge ----


def test_texts_begin_alike_through_both() -> None:
    """Also where begin and end are two tokens and the tokenizer adds neither, as SmolLM2's."""
    words = copy_of("fallback")
    assert words("it")["input_ids"][0] != words.bos_token_id != words.eos_token_id
    made = tiny_with(words)
    plain = sl.load_model(made.cfg.model_name, plain=True)
    assert convention(plain, sl.readout(plain)) == convention(made, sl.readout(made))
    assert convention(plain, sl.readout(plain)).bos


def test_a_user_says_whether_texts_begin_with_a_token(unchecked: None) -> None:
    model = hugging_face()
    words = HuggingFace(model).tokenizer
    begun, bare = (HuggingFace(model, words, prepend_bos=bos) for bos in (True, False))
    scores = [sl.score(m, ["it was good ."]) for m in (HuggingFace(model, words), begun, bare)]
    assert scores[0].equals(scores[1])
    # without one nothing comes before the first token, and the others follow what a user gave
    ids = torch.tensor([words("it was good .", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        own = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    assert_close(torch.tensor(scores[2].log_prob.to_numpy())[:-1], own, rtol=1e-4, atol=1e-4)
    assert len(scores[2]) == len(scores[1]) - 1
    with pytest.raises(ValueError, match="prepend_bos: got 'no', expected True, False"):
        HuggingFace(model, words, prepend_bos="no")  # pyright: ignore[reportArgumentType]


def test_layers_that_round_by_tensor_are_no_encoder() -> None:
    """Their scale is one for all tokens of a batch, so that a later one moves those before it by
    as much as they round."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder("llama", 0)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch speaks of its successor
        torch.ao.quantization.quantize_dynamic(
            model.model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True
        )
    assert sl.readout(model).d_vocab == model.config.vocab_size


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "cohere"])
def test_a_plain_model_is_the_bridge_of_it_to_rounding(name: str) -> None:
    plain, bridge = sl.load_model(folder(name), plain=True), zoo(name)
    on, other = sl.readout(plain), sl.readout(bridge)
    assert on.digest == other.digest and on.tokens == other.tokens and on.special == other.special
    assert (on.scale, on.softcap, on.model_id) == (other.scale, other.softcap, other.model_id)
    assert convention(plain, on) == convention(bridge, other)
    steer, texts = random_steer(plain), ["the film was good .", "nothing", "a very fine cast"]
    tables = [sl.score(m, texts, steer, strengths=(0.0, 1.5)) for m in (plain, bridge)]
    assert tables[0].log_prob.std() > 0.1
    assert tables[0].log_prob.to_numpy() == pytest.approx(tables[1].log_prob.to_numpy(), abs=1e-4)
    drawn = [
        sl.generate(m, PROMPTS, steer, strengths=(-1, 0, 1), samples=2, seed=3, max_new_tokens=6)
        for m in (plain, bridge)
    ]
    assert drawn[0].drop(columns="log_prob").equals(drawn[1].drop(columns="log_prob"))


def test_kl_between_plain_and_bridge_is_rounding(model, bridge) -> None:
    tokens = torch.randint(1, 1000, (4, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        p, q = (torch.log_softmax(z.double(), -1) for z in (model(tokens).logits, bridge(tokens)))
    kl = (p.exp() * (p - q)).sum(-1)
    flat = (p.exp() * (p + torch.log(torch.tensor(float(p.shape[-1]))))).sum(-1)
    assert float(kl.abs().max()) < 1e-8 < 1 < float(flat.mean())


def test_every_fit_gives_what_it_gives_on_the_bridge(model, bridge, joy) -> None:
    other = sl.fit_steer(sl.collect(bridge, DATA, progress=False), solver="closed-form").value
    assert_close(joy.value.W, other.W, rtol=1e-3, atol=1e-4)
    fits = [
        (sl.fit_reft(m, DATA, training=ONCE, rank=2, progress=False).value.R,
         sl.fit_prompt(m, DATA, length=2, training=ONCE, progress=False).report.heldout.steered,
         sl.fit_prompt(m, DATA, length=2, kind="deep", training=ONCE, progress=False).report.heldout.steered,
         fit_mean_difference(m, DATA).vector)
        for m in (model, bridge)
    ]  # fmt: skip
    for plain, through in zip(*fits, strict=True):
        assert_close(torch.as_tensor(plain), torch.as_tensor(through), rtol=2e-3, atol=2e-3)


def test_a_steer_goes_from_one_to_the_other_and_to_a_file(model, bridge, joy, tmp_path) -> None:
    path = sl.save(joy, tmp_path / "joy.safetensors")
    for other in (bridge, model, HuggingFace(model)):
        assert torch.equal(sl.load(path, other).W, joy.value.W)
        with sl.steered(other, joy):
            pass
    larger = hugging_face("toy-128")
    moved = sl.transfer(joy.value, larger)
    assert moved.readout.d_model == 128
    with sl.steered(larger, moved), pytest.raises(ValueError, match="transfer"):
        sl.generate(larger, PROMPTS, joy)


def test_what_evaluates_takes_it_too(model, bridge, joy) -> None:
    written = sl.generate(model, PROMPTS, joy, strengths=(0, 2), max_new_tokens=5)

    def values(m: Any) -> list[Any]:
        tables = (
            compare(m, {"joy": joy}, DATA[:30], kl=0.05),
            writing_cost(m, written),
            sl.infer_strength(m, joy.value, ["the film was good ."]).table,
            sl.classify(m, joy.value, DATA[:30], DATA[40:60]),
        )
        numbers = [table.select_dtypes("number").to_numpy() for table in tables]
        return [*numbers, sign_margin(m, DATA[:30], joy).sign_margin]

    for plain, through in zip(values(model), values(bridge), strict=True):
        assert plain == pytest.approx(through, rel=1e-2, abs=1e-3, nan_ok=True)


def test_a_prompt_is_distilled_and_a_steer_explored_as_on_the_bridge(model, bridge, joy) -> None:
    tables, pages = zip(
        *((distil_prompt(m, "the film was", DATA.texts[:8], length=2, training=ONCE, progress=False).table,
           explore(m, {"joy": joy}, ["it was"], strengths=(-1, 0, 1), max_new_tokens=4).exploration)
          for m in (model, bridge)),
        strict=True,
    )  # fmt: skip
    columns = ["kl", "gap_closed"]
    assert tables[0].way.equals(tables[1].way) and tables[0].kl.max() > 0.01
    assert tables[0][columns].to_numpy() == pytest.approx(tables[1][columns].to_numpy(), abs=2e-3)
    assert pages[0].stops == pages[1].stops and pages[0].prompts == pages[1].prompts
    texts = [["".join(text.pieces) for text in page.written] for page in pages]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1


# ---- around transformers' own generate ----


@pytest.mark.parametrize("beams", [1, 3])
def test_steered_is_in_force_in_transformers_own_generate(model, joy, beams: int) -> None:
    words = adapter(model).tokenizer
    ids = encode_prompts(words, ["the film was"], convention(model, sl.readout(model)))
    prompt = {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(1, len(ids[0]))}
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
    before = model.generate(**prompt, **options)
    with sl.steered(model, joy, -3.0):
        under = model.generate(**prompt, **options)
    after = model.generate(**prompt, **options)
    assert torch.equal(before, after) and not torch.equal(before, under)
    if beams == 1:
        ours = sl.generate(
            model, ["the film was"], joy, strengths=-3.0, temperature=0, max_new_tokens=6
        )
        text = words.decode(under[0][prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert ours.text[0].strip() == text.strip()


def test_nothing_of_the_model_changes(model, joy) -> None:
    def all_of_it() -> list[Any]:
        return [
            [sorted(vars(m)) for m in model.modules()],
            [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
            {name: t.clone() for name, t in model.state_dict().items()},
            model.config.to_dict(),
            [p.requires_grad for p in model.parameters()],
        ]

    before = all_of_it()
    sl.generate(model, PROMPTS, joy, strengths=(0, 2), max_new_tokens=3)
    sl.fit_reft(model, DATA[:20], training=ONCE, rank=1, progress=False)
    with pytest.raises(KeyboardInterrupt), sl.steered(model, joy):
        raise KeyboardInterrupt
    after = all_of_it()
    numbers, again = before.pop(2), after.pop(2)
    assert before == after
    assert all(torch.equal(numbers[name], again[name]) for name in numbers)


def test_transformer_lens_has_no_part_in_it(joy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "transformer_lens"]:
        monkeypatch.setitem(sys.modules, name, None)  # importing it is an error now
    with pytest.raises(ImportError):
        sl.load_model("toy-64")
    model = sl.load_model("toy-64", plain=True)
    assert sl.collect(model, ["it was good ."], progress=False).n_positions == 5
    assert len(sl.generate(model, ["it"], joy, max_new_tokens=2)) == 1


# ---- model and tokenizer ----


def test_the_tokenizer_is_read_where_the_model_came_from_or_is_given() -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder("gpt2"))
    assert len(adapter(model).tokenizer) == len(tokenizer("bytes"))
    fresh = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=330, n_positions=40)
    made = transformers.AutoModelForCausalLM.from_config(fresh)
    assert sl.readout(made).tokens[:3] == ("0", "1", "2")  # without names, steers live on it
    with pytest.raises(ValueError, match=r"no tokenizer.*HuggingFace\(model, tokenizer\)"):
        sl.collect(made, ["the film"])
    named = sl.models.HuggingFace(made, tokenizer("bytes"))
    assert sl.readout(named).same_as(sl.readout(made))
    assert sl.collect(named, ["the film was good"], progress=False).n_positions > 3


@pytest.mark.parametrize("name", ["toy-64", "toy-96-llama"])
def test_hooks_are_named_as_in_transformer_lens_and_see_the_same(name: str) -> None:
    model, bridge = hugging_face(name), sl.load_model(name)
    tokens = torch.randint(1, 300, (2, 6), generator=torch.Generator().manual_seed(0))
    names = adapter(model).hook_names
    assert {"hook_embed", "unembed.hook_in"} <= set(names) <= set(bridge.hook_dict)
    assert sum(name.startswith("blocks.") for name in names) == 2 * adapter(bridge).n_layers
    with torch.no_grad():
        for site in names:
            found, expected = (
                run_until(m, site, tokens, torch.ones_like(tokens)) for m in (model, bridge)
            )
            assert found.std() > 0.01
            assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_hooks_inside_a_layer_are_refused_by_name(model) -> None:
    with pytest.raises(
        KeyError, match=r"GPT2LMHeadModel.*'blocks.0.attn.hook_k'.*TransformerLens'"
    ):
        check_site(model, "blocks.0.attn.hook_k")
    with pytest.raises(KeyError, match=r"attn\.hook_k"):
        sl.fit_prompt(model, DATA, length=2, kind="kv", training=ONCE, progress=False)


def test_what_is_no_causal_language_model_is_refused_by_name(model) -> None:
    config = model.config
    refused = {
        "GPT2Model has no output embedding.*AutoModelForCausalLM": transformers.GPT2Model(config),
        "GPT2ForSequenceClassification has no output": transformers.GPT2ForSequenceClassification(
            config
        ),
        "T5ForConditionalGeneration reads with an encoder": transformers.T5ForConditionalGeneration(
            transformers.T5Config(d_model=16, d_ff=16, num_layers=1, num_heads=2, vocab_size=50)
        ),
    }
    for said, made in refused.items():
        with pytest.raises(ValueError, match=said):
            sl.readout(made)
    for dtype in (torch.int8, torch.float8_e4m3fn):
        quantised = hugging_face()
        quantised.lm_head = torch.nn.Linear(64, 1286, bias=False)
        quantised.lm_head.weight = torch.nn.Parameter(torch.zeros(1286, 64).to(dtype), False)
        with pytest.raises(ValueError, match=rf"output embedding.*{dtype}.*quantisation"):
            sl.readout(quantised)
    with pytest.raises(ValueError, match="both are True"):
        sl.load_model("toy-64", hooked=True, plain=True)


@pytest.mark.parametrize(
    ("levels", "codes", "causal"), [(32, True, True), (32, False, False), (4, True, False)]
)
def test_layers_coarser_than_the_head_may_round_by_what_a_batch_holds(
    levels: int, codes: bool, causal: bool
) -> None:
    """As 8-bit layers of bitsandbytes do, whose rounding hangs on all tokens; what moves more is no
    rounding, and neither is anything in layers of float32."""

    def rounded(_: torch.nn.Module, given: Any, made: torch.Tensor) -> torch.Tensor:
        step = made.abs().mean() / levels
        return (made / step).round() * step

    made = hugging_face()
    for block in made.transformer.h:
        block.mlp.register_forward_hook(rounded)
        if codes:
            weight = torch.nn.Parameter(torch.zeros(1, dtype=torch.int8), requires_grad=False)
            block.mlp.register_parameter("codes", weight)
    if causal:
        sl.readout(made)
        return
    with pytest.raises(ValueError, match="not causal: another last token moves"):
        sl.readout(made)


class Adapted(torch.nn.Module):
    """A head with something beside its weight, as peft puts it there."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base, self.weight = base, base.weight
        self.lora_A = torch.nn.Linear(base.in_features, base.out_features, bias=False)

    def forward(self, c: torch.Tensor) -> torch.Tensor:
        return self.base(c) + self.lora_A(c)


def test_what_stands_between_the_heads_weight_and_the_logits_is_named() -> None:
    adapted, normed, parametrised = hugging_face(), hugging_face(), hugging_face()
    adapted.set_output_embeddings(Adapted(adapted.lm_head))
    with pytest.raises(ValueError, match=r"not merged \(lora_A\).*merge_and_unload"):
        sl.readout(adapted)
    torch.nn.utils.spectral_norm(normed.lm_head)
    with pytest.raises(
        ValueError, match=r"anew in every pass \(SpectralNorm.*remove_spectral_norm"
    ):
        sl.readout(normed)
    torch.nn.utils.remove_spectral_norm(normed.lm_head)  # as the message says
    torch.nn.utils.parametrizations.spectral_norm(parametrised.lm_head)
    for model in (normed, parametrised):
        assert sl.readout(model.eval()).d_model == 64


@pytest.mark.parametrize("first", [torch.float32, torch.bfloat16])
def test_a_steer_on_a_copy_of_another_dtype_is_refused_by_that_name(first, tmp_path) -> None:
    single = transformers.AutoModelForCausalLM.from_pretrained(folder("gpt2"))
    half = copy.deepcopy(single).to(torch.bfloat16)
    home, other = (single, half) if first == torch.float32 else (half, single)
    steer, name = random_steer(home), str(first).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"dtype {first}.*dtype='{name}'.*export\.rebase"):
        sl.generate(other, PROMPTS, steer)
    with pytest.raises(ValueError, match=rf"had the dtype {name}.*dtype='{name}'"):
        sl.load(sl.save(steer, tmp_path / "x.safetensors"), other)
    bound = sl.export.rebase(steer, other)  # as the message says
    assert len(sl.generate(other, PROMPTS, bound, max_new_tokens=2)) == 3
    exact = copy.deepcopy(half).to(
        torch.float32
    )  # every number of a bfloat16 model is one of float32
    with sl.steered(exact, random_steer(half)):
        pass


def test_texts_are_read_up_to_the_length_at_which_long_rope_turns_all_otherwise() -> None:
    words = tokenizer("bytes")
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "factor": 8.0}
    rope |= {"long_factor": [4.0] * 4, "original_max_position_embeddings": 16}
    config = transformers.Phi3Config(
        vocab_size=len(words), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=128, original_max_position_embeddings=16, rope_parameters=rope,
        initializer_range=0.3, **COMMON,
    )  # fmt: skip
    torch.manual_seed(0)
    model = HuggingFace(transformers.AutoModelForCausalLM.from_config(config).eval(), words)
    short, long = "the film", " ".join(["the film was good ."] * 5)
    bridge = SimpleNamespace(cfg=SimpleNamespace(n_ctx=128), original_model=model.model)
    assert adapter(model).n_ctx == TransformerLens(bridge).n_ctx == 16
    assert len(words(long)["input_ids"]) > 16
    alone = sl.score(model, [short]).log_prob.to_numpy()
    with pytest.warns(UserWarning, match="longer than the model's context, 16 tokens"):
        both = sl.score(model, [short, long])
    assert both[both.text == 0].log_prob.to_numpy() == pytest.approx(alone, abs=1e-4)
    with pytest.raises(ValueError, match="the context is 16"):
        sl.generate(model, [short, long])


def with_forward(last: Callable[[Any, torch.Tensor], Any]) -> Any:
    """A Llama whose own forward ends in another way."""

    class Mine(transformers.LlamaForCausalLM):
        def forward(self, input_ids: Any = None, attention_mask: Any = None) -> Any:
            return last(self, self.model(input_ids, attention_mask).last_hidden_state)

    return Mine.from_pretrained(find_model("toy-96-llama")).eval()


def test_a_forward_that_hands_over_no_logits_by_name_is_refused() -> None:
    ends: dict[str, Callable[[Any, torch.Tensor], Any]] = {
        "tuple": lambda model, h: (model.lm_head(h),),
        "Tensor": lambda model, h: model.lm_head(h),
        "dict": lambda model, h: {"logits": model.lm_head(h)},
    }
    for kind, last in ends.items():
        with pytest.raises(ValueError, match=rf"Mine returned a {kind} without `\.logits`"):
            sl.readout(HuggingFace(with_forward(last)))
    weight = lambda model, h: CausalLMOutput(logits=h @ model.lm_head.weight.T)  # noqa: E731
    with pytest.raises(ValueError, match="Mine .*does not come by its output embedding"):
        sl.readout(HuggingFace(with_forward(weight)))


def test_a_head_that_is_called_by_name_is_steered_too() -> None:
    named = HuggingFace(with_forward(lambda m, h: CausalLMOutput(logits=m.lm_head(input=h))))
    model, tokens = hugging_face("toy-96-llama"), torch.tensor([[3, 4, 5]])
    with torch.no_grad(), sl.steered(model, random_steer(HuggingFace(model)), 2.0):
        expected = model(tokens).logits
    with torch.no_grad(), sl.steered(named, random_steer(named), 2.0):
        assert_close(named.model(tokens).logits, expected)


def test_a_forward_that_needs_more_than_text_is_refused_by_name(model) -> None:
    class Sees(transformers.GPT2LMHeadModel):
        def forward(self, pixel_values: Any, input_ids: Any = None, **given: Any) -> Any:
            return super().forward(input_ids, **given)

    with pytest.raises(
        ValueError, match="Sees cannot read text alone, its forward needs pixel_values"
    ):
        sl.readout(Sees(transformers.GPT2Config(n_embd=8, n_head=2, n_layer=1)))


@pytest.mark.parametrize("given", ["toy-64", 3])
def test_what_is_no_tokenizer_is_refused_at_once(model, given: Any) -> None:
    raw = tokenizer("bytes").backend_tokenizer
    for wrong in (given, raw):
        with pytest.raises(
            ValueError, match=f"tokenizer: got {type(wrong).__name__}, expected one"
        ):
            HuggingFace(model, wrong)


def test_layers_that_were_cut_off_are_no_layers_any_more() -> None:
    model = HuggingFace(hugging_face("toy-96-llama"))
    n = len(model.blocks)
    model.model.model.layers = model.model.model.layers[:-1]
    model.model.config.num_hidden_layers = n - 1
    assert len(model.blocks) == model.n_layers == n - 1
    check_site(model, f"blocks.{n - 2}.hook_resid_post")
    with pytest.raises(KeyError, match="has no hook"):
        check_site(model, f"blocks.{n - 1}.hook_resid_post")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_small_adapter_on_the_head_is_named_in_any_dtype(dtype: torch.dtype) -> None:
    made = hugging_face().to(dtype)
    head = Adapted(made.lm_head).to(dtype)
    made.set_output_embeddings(head)
    with torch.no_grad():
        head.lora_A.weight.zero_()
        assert sl.readout(made).d_model == 64  # it changes no bit
        head.lora_A.weight.copy_(made.lm_head.weight).mul_(0.02)
    with pytest.raises(ValueError, match="not merged"):
        sl.readout(made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.02, 1.0, 0.5])
def test_a_scale_near_one_is_told_from_one(dtype: torch.dtype, scale: float) -> None:
    config = transformers.CohereConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, logit_scale=scale,
    )  # fmt: skip
    torch.manual_seed(0)
    made = transformers.CohereForCausalLM(config).eval().to(dtype)
    assert sl.readout(HuggingFace(made, tokenizer("bytes"))).scale == scale


@pytest.mark.parametrize("width", [16, 128])
def test_layers_of_text_are_found_beside_as_many_of_pictures(width: int) -> None:
    text = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512,
    }  # fmt: skip
    vision = transformers.CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_hidden_layers=2, num_attention_heads=4,
        image_size=16, patch_size=8,
    )  # fmt: skip
    config = transformers.LlavaConfig(
        vision_config=vision, text_config=transformers.LlamaConfig(**text), image_token_index=511
    )
    made = HuggingFace(
        transformers.LlavaForConditionalGeneration(config).eval(), tokenizer("bytes")
    )
    assert len(made.hook_names) == 7


class HandsOn(transformers.GPT2LMHeadModel):
    """A forward that hands on whatever it is given, as wrappers and patches do."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)


def test_a_forward_that_hands_on_its_arguments_keeps_its_cache() -> None:
    plain = hugging_face()
    made = HandsOn(plain.config).eval()
    made.load_state_dict(plain.state_dict())
    words = adapter(plain).tokenizer
    assert habits(HuggingFace(made, words)) == habits(HuggingFace(plain, words))
    assert habits(HuggingFace(made, words)).caches


def test_weights_that_are_not_finite_are_called_so() -> None:
    made = hugging_face()
    with torch.no_grad():
        made.transformer.ln_f.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="logits of .* are NaN or infinite"):
        sl.readout(made)


def test_tokens_without_an_embedding_are_named() -> None:
    made = hugging_face()
    with torch.no_grad():
        made.lm_head.weight[[-3, -1]] = torch.nan
    with pytest.raises(
        ValueError, match="embeddings of 2 tokens are NaN or infinite, the first is token"
    ):
        sl.readout(made)


def test_a_bias_that_forbids_a_token_is_named() -> None:
    made = hugging_face()
    bias = torch.zeros(made.lm_head.out_features)
    bias[[3, 5]] = -torch.inf
    made.lm_head.bias = torch.nn.Parameter(bias)
    with pytest.raises(ValueError, match="bias of its unembedding is not finite at 2 tokens"):
        sl.readout(made)


def test_layers_are_found_in_train_mode_and_nothing_is_drawn() -> None:
    """Dropout would draw from the user's generator, and a model that drops whole layers would be
    taken for one without any."""
    size = {"hidden_size": 16, "ffn_dim": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 2}
    config = transformers.OPTConfig(
        vocab_size=40, num_attention_heads=2, layerdrop=1.0, dropout=0.5, **size
    )
    model = HuggingFace(transformers.OPTForCausalLM(config).train())
    before = torch.get_rng_state()
    assert len(model.blocks) == model.n_layers == 2
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.model.modules())


def test_what_was_found_out_is_asked_anew_once_the_model_is_another() -> None:
    """Its layers say where in the cache they write, so that a cache is wrong once the first is gone."""
    prompts = ["it was", "the film"]
    writing: dict[str, Any] = {"max_new_tokens": 6, "temperature": 0.0}
    used, fresh = (HuggingFace(hugging_face("toy-96-llama")) for _ in range(2))
    before = sl.generate(used, prompts, **writing)
    for model in (used, fresh):
        model.model.model.layers = model.model.model.layers[1:]
    found, expected = (sl.generate(model, prompts, **writing) for model in (used, fresh))
    assert found.text.tolist() == expected.text.tolist() != before.text.tolist()
    assert found.log_prob.tolist() == pytest.approx(expected.log_prob.tolist(), rel=1e-5)
    assert not habits(used).caches
    used.model.config.is_causal = False
    with pytest.raises(ValueError, match="is not causal"):
        sl.score(used, prompts)


@pytest.mark.parametrize("shared", ["layers dropped", "a copy"])
def test_a_model_whose_layers_were_not_looked_for_is_steered(shared: str) -> None:
    model = hugging_face("toy-96-llama")
    steer = random_steer(model)
    if shared == "a copy":
        model = copy.copy(model)
    else:
        model.model.layers = model.model.layers[:1]
        model.config.num_hidden_layers = 1
    ids = torch.tensor([[5, 9, 7]])
    with torch.no_grad():
        plain = model(ids).logits
        with sl.steered(model, steer, 2.0):
            steered = model(ids).logits
        h = model.model(ids).last_hidden_state
        expected = model.lm_head(h + 2 * h @ steer.W)
    assert_close(steered, expected, atol=1e-4, rtol=1e-4)
    assert (steered - plain).abs().max() > 0.1
