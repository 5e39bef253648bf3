"""From authored templates to one ticket: values for the slots, the order of the parts, small slips.

Pure functions over a `random.Random`; used by the generator only. Standard library only. All
chance comes from `Random.random()`, the one method whose sequence Python promises to keep between
versions.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from random import Random
from typing import TypeVar

from ftkit.data.samples.authored import Material, Queue, Situation, Vocabulary, slots_of

MOST_SENTENCES = 8
GOODS = ("device", "wear", "home", "seat")
PRODUCT_KINDS = (*GOODS, "device2", "box", "media", "plan")
QUEUES_WITH_ORDERS = ("billing", "delivery", "returns", "technical", "cancellation")

_CHOICE = re.compile(r"\[([^\]]*)\]")
_TOKEN = re.compile(r"\{(\w+)\}|([<>])|([^{}<>]+)")
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)")
_LONG_WORD = re.compile(r"\b[a-z]{5,}\b")
_DATE_STYLES = ("{d} {m}", "{m} {d}", "{o} {m}", "the {o} of {m}", "{m} {o}", "{d:02}/{n:02}")
_ORDER_STYLES = ("#{:07}", "A-{:06}", "{:08}", "ORD-{:05}", "no. {:06}")
_AMOUNT_STYLES = ("£{:.2f}", "£{:.2f}", "£{:.0f}", "{:.2f} pounds", "GBP {:.2f}")
# Spelled out, since strftime follows the machine's language.
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")

T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """A stretch of text: plain, or the value of a slot; inside the marked answer or not."""

    text: str
    slot: str | None = None
    is_answer: bool = False


@dataclass(frozen=True)
class Span:
    """Where the value of a slot stands in the text of a ticket."""

    start: int
    end: int
    slot: str


@dataclass(frozen=True)
class Ticket:
    """A finished ticket and what its questions and its summary need to know about it."""

    text: str
    situation: Situation
    flags: tuple[str, ...]
    spans: tuple[Span, ...]
    answer: tuple[int, int] | None  # where the situation's question is answered
    values: Mapping[str, str]
    sentences: int


def pick(rng: Random, items: Sequence[T]) -> T:
    """Choose one item."""
    return items[int(rng.random() * len(items))]


def shuffled(rng: Random, items: Sequence[T]) -> list[T]:
    """Copy the items in a random order."""
    return sorted(items, key=lambda _: rng.random())


def compose_ticket(
    rng: Random, material: Material, situation: Situation, queue: Queue, vocabulary: Vocabulary
) -> Ticket:
    """Write one ticket about a situation."""
    values = draw_values(rng, material.names, situation)
    flags = draw_flags(rng, situation, queue, vocabulary.flags)
    usable = usable_slots(situation, values)
    body, sentences = draw_body(rng, material, situation, flags, usable)
    paragraphs = frame_body(rng, material, body, usable)
    pieces = [
        piece
        for paragraph in paragraphs
        for piece in (*render(rng, paragraph, values), Piece("\n\n"))
    ][:-1]
    text, spans, answer = join_pieces(add_slips(rng, pieces))
    ordered = tuple(flag for flag in vocabulary.flags if flag in flags)
    return Ticket(text, situation, ordered, spans, answer, values, sentences)


def draw_values(
    rng: Random, names: Mapping[str, tuple[str, ...]], situation: Situation
) -> dict[str, str]:
    """Choose what each slot says throughout one ticket."""
    people = [
        f"{first} {last}"
        for first, last in zip(
            shuffled(rng, names["first"])[:3], shuffled(rng, names["last"])[:3], strict=True
        )
    ]
    places = shuffled(rng, names["place"])
    devices = shuffled(rng, names["device"])
    firms = shuffled(rng, names["firm"])
    weekdays = shuffled(rng, _WEEKDAYS)
    style = pick(rng, _DATE_STYLES)
    first_day = date(2025, 1, 1) + timedelta(days=int(rng.random() * 330))
    later_day = first_day + timedelta(days=4 + int(rng.random() * 21))
    money = pick(rng, _AMOUNT_STYLES)
    amount = 18 + int(rng.random() * 7700) / 100
    values = {
        "device": devices[0],
        "device2": devices[1],
        "wear": pick(rng, names["wear"]),
        "home": pick(rng, names["home"]),
        "seat": pick(rng, names["seat"]),
        "box": pick(rng, names["box"]),
        "media": pick(rng, names["media"]),
        "plan": pick(rng, names["plan"]),
        "shop": pick(rng, names["shop"]),
        "courier": pick(rng, names["courier"]),
        "bank": pick(rng, names["bank"]),
        "firm": firms[0],
        "firm2": firms[1],
        "me": people[0],
        "agent": people[1],
        "agent2": people[2],
        "place": places[0],
        "place2": places[1],
        "town": places[2],
        "date": format_date(first_day, style),
        "date2": format_date(later_day, style),
        "later": format_date(later_day + timedelta(days=9), style),
        "weekday": weekdays[0],
        "deadline": weekdays[1],
        "order": pick(rng, _ORDER_STYLES).format(10000 + int(rng.random() * 90000)),
        "amount": money.format(amount),
        "amount2": money.format(amount + 8 + int(rng.random() * 5200) / 100),
    }
    named = [slot for slot in re.findall(r"\{(\w+)\}", situation.text) if slot in PRODUCT_KINDS]
    return values | ({"product": values[named[0]]} if named else {})


def format_date(day: date, style: str) -> str:
    """Write a day the way this customer writes dates."""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10 if day.day // 10 != 1 else 0, "th")
    month = _MONTHS[day.month - 1]
    return style.format(d=day.day, m=month, n=day.month, o=f"{day.day}{ending}")


def draw_flags(
    rng: Random, situation: Situation, queue: Queue, chances: Mapping[str, float]
) -> tuple[str, ...]:
    """Choose at most two flags beyond those that the situation carries itself."""
    drawn = [
        flag
        for flag, chance in chances.items()
        if rng.random() < chance and flag in queue.flags and flag not in situation.flags
    ]
    return (*situation.flags, *shuffled(rng, drawn)[:2])


def usable_slots(situation: Situation, values: Mapping[str, str]) -> set[str]:
    """Name the slots that the phrases around a situation may use without contradicting it."""
    unfit = {"agent", "place", "firm", "date", "courier", "bank", "amount", "order"}
    about_goods = slots_of(situation.text) & {*GOODS, "order"}
    if situation.queue in QUEUES_WITH_ORDERS and about_goods:
        unfit.remove("order")
    return set(values) - unfit


def draw_body(
    rng: Random,
    material: Material,
    situation: Situation,
    flags: tuple[str, ...],
    usable: set[str],
) -> tuple[list[str], int]:
    """Choose the sentences of a ticket and their order; return them and how many they are."""
    phrases = material.phrases

    def one(group: tuple[str, ...]) -> str:
        return pick(rng, [t for t in group if slots_of(t) <= usable])

    more = [sentence for sentence in situation.more if rng.random() < 0.7]
    told = [one(phrases.flags[flag]) for flag in flags if flag not in situation.flags]
    denied = [flag for flag in phrases.calm if flag not in flags]
    others = [queue for queue in phrases.asides if queue != situation.queue]
    extras = {
        "opening": (0.2, phrases.openings),
        "aside": (0.3, phrases.asides[pick(rng, others)]),
        "second aside": (0.06, phrases.asides[pick(rng, others)]),
        "request": (0.45, phrases.requests),
        "background": (0.15, phrases.backgrounds),
        "calm": (0.1, phrases.calm[pick(rng, denied)] if denied else ()),
    }
    chosen = {name: one(group) for name, (chance, group) in extras.items() if rng.random() < chance}
    room = MOST_SENTENCES - count_sentences([situation.text, *more, *told])
    for name in shuffled(rng, list(chosen)):
        room -= count_sentences([chosen[name]])
        if room < 0:
            del chosen[name]
    if situation.queue == "feedback":
        chosen.pop("request", None)
    if chosen.get("second aside") == chosen.get("aside"):
        chosen.pop("second aside", None)

    before = [chosen[name] for name in ("opening",) if name in chosen]
    movable = [chosen[n] for n in ("aside", "second aside", "background", "calm") if n in chosen]
    early = [sentence for sentence in movable if rng.random() < 0.4]
    late = shuffled(rng, [*told, *(sentence for sentence in movable if sentence not in early)])
    after = [chosen[name] for name in ("request",) if name in chosen]
    body = [*before, *early, situation.text, *more, *late, *after]
    return body, count_sentences(body)


def count_sentences(templates: Sequence[str]) -> int:
    """Count the sentences of some templates."""
    return sum(max(1, len(_SENTENCE_END.findall(template))) for template in templates)


def frame_body(rng: Random, material: Material, body: list[str], usable: set[str]) -> list[str]:
    """Put subject, greeting and signature around the sentences, as paragraphs."""
    phrases = material.phrases
    subjects = [template for template in phrases.subjects if slots_of(template) <= usable]
    subject = [pick(rng, subjects)] if rng.random() < 0.6 else []
    greeting = [pick(rng, phrases.greetings)] if rng.random() < 0.6 else []
    ending = rng.random()
    signoff = pick(rng, phrases.signoffs)
    close = [f"{signoff}\n{{me}}"] if ending < 0.5 else [signoff] if ending < 0.6 else []
    return [*subject, *greeting, " ".join(body), *close]


def render(rng: Random, template: str, values: Mapping[str, str]) -> list[Piece]:
    """Choose among a template's alternatives and fill its slots."""
    settled = _CHOICE.sub(lambda match: pick(rng, match[1].split("|")), template)
    pieces: list[Piece] = []
    is_answer = False
    for slot, mark, plain in _TOKEN.findall(settled):
        if mark:
            is_answer = mark == "<"
        else:
            pieces.append(Piece(values[slot] if slot else plain, slot or None, is_answer))
    return pieces


