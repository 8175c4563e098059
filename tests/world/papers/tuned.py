"""Templates that the rules were written with. Each takes a generator of numbers and one of texts."""

import random
from collections.abc import Callable

from tests.world.papers.labelled import Labelled
from tests.world.papers.words import (
    COUNTRIES,
    FIELDS,
    GERMAN,
    TOPICS,
    TOWNS,
    Lines,
    family,
    heading,
    initials,
    journal,
    pages_of,
    paginated,
    person,
    short_journal,
    title,
    wrapped,
)  # fmt: skip

Texts = Callable[[], str]
"""The next abstract."""


def vancouver(rng: random.Random, number: int) -> str:
    authors = ", ".join(f"{family(rng)} {initials(rng, '')}" for _ in range(rng.randint(2, 6)))
    return (
        f"{number}. {authors}{rng.choice(['', ', et al'])}. {title(rng)}. {short_journal(rng)}. "
        f"{rng.randint(1985, 2024)};{rng.randint(1, 90)}({rng.randint(1, 12)}):{pages_of(rng)}."
    )


def apa(rng: random.Random) -> str:
    authors = ", ".join(f"{family(rng)}, {initials(rng, '. ')}." for _ in range(rng.randint(1, 4)))
    return (
        f"{authors}, & {family(rng)}, {initials(rng, '. ')}. ({rng.randint(1985, 2024)}). {title(rng)}. {journal(rng)}, "
        f"{rng.randint(1, 60)}({rng.randint(1, 12)}), {pages_of(rng)}. https://doi.org/10.5555/{rng.randint(1000, 9999)}.{rng.randint(10, 99)}"
    )


def ieee(rng: random.Random, number: int) -> str:
    authors = ", ".join(f"{initials(rng, '. ')}. {family(rng)}" for _ in range(rng.randint(1, 3)))
    return (
        f"[{number}] {authors}, and {initials(rng, '. ')}. {family(rng)}, “{title(rng)},” {journal(rng)}, vol. {rng.randint(1, 60)}, "
        f"no. {rng.randint(1, 12)}, pp. {pages_of(rng)}, {rng.randint(1990, 2024)}."
    )


def german_reference(rng: random.Random) -> str:
    return (
        f"{family(rng)} {initials(rng, '')}, {family(rng)} {initials(rng, '')} ({rng.randint(1985, 2024)}) Zur Bedeutung der Bodenfeuchte "
        f"für das Wachstum von Keimlingen. Z {rng.choice(TOPICS)} {rng.randint(10, 90)}: {pages_of(rng)}"
    )


def sections(
    texts: Texts, rng: random.Random, width: int, hyphens: float, names: list[str], blank: bool = True
) -> Lines:
    flow: Lines = []
    for name in names:
        flow += [("body", ""), ("body", name)]
        for _ in range(rng.randint(1, 3)):
            flow += ([("body", "")] if blank else []) + wrapped(texts(), width, rng, hyphens)
    return flow


