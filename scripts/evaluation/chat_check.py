"""Whether a chat turn answers in kind: a fact with its answer, thanks with a farewell."""

import re
from collections.abc import Mapping, Sequence

import torch
from corpus.prompts import FAREWELLS
from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

from evaluation.embedded_text import Record, prompts_of
from evaluation.intervals import Interval, wilson
from evaluation.losses import END
from evaluation.report import Criterion, Section

BATCH = 50
MAX_NEW_TOKENS = 24
MIN_IN_KIND = 0.5
DEFAULT_MODEL = "sdlms-medium"
N_SHOWN = 4
END_OF_REPLY = re.compile(r"\n|User:|<\|endoftext\|>")


def reply_in(text: str) -> str:
    """What was generated, up to the first end of line, end of text or turn of the user."""
    return END_OF_REPLY.split(text)[0].strip()


def in_kind(reply: str, expected: Sequence[str]) -> bool:
    """Whether a reply holds one of the expected words or phrases, in any case."""
    words = "|".join(map(re.escape, expected))
    return re.search(rf"(?<!\w)(?:{words})(?!\w)", reply, re.IGNORECASE) is not None


@torch.no_grad()
def replies_of(
    model: GPTNeoXForCausalLM, tokenizer: PreTrainedTokenizerFast, chats: Sequence[Record]
) -> list[str]:
    """The greedy reply to each chat, each begun by an end-of-text token as in training."""
    replies = []
    for start in range(0, len(chats), BATCH):
        prompts = [
            tokenizer.apply_chat_template(
                chat["messages"], add_generation_prompt=True, tokenize=False
            )
            for chat in chats[start : start + BATCH]
        ]
        rows = [torch.tensor([END, *ids]) for ids in tokenizer(prompts)["input_ids"]]
        ids = torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=END, padding_side="left"
        )
        real = torch.nn.utils.rnn.pad_sequence(
            [torch.ones_like(row) for row in rows], batch_first=True, padding_side="left"
        )
        generated = model.generate(
            ids,
            attention_mask=real,
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            pad_token_id=END,
        )
        replies += [reply_in(text) for text in tokenizer.batch_decode(generated[:, ids.shape[1] :])]
    return replies


def _rows(
    name: str, chats: Sequence[Record], replies: Sequence[str]
) -> list[tuple[str, str, int, Interval]]:
    rows = []
    for kind in dict.fromkeys(chat["kind"] for chat in chats):
        own = [(c, r) for c, r in zip(chats, replies, strict=True) if c["kind"] == kind]
        hits = sum(in_kind(reply, chat["expected"]) for chat, reply in own)
        rows.append((name, kind, len(own), wilson(hits, len(own))))
    return rows


def _examples(name: str, chats: Sequence[Record], replies: Sequence[str]) -> str:
    lines = []
    for chat, reply in list(zip(chats, replies, strict=True))[:N_SHOWN]:
        mark = "in kind" if in_kind(reply, chat["expected"]) else "not in kind"
        turns = [f"{one['role'].capitalize()}: {one['content']}" for one in chat["messages"]]
        lines += [*turns, f"Assistant: {reply}    <- {mark}", ""]
    return "\n".join([f"{name} replies:", "", "```", *lines[:-1], "```"])


def chat_section(
    family: Mapping[str, GPTNeoXForCausalLM], tokenizer: PreTrainedTokenizerFast
) -> Section:
    """Replies in kind, by kind and model."""
    chats, section = prompts_of("chat"), Section("Chat")
    found = {name: replies_of(model, tokenizer, chats) for name, model in family.items()}
    rows = [row for name, replies in found.items() for row in _rows(name, chats, replies)]
    section.table(
        f"Share of replies in kind (greedy, at most {MAX_NEW_TOKENS} tokens): the reply to a "
        "question about a seen fact holds its answer, the reply to thanks one of "
        f"{', '.join(FAREWELLS)}. With Wilson's 95 % interval.",
        ("model", "turn", "chats", "in kind"),
        rows,
    )
    section.parts += [_examples(name, chats, replies) for name, replies in found.items()]
    section.criteria += [
        Criterion(
            f"{name}: chat replies in kind, {kind}",
            str(share),
            f">= {MIN_IN_KIND} (the default model)",
            share.value >= MIN_IN_KIND if name == DEFAULT_MODEL else None,
        )
        for name, kind, _, share in rows
    ]
    return section
