"""Random numbers that depend on what they are for, never on what was drawn before them."""

import hashlib

import torch


def generator_for(*keys: str | int) -> torch.Generator:
    """A generator on the CPU, seeded by what it is for: `generator_for("dropout", seed, epoch)`.

    Since nothing is drawn from a shared stream, a resumed run needs no generator's state, and a
    probe's numbers do not depend on which others are trained beside it.
    """
    digest = hashlib.sha256(repr(keys).encode()).digest()
    # 63 bits, which every seed field takes.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
