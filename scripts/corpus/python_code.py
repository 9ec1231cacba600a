"""Python: small functions, classes and scripts, each of which parses."""

import ast
from random import Random

from corpus.grammar import WORDS as ENGLISH
from corpus.grammar import Piece, read_lists, target_length

HELD_OUT = frozenset({"generator"})

WORDS = read_lists("code_words.toml")
_WHY = (
    "asked for by the {job} of {town}",
    "see the notes of the {job}",
    "as the {mood} {job} expects",
    "{town} counts from zero",
    "a rule of thumb from {town}",
    "the {animal} case comes first",
    "not used for the {object} any more",
    "keep this {adverb}",
)
HELD_OUT_PHRASINGS = frozenset({_WHY[-1]})


class Names:
    """The names one piece of code uses, drawn once and then the same."""

    def __init__(self, rng: Random) -> None:
        """Draw the names."""
        self.rng = rng
        self.item, self.other = rng.sample(WORDS["item"], 2)
        self.items = plural(self.item)
        self.attribute, self.second, self.third = rng.sample(WORDS["attribute"], 3)
        self.quality = rng.choice(WORDS["quality"])
        self.action, self.next_action = rng.sample(WORDS["action"], 2)
        self.limit = f"{rng.choice(('max', 'min', 'low', 'high', 'base'))}_{self.attribute}"

    def number(self, top: int = 200) -> int:
        """A whole number from 1 to `top`."""
        return self.rng.randint(1, top)

    def comparison(self, variable: str) -> str:
        """A condition on an attribute of `variable`."""
        right = self.rng.choice((self.limit, str(self.number()), f"{variable}.{self.second}"))
        return f"{variable}.{self.attribute} {self.rng.choice(WORDS['compare'])} {right}"

    def arithmetic(self, *variables: str) -> str:
        """An expression over `variables` and small numbers."""
        parts = [self.rng.choice(variables)]
        for _ in range(self.rng.randint(1, 2)):
            value = self.rng.choice((*variables, str(self.number(40)), str(self.number(9))))
            parts.append(f"{self.rng.choice(WORDS['sign'])} {value}")
        return " ".join(parts)

    def comment(self) -> str:
        """Nothing, or a comment on the line before."""
        if self.rng.random() < 0.6:
            return ""
        words = {one: self.rng.choice(ENGLISH[f"{one}s"]) for one in ("job", "town", "mood")}
        words |= {one: self.rng.choice(ENGLISH[f"{one}s"]) for one in ("animal", "object")}
        text = self.rng.choice(_WHY).format(**words, adverb=self.rng.choice(ENGLISH["adverbs"]))
        return f"    # {text}\n"


