"""Small tokenizers of the kinds that there are, each with a chat template made up here."""

from functools import lru_cache
from typing import Literal, get_args

import torch
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from sdlms.explorer.prompting import Prompting
from sdlms.models.chat import ChatTemplate
from sdlms.models.loading import find_model, load_tokenizer

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# No system role, strict alternation, another word for the assistant, BOS at the start.
STRICT = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system role here') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must\nalternate') }}{% endif %}"
    "{% if m.role == 'user' %}[Q] {{ m.content }} [/Q]{% else %} {{ m.content }}</s>{% endif %}"
    "{% endfor %}"
)
TEXTS = ["the lion and the cat are in the hall", "user system assistant Be kind.", "who is who? hi"]
Kind = Literal["byte-level", "trimmed", "metaspace", "legacy"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@lru_cache
def toy_tokenizer(kind: Kind) -> PreTrainedTokenizerBase:
    """A tokenizer without a chat template.

    byte-level: as GPT-2; trimmed: the same, whose offsets leave out spaces; metaspace and legacy:
    as SentencePiece, with a space before the first word of a text, or of every stretch of it.
    """
    made = {
        "byte-level": _byte_level,
        "trimmed": _byte_level,
        "metaspace": _sentence_piece,
        "legacy": _sentence_piece,
    }[kind](kind)
    specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    made.add_special_tokens([AddedToken(text, special=True) for text in specials])
    made.add_tokens([AddedToken("<think>", special=False), AddedToken("lion", special=False)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def with_template(kind: Kind, template: str | None) -> PreTrainedTokenizerBase:
    """A tokenizer with a chat template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=toy_tokenizer(kind).backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = template
    return tokenizer


def prompting_with(tokenizer: PreTrainedTokenizerBase, context: int = 512) -> Prompting:
    """How chats are written where the model is of no matter."""
    end_ids = frozenset([tokenizer.eos_token_id])
    return Prompting(tokenizer, ChatTemplate(tokenizer), context, end_ids)


@lru_cache
def embedded_tokenizer() -> PreTrainedTokenizerBase:
    """That of the embedded models."""
    return load_tokenizer(find_model("sdlms-small", None))


def tiny_neox(d_vocab: int, context: int) -> PreTrainedModel:
    """A random model: 2 layers, d_model 32."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=d_vocab,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=context,
        bos_token_id=0,
        eos_token_id=0,
    )
    return AutoModelForCausalLM.from_config(config).eval()


def _byte_level(kind: Kind) -> Tokenizer:
    """Every byte has a token, so every text has tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    if kind == "trimmed":
        from tokenizers import processors

        made.post_processor = processors.ByteLevel(trim_offsets=True)
    return made


def _sentence_piece(kind: Kind) -> Tokenizer:
    """Letters, a few merges, and bytes for all else."""
    words = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["▁", *"abcdefghijklmnopqrstuvwxyzBQ[]/.?", "▁t", "he", "▁the"]
    made = Tokenizer(
        models.BPE(
            {word: token_id for token_id, word in enumerate(words)},
            [("▁", "t"), ("h", "e"), ("▁t", "he")],
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    if kind == "legacy":
        prepend = normalizers.Prepend("▁")
        made.normalizer = normalizers.Sequence([prepend, normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return made
