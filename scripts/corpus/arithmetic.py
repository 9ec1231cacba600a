"""Math: word problems and algebra with worked steps; every `a + b = c` in the text is true."""

from fractions import Fraction
from math import gcd
from random import Random

from corpus.grammar import WORDS, Piece, expand, gathered, listed, names, polish
from corpus.prose import LISTS

HELD_OUT = frozenset({"average"})
HELD_OUT_PHRASINGS = frozenset(
    {
        "How many coins come back?",
        "What does each get and what remains?",
        "Work out",
        "Now divide by",
        "Remove",
    }
)

_UNITS = (
    ("metres", "centimetres", 100),
    ("kilograms", "grams", 1000),
    ("hours", "minutes", 60),
    ("weeks", "days", 7),
    ("minutes", "seconds", 60),
    ("kilometres", "metres", 1000),
)


def _say(rng: Random, template: str, **given: object) -> str:
    return polish(expand(template, rng, LISTS, {key: str(value) for key, value in given.items()}))


def _goods(rng: Random) -> str:
    return rng.choice((*WORDS["foods"], *(f"{item}s" for item in WORDS["plants"])))


def shopping(rng: Random) -> str:
    """Two purchases, their total and the change."""
    count, price = rng.randint(2, 19), rng.randint(2, 25)
    other, cost = rng.randint(2, 19), rng.randint(2, 25)
    first, second = count * price, other * cost
    paid = first + second + rng.randint(1, 60)
    scene = _say(
        rng,
        "[{time} {who}|At the {shop} {who}|In {town} {who}|For a {relative}, {who}] buys {n} "
        "[{look}|{colour}|{material}] {object}s at {p} coins each and {m} "
        "[bags|boxes|jars|baskets|crates] of {food} at {c} coins each, and pays with {paid} coins. "
        "[How much change is there?|What change does {who} get?|How many coins come back?]",
        who=names(rng, 1)[0],
        n=count,
        p=price,
        m=other,
        c=cost,
        paid=paid,
    )
    return (
        f"{scene}\n{count} * {price} = {first}\n{other} * {cost} = {second}\n"
        f"{first} + {second} = {first + second}\n"
        f"{paid} - {first + second} = {paid - first - second}\n"
        f"Answer: {paid - first - second}"
    )


def sharing(rng: Random) -> str:
    """Division with a remainder."""
    people, each = rng.randint(3, 24), rng.randint(3, 48)
    rest = rng.randint(0, people - 1)
    total = people * each + rest
    scene = _say(
        rng,
        "[A {mood} {job}|{who}|The {relative} of {who}] shares {total} [{colour} |{look} |]"
        "{object}s [equally |fairly |]among {people} {animal}s "
        "[{near} the {land}|in {town}|{time}]. "
        "[How many does each get, and what is left?|What does each get and what remains?]",
        who=names(rng, 1)[0],
        total=total,
        people=people,
    )
    return (
        f"{scene}\n{people} * {each} = {people * each}\n{total} - {people * each} = {rest}\n"
        f"Answer: {each} each, {rest} left"
    )


def equation(rng: Random) -> str:
    """A linear equation, solved line by line."""
    letter = rng.choice("abkmnpqrtwxyz")
    root, factor, shift = rng.randint(-20, 40), rng.randint(2, 15), rng.randint(1, 60)
    right = factor * root + shift
    ask = rng.choice(("Solve", "Find the value in", "Work out", "Solve the equation"))
    why = rng.choice(("Subtract", "First take away", "Remove"))
    then = rng.choice(("Divide by", "Then divide by", "Now divide by"))
    return (
        f"{ask} {factor}{letter} + {shift} = {right} for {letter}.\n"
        f"{why} {shift}: {factor}{letter} = {right - shift}\n"
        f"{then} {factor}: {letter} = {root}\nAnswer: {letter} = {root}"
    )


def percent(rng: Random) -> str:
    """A price that rises or falls by a percentage."""
    rate, price = rng.choice((5, 10, 15, 20, 25, 30, 40, 50, 60, 75)), rng.randint(2, 60) * 20
    change = price * rate // 100
    up = rng.random() < 0.5
    result = price + change if up else price - change
    scene = _say(
        rng,
        "A [{look}|{colour}|{material}] {object} [in the {shop}|in {town}|of the {job}|from {who}] "
        "costs {price} coins. [{time} the price|{time} its price|Its price] {moves} by {rate} "
        "percent. "
        "[What does it cost now?|Find the new price.|How much is it then?]",
        who=names(rng, 1)[0],
        price=price,
        rate=rate,
        moves="rises" if up else "falls",
    )
    sign = "+" if up else "-"
    return (
        f"{scene}\n{price} * {rate} = {price * rate}\n{price * rate} / 100 = {change}\n"
        f"{price} {sign} {change} = {result}\nAnswer: {result}"
    )


def area(rng: Random) -> str:
    """Area and border of a rectangle."""
    long, wide = rng.randint(5, 60), rng.randint(2, 40)
    scene = _say(
        rng,
        "The {look} {place} [in {town}|of the {job}|{near} the {shop}|of {who}] is {long} metres "
        "long and {wide} metres wide. [Find its area and its border.|What are area and perimeter?]",
        place=rng.choice(WORDS["rooms"] + WORDS["lands"]),
        who=names(rng, 1)[0],
        long=long,
        wide=wide,
    )
    return (
        f"{scene}\n{long} * {wide} = {long * wide}\n{long} + {wide} = {long + wide}\n"
        f"2 * {long + wide} = {2 * (long + wide)}\n"
        f"Answer: {long * wide} square metres, {2 * (long + wide)} metres"
    )