def add_slips(rng: Random, pieces: list[Piece]) -> list[Piece]:
    """Let some customers mistype, or write without capitals; names and answers stay as they are."""
    plain = [i for i, piece in enumerate(pieces) if not piece.slot and not piece.is_answer]
    kind = rng.random()
    if kind < 0.06:
        return [replace(p, text=p.text.lower()) if i in plain else p for i, p in enumerate(pieces)]
    slips = 2 if kind < 0.12 else 1 if kind < 0.26 else 0
    slipped = list(pieces)
    for _ in range(slips):
        i = pick(rng, plain)
        words = list(_LONG_WORD.finditer(slipped[i].text))
        if words:
            word = pick(rng, words)
            head, tail = slipped[i].text[: word.start()], slipped[i].text[word.end() :]
            slipped[i] = replace(slipped[i], text=head + mistype(rng, word[0]) + tail)
    return slipped


def mistype(rng: Random, word: str) -> str:
    """Swap, drop or double a letter inside a word."""
    at = 1 + int(rng.random() * (len(word) - 3))
    kind = int(rng.random() * 3)
    if kind == 0:
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1:
        return word[:at] + word[at + 1 :]
    return word[: at + 1] + word[at:]


def join_pieces(
    pieces: Sequence[Piece],
) -> tuple[str, tuple[Span, ...], tuple[int, int] | None]:
    """Write the pieces one after another; return the text, the spans of the slots, the answer."""
    spans: list[Span] = []
    edges: list[int] = []
    at = 0
    for piece in pieces:
        end = at + len(piece.text)
        if piece.slot:
            spans.append(Span(at, end, piece.slot))
        if piece.is_answer:
            edges += [at, end]
        at = end
    text = "".join(piece.text for piece in pieces)
    return text, tuple(spans), (min(edges), max(edges)) if edges else None
