"""Write the sample data anew: `python -m ftkit.data.samples.generate`.

The same authored material always gives the same bytes. Nothing in ftkit imports this module; the
tests do, to hold the files against it. Standard library only.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from ftkit.data.samples.authored import SPLITS, Material, Vocabulary, load_material, load_vocabulary
from ftkit.data.samples.compose import Span, Ticket, compose_ticket, pick, shuffled

SEED = 20
TICKETS = {"train": 1400, "validation": 200, "test": 400}
QUESTIONS = {"train": 640, "validation": 90, "test": 170}
SUMMARIES = {"train": 320, "validation": 50, "test": 90}
UNANSWERABLE = 0.3  # about this share of the questions has no answer in its ticket
LONG_TICKET = 5  # sentences from which a ticket is worth a summary

Row = dict[str, object]


def main() -> None:
    """Rewrite every file of the sample data."""
    folder = Path(__file__).parent
    for name, content in render_files().items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


def render_files() -> dict[str, bytes]:
    """Make the content of every file, by its path in this folder."""
    vocabulary = load_vocabulary()
    files: dict[str, bytes] = {}
    for split in SPLITS:
        material = load_material(split)
        tickets = make_tickets(material, vocabulary)
        for name, rows in {
            "tickets": [ticket_row(key, ticket, vocabulary) for key, ticket in tickets.items()],
            "questions": question_rows(tickets, material, vocabulary),
            "summaries": summary_rows(tickets, material),
        }.items():
            files[f"{name}/{split}.jsonl"] = to_json_lines(rows)
    return files


def make_tickets(material: Material, vocabulary: Vocabulary) -> dict[str, Ticket]:
    """Write the tickets of a split, by id; no text comes twice."""
    rng = Random(f"{SEED}/{material.split}/order")
    shares = share_out(TICKETS[material.split], {q.name: q.weight for q in vocabulary.queues})
    plan = []
    for queue in vocabulary.queues:
        situations = [s for s in material.situations if s.queue == queue.name]
        order = shuffled(rng, situations)
        plan += [(queue, order[i % len(order)]) for i in range(shares[queue.name])]
    tickets: dict[str, Ticket] = {}
    texts: set[str] = set()
    for number, (queue, situation) in enumerate(shuffled(rng, plan), start=1):
        key = f"{material.split}-{number:04}"
        ticket_rng = Random(f"{SEED}/{key}")
        ticket = compose_ticket(ticket_rng, material, situation, queue, vocabulary)
        while ticket.text in texts:
            ticket = compose_ticket(ticket_rng, material, situation, queue, vocabulary)
        texts.add(ticket.text)
        tickets[key] = ticket
    return tickets


def share_out(total: int, weights: Mapping[str, int]) -> dict[str, int]:
    """Split a number by weight, without loss: the largest remainders are rounded up."""
    exact = {name: total * weight / sum(weights.values()) for name, weight in weights.items()}
    shares = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: shares[name] - exact[name])
    for name in by_remainder[: total - sum(shares.values())]:
        shares[name] += 1
    return shares


def ticket_row(key: str, ticket: Ticket, vocabulary: Vocabulary) -> Row:
    """Turn a ticket into its row."""
    return {
        "id": key,
        "text": ticket.text,
        "queue": ticket.situation.queue,
        "flags": list(ticket.flags),
        "entities": [
            {"start": span.start, "end": span.end, "label": label_of(span, vocabulary)}
            for span in ticket.spans
        ],
    }


def label_of(span: Span, vocabulary: Vocabulary) -> str:
    """Give the entity label of a span; the slot `product` stands for whatever kind is meant."""
    return "product" if span.slot == "product" else vocabulary.slots[span.slot]


def question_rows(
    tickets: Mapping[str, Ticket], material: Material, vocabulary: Vocabulary
) -> list[Row]:
    """Ask one question about each of some tickets."""
    rng = Random(f"{SEED}/{material.split}/questions")
    chosen = sorted(shuffled(rng, list(tickets))[: QUESTIONS[material.split]])
    rows: list[Row] = []
    for key in chosen:
        question, span = ask(rng, tickets[key], material, vocabulary)
        rows.append(question_row(f"{key}-q", tickets[key].text, question, span))
    return rows


def ask(
    rng: Random, ticket: Ticket, material: Material, vocabulary: Vocabulary
) -> tuple[str, tuple[int, int] | None]:
    """Choose a question about a ticket; return it with the place of its answer, if it has one."""
    own = (ticket.situation.question, ticket.answer)
    elsewhere = [s.question for s in material.situations if s.queue != ticket.situation.queue]
    about_slots = [
        (pick(rng, wordings), span)
        for slot, wordings in material.phrases.questions.items()
        for span in find_slot(slot, ticket, vocabulary)
    ]
    wants_answer = rng.random() >= UNANSWERABLE
    fitting = [asked for asked in about_slots if (asked[1] is not None) == wants_answer]
    if (own[1] is not None) == wants_answer and (rng.random() < 0.6 or not fitting):
        return own
    if not wants_answer and (rng.random() < 0.5 or not fitting):
        return pick(rng, elsewhere), None
    return pick(rng, fitting) if fitting else own


def find_slot(slot: str, ticket: Ticket, vocabulary: Vocabulary) -> list[tuple[int, int] | None]:
    """Find the answer to "which {slot} is named": one place, or None, or nothing where unclear."""
    if slot in ("product", "amount", "place"):
        spans = [s for s in ticket.spans if label_of(s, vocabulary) == slot]
    elif slot == "firm":
        spans = [
            s
            for s in ticket.spans
            if label_of(s, vocabulary) == "organisation" and s.slot != "shop"
        ]
    else:
        spans = [s for s in ticket.spans if s.slot == slot]
    if not spans:
        return [None]
    surfaces = {ticket.text[s.start : s.end] for s in spans}
    is_unclear = slot in ("product", "firm") and len(surfaces) > 1
    is_other = slot == "firm" and spans[0].slot not in ("firm", "firm2")
    return [] if is_unclear or is_other else [(spans[0].start, spans[0].end)]


def question_row(key: str, context: str, question: str, span: tuple[int, int] | None) -> Row:
    """Turn a question into its row, in SQuAD's shape."""
    return {
        "id": key,
        "context": context,
        "question": question,
        "answers": {
            "text": [context[span[0] : span[1]]] if span else [],
            "answer_start": [span[0]] if span else [],
        },
    }


def summary_rows(tickets: Mapping[str, Ticket], material: Material) -> list[Row]:
    """Summarise some of the longer tickets."""
    rng = Random(f"{SEED}/{material.split}/summaries")
    long = [key for key, ticket in tickets.items() if ticket.sentences >= LONG_TICKET]
    chosen = sorted(shuffled(rng, long)[: SUMMARIES[material.split]])
    return [
        {"id": key, "text": tickets[key].text, "summary": summarise(rng, tickets[key], material)}
        for key in chosen
    ]


def summarise(rng: Random, ticket: Ticket, material: Material) -> str:
    """Say a ticket in one line."""
    main_point = ticket.situation.summary.format_map(ticket.values)
    tails = [pick(rng, material.phrases.tails[flag]) for flag in ticket.flags]
    return "; ".join([main_point, *tails]) + "."


def to_json_lines(rows: Sequence[Row]) -> bytes:
    """Write rows as compact JSON Lines in UTF-8."""
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    return ("\n".join(lines) + "\n").encode()


if __name__ == "__main__":
    main()