def plural(noun: str) -> str:
    """The plural of an English noun, by rule."""
    if noun.endswith(("x", "ch", "s")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def selection(rng: Random) -> str:
    """A filter over objects, as a loop or a comprehension."""
    n = Names(rng)
    value = rng.choice((n.item, f"{n.item}.{n.third}", n.arithmetic(f"{n.item}.{n.second}")))
    head = (
        f"def {n.quality}_{n.items}({n.items}, {n.limit}={n.number()}):\n"
        f'    """Return the {n.third.replace("_", " ")} of every {n.quality} {n.item}."""\n'
    )
    test = n.comparison(n.item)
    if rng.random() < 0.4:
        return f"{head}{n.comment()}    return [{value} for {n.item} in {n.items} if {test}]\n"
    result = rng.choice(("result", "found", "chosen", f"{n.quality}", "kept", "selected"))
    return (
        f"{head}    {result} = []\n{n.comment()}    for {n.item} in {n.items}:\n"
        f"        if {test}:\n            {result}.append({value})\n    return {result}\n"
    )


def grouping(rng: Random) -> str:
    """Totals or groups in a dictionary."""
    n = Names(rng)
    table = rng.choice((f"{n.attribute}_by_{n.second}", "groups", "totals", f"{n.items}_by_key"))
    amount = rng.choice(("1", f"{n.item}.{n.attribute}", n.arithmetic(f"{n.item}.{n.attribute}")))
    ending = rng.choice(
        (f"return {table}", f"return sorted({table}.items())", f"return max({table}.values())")
    )
    start = rng.choice(("0", str(n.number(20))))
    return (
        f"def {n.action}_{n.items}_by_{n.second}({n.items}):\n"
        f'    """Sum the {n.attribute} of all {n.items} with the same {n.second}."""\n'
        f"    {table} = {{}}\n{n.comment()}    for {n.item} in {n.items}:\n"
        f"        key = {n.item}.{n.second}\n"
        f"        {table}[key] = {table}.get(key, {start}) + {amount}\n    {ending}\n"
    )


def record(rng: Random) -> str:
    """A class with a constructor and some methods."""
    n = Names(rng)
    title = f"{n.quality.title()}{n.item.title()}"
    fields = [n.attribute, n.second, n.third][: rng.randint(2, 3)]
    lines = [f"class {title}:", f'    """A {n.quality} {n.item} with its {fields[0]}."""', ""]
    lines.append(f"    def __init__(self, {', '.join(fields)}={n.number()}):")
    lines += [f"        self.{field} = {field}" for field in fields]
    own = [f"self.{field}" for field in fields]
    for action in rng.sample((n.action, n.next_action), rng.randint(1, 2)):
        given = rng.choice(WORDS["item"])
        lines += ["", f"    def {action}_{given}(self, {given}):"]
        if rng.random() < 0.5:
            lines.append(f'        """{action.strip("_").title()} one {given} by {fields[0]}."""')
        if rng.random() < 0.6:
            test = f"{given} {rng.choice(WORDS['compare'])} {n.number()}"
            lines += [f"        if {test}:", f"            {own[0]} = {n.arithmetic(*own, given)}"]
        lines.append(f"        return {n.arithmetic(*own, given)}")
    return "\n".join(lines) + "\n"


def counting(rng: Random) -> str:
    """A loop or recursion over numbers."""
    n = Names(rng)
    first, second, third = rng.sample(WORDS["letter"], 3)
    name = f"{n.action}_{n.attribute}_{rng.choice(('sum', 'product', 'steps', 'series', 'loop'))}"
    doc = f'    """Compute the {n.attribute.replace("_", " ")} after {first} {plural(n.item)}."""\n'
    if rng.random() < 0.35:
        return (
            f"def {name}({first}, {second}={n.number(30)}):\n{doc}"
            f"    if {first} <= {n.number(5)}:\n        return {n.arithmetic(second)}\n"
            f"    return {name}({first} - {n.number(3)}, {n.arithmetic(first, second)})\n"
        )
    loop = rng.choice(
        (
            f"for {third} in range({first}):",
            f"for {third} in range({n.number(9)}, {first}, {n.number(5)}):",
            f"for {third} in reversed(range({first} + {n.number(9)})):",
        )
    )
    return (
        f"def {name}({first}):\n{doc}    {second} = {n.number(90)}\n{n.comment()}    {loop}\n"
        f"        if {third} % {n.number(9) + 1} == {n.number(2) - 1}:\n"
        f"            {second} {rng.choice('+-*')}= {n.arithmetic(third, first)}\n"
        f"    return {n.arithmetic(second, first)}\n"
    )


def words(rng: Random) -> str:
    """Work on strings: split, clean, join."""
    n = Names(rng)
    mark = rng.choice((",", ";", ":", "|", "-", "/", " ", "=", "#"))
    calls = ".".join(rng.sample(WORDS["text_call"], rng.randint(1, 2)))
    old, new = rng.sample((*ENGLISH["animals"], *ENGLISH["foods"]), 2)
    keep = rng.choice((f"len({n.other}) > {n.number(12)}", f'{n.other} != "{old}"', f"{n.other}"))
    return (
        f"def {n.action}_{n.item}_text({n.item}):\n"
        f'    """Clean the {n.attribute.replace("_", " ")} of a {n.item}, such as {old}."""\n'
        f'    parts = {n.item}.{calls}.split("{mark}")\n{n.comment()}'
        f"    {plural(n.other)} = [{n.other} for {n.other} in parts if {keep}]\n"
        f'    return "{rng.choice((mark, " ", ", "))}".join({plural(n.other)})'
        f'.replace("{old}", "{new}")\n'
    )


def checking(rng: Random) -> str:
    """Checks that raise, and errors that are caught."""
    n = Names(rng)
    error = rng.choice(WORDS["error"])
    fallback = rng.choice(("None", "0", f"{n.number()}", f'"{rng.choice(ENGLISH["animals"])}"'))
    if rng.random() < 0.5:
        return (
            f"def {n.action}_{n.item}({n.item}, {n.attribute}):\n"
            f'    """{n.action.strip("_").title()} a {n.item}; its {n.attribute} must fit."""\n'
            f"    if {n.attribute} {rng.choice(WORDS['compare'])} {n.number()}:\n"
            f'        raise {error}(f"{n.quality} {n.attribute} for {{{n.item}}}")\n{n.comment()}'
            f"    {n.item}.{n.second} = {n.arithmetic(n.attribute, f'{n.item}.{n.second}')}\n"
            f"    return {n.item}\n"
        )
    return (
        f"def {n.action}_{n.attribute}({n.items}, {n.second}):\n"
        f'    """Find the {n.attribute} stored under {n.second}, or {fallback.strip(chr(34))}."""\n'
        f"    try:\n        {n.other} = {n.items}[{n.second}]\n    except {error}:\n"
        f"        return {fallback}\n{n.comment()}"
        f"    return {n.arithmetic(f'{n.other}.{n.third}', f'{n.other}.{n.attribute}')}\n"
    )


def script(rng: Random) -> str:
    """Statements at top level: data, a loop, output."""
    n = Names(rng)
    keys = rng.sample((*ENGLISH["foods"], *ENGLISH["animals"], *ENGLISH["objects"]), 3)
    rows = ", ".join(f'"{key}": {n.number(99)}' for key in keys)
    table = f"{n.quality}_{n.items}"
    best = rng.choice(("best", "first", f"top_{n.item}", "largest", "chosen"))
    pick = rng.choice(("max", "min"))
    return (
        f"{table} = {{{rows}}}\n{n.attribute} = {n.number()}\n"
        f"for {n.item}, {n.second} in {table}.items():\n"
        f"    if {n.second} {rng.choice(WORDS['compare'])} {n.number(99)}:\n"
        f"        {n.attribute} += {n.arithmetic(n.second)}\n"
        f'    print("{n.quality} {n.item}:", {n.item}, {n.arithmetic(n.second, n.attribute)})\n'
        f"{best} = {pick}({table}, key={table}.get)\n"
    )


def helper(rng: Random) -> str:
    """A function of one line, with or without an assertion about it."""
    n = Names(rng)
    first, second = rng.sample((n.attribute, n.second, n.third, n.item, *WORDS["letter"]), 2)
    name = f"{n.action}_{n.other}"
    head = f"def {name}({first}, {second}={n.number(60)}):\n"
    text = f"{head}    return {n.arithmetic(first, second)}\n"
    if rng.random() < 0.4:
        given = f"{n.number(30)}, {n.number(30)}"
        text += f"\n\nassert {name}({given}) {rng.choice(WORDS['compare'])} {n.number()}\n"
    return text


def generator(rng: Random) -> str:
    """A generator function."""
    n = Names(rng)
    return (
        f"def {n.action}_each_{n.item}({n.items}, {n.limit}={n.number()}):\n"
        f'    """Yield the {n.attribute} of one {n.quality} {n.item} after another."""\n'
        f"    {n.third} = {n.number()}\n{n.comment()}    for {n.item} in {n.items}:\n"
        f"        {n.third} {rng.choice('+-')}= {n.item}.{n.second}\n"
        f"        if {n.comparison(n.item)}:\n"
        f"            yield {n.arithmetic(n.third, f'{n.item}.{n.attribute}')}\n"
    )


def _program(rng: Random, piece: Piece) -> str:
    target = target_length(rng, longest=950)
    text = piece(rng)
    while len(text) < target - 120:
        more = rng.choice(_TRAINED)(rng)
        if len(text) + len(more) > 1000:
            break
        text = f"{text}\n\n{more}"
    ast.parse(text)
    return text


def _kind(piece: Piece) -> Piece:
    return lambda rng: _program(rng, piece)


_TRAINED = (selection, grouping, record, counting, words, checking, script, helper)
KINDS: dict[str, Piece] = {piece.__name__: _kind(piece) for piece in (*_TRAINED, generator)}
