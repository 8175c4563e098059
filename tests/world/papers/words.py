"""Invented people, places and journals, and two languages of prose beside the abstracts. Every draw takes a generator."""

import random
import re

from tests.world.papers.labelled import JOINED, KEPT

Lines = list[tuple[str, str]]

GIVEN = [
    "Alina",
    "Bertold",
    "Caro",
    "Dorit",
    "Edvin",
    "Fenja",
    "Gorm",
    "Hilla",
    "Ivo",
    "Jurina",
    "Kasper",
    "Lioba",
    "Marek",
    "Nuria",
    "Orla",
    "Pavel",
    "Quinn",
    "Runa",
    "Sunniva",
    "Tomas",
]
FAMILY_STARTS = [
    "Bral",
    "Dov",
    "Fen",
    "Gar",
    "Hol",
    "Jes",
    "Kel",
    "Lam",
    "Mor",
    "Nad",
    "Ost",
    "Pra",
    "Quel",
    "Rin",
    "Sav",
    "Tol",
    "Ulm",
    "Ver",
    "Wes",
    "Zan",
]
FAMILY_ENDS = [
    "ander",
    "beck",
    "dotter",
    "ez",
    "field",
    "hoven",
    "ic",
    "ini",
    "kova",
    "lund",
    "man",
    "mere",
    "oglu",
    "ova",
    "rup",
    "sen",
    "shaw",
    "stad",
    "ton",
    "ward",
]
TOWNS = [
    "Ashmere",
    "Brillow",
    "Corvale",
    "Dunhaven",
    "Eastrill",
    "Falkmoor",
    "Grenstad",
    "Hollowick",
    "Istervik",
    "Jarrowby",
    "Karlsund",
    "Lindemar",
]
COUNTRIES = ["Freedonia", "Ruritania", "Sylvania", "Genovia", "Graustark", "Elbonia"]
TOPICS = [
    "Cell",
    "Tissue",
    "Renal",
    "Cardiac",
    "Applied",
    "Comparative",
    "Clinical",
    "Marine",
    "Soil",
    "Forest",
    "Plant",
    "Neural",
    "Thermal",
    "Optical",
    "Social",
]
FIELDS = [
    "Biology",
    "Medicine",
    "Physics",
    "Chemistry",
    "Ecology",
    "Epidemiology",
    "Engineering",
    "Statistics",
    "Physiology",
    "Economics",
]
TITLE_WORDS = [
    "effects",
    "of",
    "prolonged",
    "cooling",
    "on",
    "membrane",
    "transport",
    "in",
    "isolated",
    "cells",
    "long-term",
    "outcome",
    "after",
    "early",
    "treatment",
    "randomised",
    "trial",
    "comparison",
    "two",
    "methods",
    "for",
    "estimating",
    "nitrogen",
    "uptake",
    "genetic",
    "variation",
    "among",
    "populations",
    "model-based",
    "analysis",
    "sparse",
    "signals",
    "role",
    "inflammation",
    "exercise",
    "older",
    "adults",
    "sampling",
    "design",
    "small",
    "catchments",
]

GERMAN = """Die Untersuchung wurde an zwölf Standorten über einen Zeitraum von drei Jahren durchgeführt. Dabei zeigte sich, dass die
Bodenfeuchte im Frühjahr den größten Einfluss auf das Wachstum der Keimlinge ausübte. In einer zweiten Versuchsreihe wurden die
Temperaturverhältnisse in unterschiedlichen Höhenlagen miteinander verglichen. Die Ergebnisse stützen die Annahme, dass
Niederschlagsmengen allein keine zuverlässige Vorhersage erlauben. Bemerkenswert ist außerdem die geringe Streuung der Messwerte
zwischen benachbarten Parzellen. Frühere Arbeiten hatten einen solchen Zusammenhang zwar vermutet, jedoch nicht statistisch belegt.
Für die Auswertung wurde ein gemischtes lineares Modell mit zufälligen Effekten verwendet. Auffällige Beobachtungen wurden
gesondert geprüft und gegebenenfalls von der weiteren Berechnung ausgeschlossen. Insgesamt lassen sich die beobachteten
Unterschiede am ehesten durch die Beschaffenheit des Untergrunds erklären. Weitergehende Schlussfolgerungen sind nur mit
zusätzlichen Langzeitbeobachtungen möglich. Die Genauigkeit der verwendeten Messgeräte lag durchgehend innerhalb der vom Hersteller
angegebenen Grenzen. Zur Überprüfung wurden einzelne Proben von einer unabhängigen Arbeitsgruppe erneut bestimmt.""".replace(
    "\n", " "
)