def biomedical_article(rng: random.Random, texts: Texts) -> Labelled:
    """Two lines of running headers, a footer with the page number, form feeds, Vancouver references."""
    name, first = journal(rng), rng.randint(100, 900)
    people = [person(rng) for _ in range(rng.randint(3, 7))]
    numbered = [f"{who}{rng.choice(['1', '2', '1,2'])}{'*' if index == 0 else ''}" for index, who in enumerate(people)]
    flow: Lines = [("body", title(rng)), ("body", "")]
    flow += wrapped(", ".join(numbered[:-1]) + " and " + numbered[-1], 80, rng, label="author_lists")
    flow += [
        ("body", ""),
        (
            "affiliations",
            f"1 Department of {rng.choice(TOPICS)} {rng.choice(FIELDS)}, University of {rng.choice(TOWNS)}, {rng.choice(TOWNS)}, {rng.choice(COUNTRIES)}",
        ),
        (
            "affiliations",
            f"2 Institute for {rng.choice(FIELDS)}, {rng.choice(TOWNS)} University Hospital, {rng.choice(COUNTRIES)}",
        ),
        (
            "affiliations",
            f"* Correspondence to: {people[0]}, Department of {rng.choice(FIELDS)}, {rng.choice(TOWNS)}. E-mail: {family(rng).lower()}@example.org",
        ),
        ("affiliations", f"Received {rng.randint(1, 28)} March 2019; accepted {rng.randint(1, 28)} July 2019"),
        ("body", ""),
        ("body", "Abstract"),
    ]
    flow += wrapped(texts(), 80, rng, 0.5)
    flow += sections(texts, rng, 80, 0.5, ["Introduction", "Materials and methods", "Results", "Discussion"])
    flow += [
        ("body", ""),
        ("body", "Acknowledgements"),
        ("body", f"We thank {person(rng)} for technical help and the staff of the field station."),
    ]
    flow += [("body", ""), ("references", "References")]
    for number in range(1, rng.randint(15, 40)):
        flow += wrapped(vancouver(rng, number), 80, rng, 0.5, "references")
    flow = [(label.rstrip("~=") if label.startswith("references") else label, text) for label, text in flow]
    top = lambda page: (  # noqa: E731
        [("running_headers", f"{people[0].split()[-1]} et al." if page % 2 else f"{name} {rng.choice(['', ''])}(2019)")]
        if page > 1
        else []
    )
    bottom = lambda page: [("page_numbers", str(first + page))]  # noqa: E731
    return Labelled("biomedical_article", paginated(flow, 44, top, bottom), rng.choice(["\n\f", "\f"]))


def preprint(rng: random.Random, texts: Texts) -> Labelled:
    """No form feeds; page numbers alone on their lines; names above shared addresses; APA references; an appendix that stays."""
    people = [person(rng) for _ in range(rng.randint(2, 4))]
    flow: Lines = [("body", title(rng)), ("author_lists", ", ".join(people))]
    flow += [
        ("affiliations", f"School of {rng.choice(FIELDS)}, {rng.choice(TOWNS)} University"),
        ("affiliations", "{" + ",".join(who.split()[-1].lower() for who in people) + "}@example.edu"),
        ("body", "Abstract"),
    ]
    flow += wrapped(texts(), 90, rng, 0.4)
    flow += sections(
        texts,
        rng,
        90,
        0.4,
        ["1 Introduction", "2 Related work", "3 Method", "4 Experiments", "5 Conclusion"],
        blank=False,
    )
    flow += [("references", "References")]
    for entry in sorted(apa(rng) for _ in range(rng.randint(10, 30))):
        flow += wrapped(entry, 90, rng, label="references")
    flow += [("body", "A Additional results")]
    flow += [line for _ in range(3) for line in wrapped(texts(), 90, rng, 0.4)]
    return Labelled(
        "preprint", paginated(flow, 46, lambda page: [], lambda page: [("page_numbers", str(page))], break_pages=False)
    )


