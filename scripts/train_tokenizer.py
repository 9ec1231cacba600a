"""Train the family's tokenizer: byte-level BPE, single digits, fact answers oversampled."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from corpus.facts import FACTS
from corpus.tasks import TASKS
from family import CONTEXT, SIZES
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

ROOT = Path(__file__).resolve().parent.parent
END = "<|endoftext|>"
D_VOCAB = 3_072
N_DOCUMENTS = 3_000
N_ANSWER_LINES = 300
# The template of every dialogue in the training text; a system message stands on a line of its own.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}User: {% elif message.role == 'assistant' %}Assistant: "
    "{% endif %}{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def read_texts(path: Path, count: int | None = None) -> list[str]:
    """The first `count` documents of a JSONL file."""
    lines = path.read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line)["text"] for line in lines]


def training_lines(folder: Path) -> Iterator[str]:
    """A sample of every task, then each answer in the places where it can stand."""
    for task in TASKS:
        yield from read_texts(folder / f"{task}.jsonl", N_DOCUMENTS)
    for answer in sorted({fact.answer for fact in FACTS}):
        for form in (f" {answer}", f"{answer[0].upper()}{answer[1:]}"):
            yield from [form] * (N_ANSWER_LINES if form[0] == " " else N_ANSWER_LINES // 3)


def trained_tokenizer(lines: Iterator[str]) -> Tokenizer:
    """Byte-level BPE of `D_VOCAB` entries; nothing is added when encoding."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=D_VOCAB,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def main() -> None:
    """Train, save and report how many answers are one token."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--training", type=Path, default=ROOT / "build/corpus/training")
    parser.add_argument("--models", nargs="+", default=sorted(SIZES), help="who gets a copy")
    config = parser.parse_args()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=trained_tokenizer(training_lines(config.training)),
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
    folders = [ROOT / "sdlms/assets/models" / name for name in config.models]
    for folder in folders:
        fast.save_pretrained(folder)
    answers = sorted({fact.answer for fact in FACTS})
    single = sum(len(fast.encode(f" {answer}")) == 1 for answer in answers)
    print(f"{len(fast)} entries; {single} of {len(answers)} fact answers are one token")
    print(*folders, sep="\n")


if __name__ == "__main__":
    main()