CHINESE = [
    "本研究在三个年度内对十二块样地进行了连续观测。", "结果表明,春季土壤含水量对幼苗生长的影响最为显著。",
    "为了检验这一假设,我们比较了不同海拔条件下的温度变化。", "所有样品均在采集后二十四小时内完成测定。",
    "统计分析采用线性混合模型,并以样地作为随机效应。", "与以往的报道相比,本文得到的变异系数明显较低。",
    "这可能与测量仪器的精度以及取样深度有关。", "进一步的研究需要更长时间序列的数据支持。",
    "各处理之间的差异在秋季逐渐减小。", "因此,仅凭降水量难以对产量作出可靠的预测。",
]  # fmt: skip


def family(rng: random.Random) -> str:
    return rng.choice(FAMILY_STARTS) + rng.choice(FAMILY_ENDS)


def initials(rng: random.Random, join: str) -> str:
    return join.join(rng.choice("ABCDEFGHJKLMNPRSTW") for _ in range(rng.choice([1, 2])))


def person(rng: random.Random) -> str:
    middle = f" {rng.choice('ABCDEFGHKLMPRST')}." if rng.random() < 0.4 else ""
    return f"{rng.choice(GIVEN)}{middle} {family(rng)}"


def title(rng: random.Random, words: tuple[int, int] = (6, 13)) -> str:
    return " ".join(rng.choice(TITLE_WORDS) for _ in range(rng.randint(*words))).capitalize()


def heading(rng: random.Random) -> str:
    return " ".join(rng.choice(TITLE_WORDS) for _ in range(rng.randint(2, 5))).capitalize()


def journal(rng: random.Random) -> str:
    return rng.choice(
        [
            f"Journal of {rng.choice(TOPICS)} {rng.choice(FIELDS)}",
            f"Annals of {rng.choice(FIELDS)}",
            f"{rng.choice(TOPICS)} {rng.choice(FIELDS)} Letters",
        ]
    )


def short_journal(rng: random.Random) -> str:
    return f"{rng.choice(['J', 'Ann', 'Arch', 'Int J'])} {rng.choice(TOPICS)[:5]} {rng.choice(FIELDS)[:4]}"


def pages_of(rng: random.Random) -> str:
    first = rng.randint(1, 1800)
    return f"{first}–{first + rng.randint(3, 19)}" if rng.random() < 0.5 else f"{first}-{first + rng.randint(3, 19)}"  # noqa: RUF001


def wrapped(text: str, width: int, rng: random.Random, hyphens: float = 0.0, label: str = "body") -> Lines:
    """The text in lines of at most `width`; with probability `hyphens` a word that does not fit is broken."""
    lines: Lines = []
    line = ""
    words = text.split()
    while words:
        word = words.pop(0)
        if not line or len(line) + 1 + len(word) <= width:
            line = f"{line} {word}" if line else word
            continue
        broken = _broken(word, width - len(line) - 2, rng) if rng.random() < hyphens else None
        if broken is None:
            lines.append((label, line))
            line = word
        else:
            head, tail, mark = broken
            lines.append((label + mark, f"{line} {head}-"))
            line = tail
    return [*lines, (label, line)] if line else lines


def _broken(word: str, room: int, rng: random.Random) -> tuple[str, str, str] | None:
    """A head that fits, the tail, and whether the hyphen is the word's own."""
    own = [
        match.start()
        for match in re.finditer("-", word)
        if 2 <= match.start() <= room and word[match.start() + 1 :][:1].isalpha() and word[match.start() - 1].isalpha()
    ]
    if own:
        return word[: own[-1]], word[own[-1] + 1 :], KEPT
    whole = re.match(r"[^\W\d_]+", word)
    if whole is None or "-" in word:
        return None
    places = [
        at
        for at in range(3, min(room, len(whole[0]) - 3) + 1)
        if word[at - 1].lower() in "aeiounrl" and word[at].lower() not in "aeiouäöü"
    ]
    if not places:
        return None
    at = rng.choice(places)
    return word[:at], word[at:], JOINED


def paginated(flow: Lines, per_page: int, top, bottom, break_pages: bool = True) -> Lines:
    """The lines in pages, between what `top(page)` and `bottom(page)` give; `break_pages` writes page breaks between."""
    made: Lines = []
    for page, start in enumerate(range(0, len(flow), per_page), 1):
        if page > 1 and break_pages:
            made.append(("page_break", ""))
        made += [*top(page), *flow[start : start + per_page], *bottom(page)]
    return made
