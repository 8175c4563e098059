"""Templates written after the rules, of which only totals were looked at: other shapes and styles than the tuned ones."""

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
    title,
    wrapped,
)  # fmt: skip

Texts = Callable[[], str]


def chicago(rng: random.Random) -> str:
    return f"{family(rng)}, {person(rng).split()[0]}, and {person(rng)}. {rng.randint(1985, 2024)}. “{title(rng)}.” {journal(rng)} {rng.randint(1, 60)} ({rng.randint(1, 4)}): {pages_of(rng)}."


def letters_key(rng: random.Random) -> str:
    names = [family(rng), family(rng)]
    year = rng.randint(1985, 2022)
    key = "".join(name[0] for name in names) + str(year)[2:]
    return f"[{key}] {initials(rng, '. ')}. {names[0]} and {initials(rng, '. ')}. {names[1]}. {title(rng)}. {journal(rng)}, {rng.randint(1, 60)}:{pages_of(rng)}, {year}."


def french(rng: random.Random, number: int) -> str:
    return f"[{number}] {family(rng)} {initials(rng, '.')}., {family(rng)} {initials(rng, '.')}. — Sur la mesure des sols humides. {rng.choice(['Ann. Sci.', 'Rev. Géol.', 'Bull. Soc.'])} {rng.choice(TOWNS)}, {rng.randint(1, 90)}, {rng.randint(1960, 2015)}, p. {pages_of(rng)}."


def physics_paper(rng: random.Random, texts: Texts) -> Labelled:
    """Superscripts behind names, italic addresses, arXiv's stamp, numbers at the top right, references keyed by letters."""
    people = [person(rng) for _ in range(rng.randint(2, 5))]
    flow: Lines = [
        ("body", title(rng)),
        ("author_lists", ", ".join(f"{who},{rng.choice('12')}" for who in people[:-1]) + f", and {people[-1]}1,†"),
    ]
    flow += [
        (
            "affiliations",
            f"1Institute of Theoretical {rng.choice(FIELDS)}, {rng.choice(TOWNS)} University, {rng.choice(TOWNS)} {rng.randint(10000, 99999)}, {rng.choice(COUNTRIES)}",
        ),
        (
            "affiliations",
            f"2Laboratory for {rng.choice(TOPICS)} Sciences, {rng.choice(TOWNS)}, {rng.choice(COUNTRIES)}",
        ),
        ("affiliations", f"(Received {rng.randint(1, 28)} June 2015; published {rng.randint(1, 28)} September 2015)"),
    ]
    flow += wrapped(texts(), 100, rng, 0.5)
    for name in ("I. INTRODUCTION", "II. MODEL", "III. RESULTS", "IV. CONCLUSIONS"):
        flow += [("body", ""), ("body", name), ("body", "")]
        flow += [line for _ in range(rng.randint(2, 4)) for line in wrapped(texts(), 100, rng, 0.5)]
    flow += [
        ("body", ""),
        ("body", "ACKNOWLEDGMENTS"),
        ("body", f"This work was supported by the {rng.choice(TOWNS)} Foundation."),
        ("references", "REFERENCES"),
        ("body", ""),
    ]
    for entry in sorted(letters_key(rng) for _ in range(rng.randint(12, 30))):
        flow += wrapped(entry, 100, rng, label="references")
    head = f"{family(rng).upper()} et al. PHYSICAL FABLES B {rng.randint(60, 99)}, 0451{rng.randint(10, 99)} (2015)"
    top = lambda page: [("running_headers", head)] if page > 1 else []  # noqa: E731
    return Labelled("physics_paper", paginated(flow, 52, top, lambda page: [("page_numbers", f"045101-{page}")]), "\f")


def humanities_essay(rng: random.Random, texts: Texts) -> Labelled:
    """One author, an e-mail, no abstract, Chicago author-date, works cited, odd and even titles without form feeds."""
    name, who = title(rng, (3, 6)), person(rng)
    flow: Lines = [
        ("body", name),
        ("author_lists", who),
        ("affiliations", f"Department of History, {rng.choice(TOWNS)} College"),
        ("affiliations", f"{family(rng).lower()}@example.org"),
        ("body", ""),
    ]
    for number in range(4):
        flow += [("body", heading(rng))] if number else []
        flow += [line for _ in range(5) for line in wrapped(texts(), 70, rng, 0.4)]
    flow += [("body", ""), ("references", "Works Cited")]
    for entry in sorted(chicago(rng) for _ in range(rng.randint(8, 22))):
        flow += wrapped(entry, 70, rng, label="references")
    flow += [("body", ""), ("body", "About the author"), ("body", f"{who} teaches history and keeps bees.")]
    top = lambda page: (  # noqa: E731
        [("running_headers", f"{page}   {name}" if page % 2 == 0 else f"{who}   {page}")] if page > 1 else []
    )
    return Labelled("humanities_essay", paginated(flow, 39, top, lambda page: [], break_pages=False))