def thesis(rng: random.Random, texts: Texts) -> Labelled:
    """A table of contents with dotted leaders, chapter names as running headers, IEEE references and an appendix after."""
    chapters = [heading(rng) for _ in range(4)]
    page = 1
    contents: Lines = [("tables_of_contents", rng.choice(["Contents", "Table of Contents", "TABLE OF CONTENTS"]))]
    for number, chapter in enumerate(chapters, 1):
        contents.append(("tables_of_contents", f"{number} {chapter} {'.' * rng.randint(8, 50)} {page}"))
        for part in range(1, 4):
            contents.append(
                ("tables_of_contents", f"{number}.{part} {heading(rng)} {'. ' * rng.randint(8, 30)}{page + part}")
            )
        page += rng.randint(4, 9)
    contents.append(("tables_of_contents", f"Bibliography {'.' * 30} {page}"))
    flow: Lines = []
    for number, chapter in enumerate(chapters, 1):
        flow += [("body", f"Chapter {number}"), ("body", chapter), ("body", "")]
        for _ in range(7):
            flow += [*wrapped(texts(), 78, rng, 0.3), ("body", "")]
    flow += [("references", "Bibliography"), ("body", "")]
    for number in range(1, rng.randint(20, 40)):
        flow += wrapped(ieee(rng, number), 78, rng, label="references")
    flow += [("body", ""), ("body", "Appendix A"), ("body", "Questionnaire")]
    flow += [line for _ in range(3) for line in [("body", ""), *wrapped(texts(), 78, rng, 0.3)]]
    where = lambda page: min(3, (page - 1) * 4 * 40 // max(len(flow), 1))  # noqa: E731
    top = lambda page: [  # noqa: E731
        (
            "running_headers",
            f"{page} CHAPTER {where(page) + 1}. {chapters[where(page)].upper()}"
            if page % 2
            else f"{chapters[where(page)]} {page}",
        )
    ]
    pages = paginated(flow, 40, top, lambda page: [])
    front: Lines = [("body", title(rng)), ("body", "A thesis"), ("page_break", ""), *contents, ("page_break", "")]
    return Labelled("thesis", front + pages)


def german_article(rng: random.Random, texts: Texts) -> Labelled:
    """German prose, Literatur, Zusammenfassung, a header with the page number in it."""
    sentences = GERMAN.split(". ")
    prose = lambda: ". ".join(rng.sample(sentences, 7)).rstrip(".") + "."  # noqa: E731
    people = [person(rng) for _ in range(3)]
    flow: Lines = [("body", "Bodenfeuchte und Keimlingswachstum in Höhenlagen"), ("body", "")]
    flow += [
        ("author_lists", f"{people[0]}1, {people[1]}2 und {people[2]}1"),
        (
            "affiliations",
            f"1 Institut für {rng.choice(['Bodenkunde', 'Pflanzenbau', 'Waldökologie'])}, Universität {rng.choice(TOWNS)}",
        ),
        ("affiliations", f"2 Fakultät für Forstwissenschaften, Technische Hochschule {rng.choice(TOWNS)}"),
        ("affiliations", "Eingegangen: 3. Mai 2011 / Angenommen: 12. August 2011"),
        ("body", ""),
        ("body", "Zusammenfassung"),
    ]
    flow += wrapped(prose(), 76, rng, 0.6)
    for name in ("Einleitung", "Material und Methoden", "Ergebnisse", "Diskussion"):
        flow += [("body", ""), ("body", name)]
        flow += [line for _ in range(3) for line in wrapped(prose(), 76, rng, 0.6)]
    flow += [("body", ""), ("references", rng.choice(["Literatur", "Literaturverzeichnis"]))]
    for entry in sorted(german_reference(rng) for _ in range(rng.randint(8, 20))):
        flow += wrapped(entry, 76, rng, label="references")
    top = lambda page: (  # noqa: E731
        [
            (
                "running_headers",
                f"{200 + page} {people[0].split()[-1]} u. a." if page % 2 else f"Z. Boden u. Wald 12 {200 + page}",
            )
        ]
        if page > 1
        else []
    )
    return Labelled("german_article", paginated(flow, 36, top, lambda page: []))


def web_article(rng: random.Random, texts: Texts) -> Labelled:
    """Navigation, cookies, share buttons and a copyright line around an article."""
    lines: Lines = [
        ("boilerplate", word) for word in ["Skip to main content", "Home", "News", "About", "Contact", "Log in"]
    ]
    lines += [
        ("boilerplate", "We use cookies to improve your experience. By continuing you accept our use of cookies."),
        ("boilerplate", "Accept all"),
    ]
    lines += [
        ("body", ""),
        ("body", title(rng)),
        ("boilerplate", "Share on Facebook"),
        ("boilerplate", "Tweet"),
        ("body", ""),
    ]
    for _ in range(rng.randint(3, 6)):
        lines += [("body", texts()), ("body", "")]
    lines += [
        ("boilerplate", "Subscribe to our newsletter"),
        ("boilerplate", "Privacy Policy | Terms of Use | Contact us"),
        ("boilerplate", f"© 2021 {rng.choice(TOWNS)} Media. All rights reserved."),
    ]
    return Labelled("web_article", lines)


TEMPLATES = (biomedical_article, preprint, thesis, german_article)
WEB_TEMPLATES = (web_article,)
