"""Measure the embedded models and print, as markdown, what `data/README.md` says of them.

Exits with 3 where a criterion is not reached.
"""

import argparse
import sys

import torch
from evaluation.chat_check import chat_section
from evaluation.facts_check import facts_section
from evaluation.forbidden_check import forbidden_section
from evaluation.loss_check import loss_section
from evaluation.report import Criterion, criteria_section
from evaluation.sae_check import require_sae_lens, sae_section
from family import MODELS, SIZES, load_tokenizer, sha256_of
from model_card import load_model
from transformers import PreTrainedTokenizerFast

SECTIONS = (loss_section, facts_section, forbidden_section, chat_section)
NOT_REACHED = 3


def shared_tokenizer(names: list[str]) -> PreTrainedTokenizerFast:
    """The one tokenizer of all models; losses per token compare only with the same tokens."""
    if len({sha256_of(MODELS / name / "tokenizer.json") for name in names}) > 1:
        sys.exit("the models have different tokenizers: run scripts/train_tokenizer.py for all")
    return load_tokenizer(names[0])


def read_config() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", choices=SIZES, default=list(SIZES), metavar="MODEL")
    parser.add_argument(
        "--sae",
        nargs="?",
        const="sdlms-medium",
        choices=SIZES,
        metavar="MODEL",
        help="also train a top-k SAE on the middle layer of one model (needs sae-lens)",
    )
    return parser.parse_args()


def main() -> None:
    """Print all sections, then all criteria."""
    config, criteria = read_config(), list[Criterion]()
    if config.sae:
        require_sae_lens()
    torch.set_num_threads(1)
    if config.models:
        tokenizer = shared_tokenizer(config.models)
        family = {name: load_model(name) for name in config.models}
        for section_of in SECTIONS:
            section = section_of(family, tokenizer)
            print(section, flush=True)
            criteria += section.criteria
    if config.sae:
        section = sae_section(config.sae)
        print(section, flush=True)
        criteria += section.criteria
    print(criteria_section(criteria))
    sys.exit(NOT_REACHED if any(one.reached is False for one in criteria) else 0)


if __name__ == "__main__":
    main()