def manual(rng: random.Random, texts: Texts) -> Labelled:
    """Contents of two levels over a page break with roman numbers, version lines as footers, no references."""
    chapters = [heading(rng) for _ in range(6)]
    product = f"{rng.choice(TOWNS)} Pump {rng.randint(100, 900)}"
    contents: Lines = [("tables_of_contents", "CONTENTS"), ("tables_of_contents", f"Preface {'.' * 40} iii")]
    for number, name in enumerate(chapters, 1):
        contents += [("tables_of_contents", f"Chapter {number}: {name} {'.' * rng.randint(10, 40)} {number * 2 - 1}")]
        contents += [("tables_of_contents", f"    {heading(rng)} {'·' * rng.randint(10, 40)} {number * 2}")]
    flow: Lines = []
    for number, name in enumerate(chapters, 1):
        flow += [("body", f"Chapter {number}: {name}"), ("body", "")]
        for _ in range(4):
            flow += [*wrapped(texts(), 82, rng, 0.2), ("body", "")]
        flow += [
            ("body", f"{step}. {text}")
            for step, text in enumerate(["Close the valve.", "Wait for 2 minutes.", "Open the valve."], 1)
        ]
    footer = f"{product} User Guide, Rev. C"
    pages = paginated(
        flow, 34, lambda page: [], lambda page: [("running_headers", footer), ("page_numbers", str(page))]
    )
    return Labelled(
        "manual", [("body", product), ("body", "User Guide"), ("page_break", ""), *contents, ("page_break", ""), *pages]
    )


def french_article(rng: random.Random, texts: Texts) -> Labelled:
    """Résumé and Abstract, numbered French references, 'Reçu le', a page number between dashes; prose in German stands for French."""
    sentences = GERMAN.split(". ")
    prose = lambda: ". ".join(rng.sample(sentences, 6)).rstrip(".") + "."  # noqa: E731
    flow: Lines = [("body", "Sur la mesure des sols humides en altitude"), ("body", "")]
    flow += [
        ("author_lists", f"{person(rng)} et {person(rng)}"),
        ("affiliations", f"Laboratoire de géologie, Université de {rng.choice(TOWNS)}, {rng.choice(TOWNS)}"),
        ("affiliations", f"Reçu le {rng.randint(1, 28)} mars 1998, accepté le {rng.randint(1, 28)} juin 1998"),
        ("body", ""), ("body", "Résumé"), *wrapped(prose(), 72, rng, 0.5), ("body", "Abstract"), *wrapped(texts(), 72, rng, 0.5),
    ]  # fmt: skip
    for name in ("1. Introduction", "2. Méthodes", "3. Résultats", "4. Conclusion"):
        flow += [("body", ""), ("body", name), *[line for _ in range(3) for line in wrapped(prose(), 72, rng, 0.5)]]
    flow += [("body", ""), ("references", "Références bibliographiques")]
    for number in range(1, rng.randint(8, 18)):
        flow += wrapped(french(rng, number), 72, rng, label="references")
    return Labelled(
        "french_article",
        paginated(flow, 32, lambda page: [], lambda page: [("page_numbers", f"– {page + 110} –")]),  # noqa: RUF001
    )


def magazine(rng: random.Random, texts: Texts) -> Labelled:
    """A magazine's article page with a consent banner, a paywall line and social links."""
    before = ["Skip to navigation", "Open menu", "Home", "News", "Topics", "Events", "Sign in", "Create an account"]
    after = [
        "Share on Twitter",
        "Share on LinkedIn",
        "Follow us on Twitter",
        "You might also like",
        "Load more",
        "Cookie settings",
        "Terms of service · Privacy policy · Contact us",
        f"© {rng.choice(TOWNS)} Review 2022",
    ]
    lines: Lines = [
        ("boilerplate", text)
        for text in ["Our website uses cookies and similar tools.", "Manage preferences", "Reject all", *before]
    ]
    lines += [("body", title(rng)), ("body", f"By {person(rng)}")]
    lines += [("body", texts()) for _ in range(rng.randint(3, 5))] + [
        ("boilerplate", "Advertisement"),
        ("body", texts()),
    ]
    return Labelled("magazine", lines + [("boilerplate", text) for text in after])


TEMPLATES = (physics_paper, humanities_essay, manual, french_article)
WEB_TEMPLATES = (magazine,)