def speed(rng: Random) -> str:
    """Distance from speed and time, and what remains."""
    pace, hours = rng.randint(4, 95), rng.randint(2, 12)
    way = pace * hours
    total = way + rng.randint(1, 150)
    scene = _say(
        rng,
        "A {look} {vehicle} [with {who}|with a {job}|full of {food}] leaves {town} {time} at "
        "{pace} kilometres per hour. The {land} is {total} kilometres away. "
        "[How far is left|What remains] "
        "after {hours} hours?",
        who=names(rng, 1)[0],
        pace=pace,
        total=total,
        hours=hours,
    )
    left = total - way
    return f"{scene}\n{pace} * {hours} = {way}\n{total} - {way} = {left}\nAnswer: {left}"


def ages(rng: Random) -> str:
    """Two ages from their sum and difference."""
    young, gap = rng.randint(3, 50), rng.randint(1, 40)
    old = young + gap
    first, second = names(rng, 2)
    scene = _say(
        rng,
        "{first}, a {mood} {job} [from {town}|in the {shop}], is {gap} years older than {second}"
        "[, the {job}| the {job}|]. Together they are {total}. How old is {second}?",
        first=first,
        second=second,
        gap=gap,
        total=young + old,
    )
    return (
        f"{scene}\n{young + old} - {gap} = {2 * young}\n{2 * young} / 2 = {young}\n"
        f"{young} + {gap} = {old}\nAnswer: {second} is {young}, {first} is {old}"
    )


def sequence(rng: Random) -> str:
    """The next number of an arithmetic or geometric sequence."""
    start, step = rng.randint(1, 60), rng.randint(2, 19)
    if rng.random() < 0.6:
        terms = [start + step * place for place in range(5)]
        reason = f"Each term adds {step}: {terms[4]} + {step} = {terms[4] + step}"
        result = terms[4] + step
    else:
        step = rng.randint(2, 4)
        terms = [start * step**place for place in range(5)]
        reason = f"Each term is {step} times the last: {terms[4]} * {step} = {terms[4] * step}"
        result = terms[4] * step
    ask = rng.choice(("What comes next", "Continue the sequence", "Find the next term"))
    return f"{ask}: {listed([str(term) for term in terms], 'then')}?\n{reason}\nAnswer: {result}"


def fractions(rng: Random) -> str:
    """The sum of two fractions in lowest terms."""
    bottom, other = rng.sample(range(2, 13), 2)
    top, above = rng.randint(1, bottom), rng.randint(1, other)
    left, right, common = top * other, above * bottom, bottom * other
    total = left + right
    shared = gcd(total, common)
    result = Fraction(total, common)
    who, food = names(rng, 1)[0], rng.choice(WORDS["foods"])
    return (
        f"{who} takes {top}/{bottom} of the {food} and then {above}/{other}. How much is that?\n"
        f"{top} * {other} = {left}\n{above} * {bottom} = {right}\n"
        f"{bottom} * {other} = {common}\n{left} + {right} = {total}\n"
        f"Divide {total}/{common} by {shared}.\nAnswer: {result}"
    )


def units(rng: Random) -> str:
    """One quantity in a smaller unit."""
    large, small, factor = rng.choice(_UNITS)
    whole, rest = rng.randint(2, 90), rng.randint(1, factor - 1)
    scene = _say(
        rng,
        "[{time} {who}|The {mood} {job}|A {relative}] [needs|notes|measures|records] {whole} "
        "{large} and {rest} {small} for the {look} {object}. "
        "[How many {small} is that?|Give it in {small}.]",
        who=names(rng, 1)[0],
        whole=whole,
        rest=rest,
        large=large,
        small=small,
    )
    part = whole * factor
    total = part + rest
    return f"{scene}\n{whole} * {factor} = {part}\n{part} + {rest} = {total}\nAnswer: {total}"


def average(rng: Random) -> str:
    """The mean of four counts."""
    mean = rng.randint(8, 90)
    counts = [mean + rng.randint(-7, 7) for _ in range(3)]
    counts.append(4 * mean - sum(counts))
    people = names(rng, 4)
    told = listed([f"{who} {count}" for who, count in zip(people, counts, strict=True)])
    scene = _say(
        rng,
        "[{time}|In {town}|{near} the {land}] {told} [{look}|{colour}] {goods} were counted. "
        "[What is the average?|Find the mean.]",
        told=told,
        goods=_goods(rng),
    )
    lines, total = [], counts[0]
    for count in counts[1:]:
        lines.append(f"{total} + {count} = {total + count}")
        total += count
    return f"{scene}\n" + "\n".join(lines) + f"\n{total} / 4 = {mean}\nAnswer: {mean}"


_PIECES = (shopping, sharing, equation, percent, area, speed, ages, sequence, fractions, units)


def _kind(piece: Piece) -> Piece:
    return lambda rng: gathered(rng, piece, "\n\n", longest=850)


KINDS: dict[str, Piece] = {piece.__name__: _kind(piece) for piece in (*_PIECES, average)}
