"""What a site or publisher puts around every text: cookie banners, navigation, share buttons, copyright and download notices.

short lines --whole line is such a phrase--> labels
runs of short lines at either end with navigation among them --> labels
"""

import re

from configs.schema.layout import LayoutKind
from jobs.corpus.layout.lines import Lines, next_filled

LONGEST = 320
"""A cookie banner; prose about cookies comes in longer paragraphs, or does not begin like one."""
PHRASE = re.compile(
    r"\s*(?:skip to (?:main )?(?:content|navigation)|jump to (?:navigation|content|search)"
    r"|zum (?:haupt)?inhalt springen|aller au contenu(?: principal)?|saltar al contenido"
    r"|(?:share|teilen|partager|compartir)(?: (?:this|on|via|auf|sur|en)\b[\w ]{0,30})?:?"
    r"|(?:click to )?share (?:on|via|to) [\w ()]+|click to [\w ]{3,40}\(opens in new window\)|tweet(?: this)?"
    r"|pin it|print this (?:page|article)|e-?mail this(?: page| article)?"
    r"|follow us(?: on [\w, ]+)?|like us on facebook|folgen sie uns[\w ,]*"
    r"|(?:subscribe|sign up)(?: (?:to|for) (?:our |the )?(?:\w+ )?newsletters?(?:[\w ]*))?[.!]?"
    r"|newsletter(?: abonnieren)?|jetzt (?:anmelden|abonnieren)|get our newsletter[\w ]*"
    r"|(?:accept|reject|allow)(?: all)?(?: cookies)?|alle (?:cookies )?(?:akzeptieren|ablehnen)"
    r"|cookie (?:settings|preferences|policy)|cookie-einstellungen|manage (?:cookies|preferences)|got it!?"
    r"|tout accepter"
    r"|back to (?:top|home)|nach oben|zurück zur (?:startseite|übersicht)|read more(?: »|\.{3}|…)?|weiterlesen"
    r"|continue reading|load more|show more|view all"
    r"|related (?:posts|articles|stories|content)|you (?:may|might) also like|ähnliche (?:artikel|beiträge)"
    r"|leave a (?:comment|reply)|(?:\d+|no) comments?|post a comment|kommentar (?:schreiben|hinterlassen)"
    r"|advertisement|anzeige|sponsored(?: content)?|log ?in|sign in|anmelden|register|create (?:an )?account"
    r"|my account|cart \(\d+\)|add to cart|all rights reserved\.?|alle rechte vorbehalten\.?"
    r"|(?:privacy (?:policy|notice)|terms (?:of|and|&) (?:use|service|conditions)|impressum"
    r"|datenschutz(?:erklärung)?|agb|contact us|imprint|disclaimer|sitemap|accessibility)"
    r"(?:\s*[|•·/–-]\s*[\w &]{2,30}){0,8}"  # noqa: RUF001
    r")\s*",
    re.IGNORECASE,
)
SENTENCES = re.compile(
    r"\s*(?:(?:we|this (?:web)?site|our (?:web)?site|this page) uses? cookies\b|(?:diese"
    r"|unsere) (?:web)?(?:site|seite) (?:verwendet|benutzt|nutzt) cookies|wir (?:verwenden|nutzen"
    r"|setzen) cookies|by (?:continuing|using) (?:to (?:use|browse) )?this (?:web)?site,? you (?:agree|accept"
    r"|consent)"
    r"|ce site utilise des cookies|(?:please )?enable javascript|javascript is (?:disabled|required)"
    r"|your browser (?:does not support|is out of date)"
    r"|downloaded (?:from|by|on)\b.{0,150}(?:\d{4}|https?:|www\.|\bby\b)"
    r"|this article is (?:protected by copyright|licensed under)"
    r"|this is an open[- ]access article\b.{0,40}(?:distributed|under)|for personal use only\b"
    r"|see (?:the )?terms and conditions \(https?"
    r"|(?:no part of this (?:publication|book) may be reproduced)|permission to make digital or hard copies of"
    r"|unauthorized (?:use|reproduction)\b|published by (?:elsevier|springer|wiley|oxford university press"
    r"|john wiley|cambridge university press)[^.]{0,60}\.?\s*$)",
    re.IGNORECASE,
)
COPYRIGHT = re.compile(
    r"\s*(?:©|\(c\)|copyright\s*(?:©|\(c\))?)\s*(?:copyright\s*)?(?:\d{4}|[A-Z][\w ,&.]{2,60}\d{4}).{0,140}",
    re.IGNORECASE,
)
THIRD = re.compile(r"\s*\(c\)", re.IGNORECASE)
SECOND = re.compile(r"\(b\)", re.IGNORECASE)
NO_OWNER = re.compile(
    r"\s*(?:\(c\)|copyright)\s*\d{4}\s+(?!by\b|the\b|all\b)(?-i:[a-z])[\w-]*(?!\S*\.\w)", re.IGNORECASE
)
"""(c) 1900 walls of brick were counted: the third point of a list, or where a sentence was wrapped."""
LICENCE = re.compile(
    r"permission (?:is|to)\b.{0,60}(?:granted|copy|use)|redistribution and use|licensed under the|free software"
    r"|terms and conditions for use|GNU|warranty|public license|SPDX",
    re.IGNORECASE,
)
"""A licence says whose it is in the same words as a publisher: its text is no boilerplate."""
BEGINNINGS = frozenset(
    (  # noqa: SIM905
        "ski jum zum all sal sha tei par com cli twe pin pri e-m ema fol lik sub sig new jet get acc rej coo man got "
        "tou bac nac zur rea wei con loa sho vie rel you ähn lea pos kom adv anz spo log anm reg cre car add ter imp "
        "dat agb dis sit thi our die uns wir ple ena jav dow for see per una pub (c) cop"
    ).split()
) | {"no ", "my ", "we ", "by ", "ce "}
"""First three letters of what the patterns above find, so that most lines are no business of theirs."""
MOST_NOTICES = 2
"""Different copyright lines: a text with more of them is about who owns what."""
NAVIGATION = re.compile(
    r"\s*(?:home(?:page)?|menu|search|about(?: us)?|contact(?: us)?|news|blog|shop|products?|services?|faq|help"
    r"|login|log in|sign in|register|cart|archive|careers|jobs|press|events|startseite|produkte|über uns|kontakt"
    r"|aktuelles|suche|menü|hilfe|accueil|inicio|next|previous|prev|weiter|zurück|download|print|share|facebook"
    r"|twitter|linkedin|instagram|youtube|rss|english|deutsch|français|español|close|open menu"
    r"|toggle navigation|topics|categories|tags)\s*",
    re.IGNORECASE,
)
FEWEST_NAVIGATION = 3
"""Neighbouring lines of a menu: one alone is a heading."""
AT_ENDS = 60
"""Filled lines from either end where menus are looked for."""
ITEM = re.compile(r"\s*[•*-]\s*")
"""How the HTML reader, and Markdown, begin an item of a list."""


def find_boilerplate(lines: Lines) -> dict[int, LayoutKind]:
    texts = _without_bullets(lines.texts)
    found = {
        index
        for index, text in enumerate(texts)
        if text and len(text) <= LONGEST and _may_begin(text) and _is_boilerplate(texts, index)
    }
    notices = {index for index in found if COPYRIGHT.fullmatch(texts[index])}
    if len({texts[index].strip() for index in notices}) > MOST_NOTICES:
        found -= notices
    filled = [index for index in range(len(texts)) if texts[index].strip()]
    for run in _runs(
        [
            index
            for index in sorted({*filled[:AT_ENDS], *filled[-AT_ENDS:]})
            if NAVIGATION.fullmatch(texts[index]) or index in found
        ],
        texts,
    ):
        menu = sum(NAVIGATION.fullmatch(texts[index]) is not None for index in run)
        if menu >= FEWEST_NAVIGATION or (menu and len(run) >= FEWEST_NAVIGATION):
            found |= set(run)
    return dict.fromkeys(found, "boilerplate")


def _without_bullets(texts: list[str]) -> list[str]:
    """The lines, those of the page's own lists without their bullets."""
    plain = list(texts)
    for run in _runs([index for index, text in enumerate(texts) if ITEM.match(text)], texts):
        items = [ITEM.sub("", texts[index], count=1) for index in run]
        if _is_of_the_page(items, _line_before(texts, run[0])):
            for index, item in zip(run, items, strict=True):
                plain[index] = item
    return plain


def _is_of_the_page(items: list[str], before: str) -> bool:
    """Whether a list is a menu or of buttons. The text's own may have Sign in among its steps, or a colon before it."""
    if before.rstrip().endswith(":") and not PHRASE.fullmatch(before):
        return False
    menu = sum(NAVIGATION.fullmatch(item) is not None for item in items)
    buttons = sum(PHRASE.fullmatch(item) is not None for item in items if not NAVIGATION.fullmatch(item))
    return menu >= FEWEST_NAVIGATION or menu + buttons == len(items)


def _line_before(texts: list[str], index: int) -> str:
    before = next_filled(texts, index - 1, -1, ())
    return "" if before is None else texts[before]


def _may_begin(text: str) -> bool:
    first = text.lstrip()[:3].lower()
    return first in BEGINNINGS or first[:1] == "©" or first[:1].isdigit()


def _is_boilerplate(texts: list[str], index: int) -> bool:
    text = texts[index]
    if len(text) <= 120 and PHRASE.fullmatch(text):
        return not _beside_licence(texts, index)
    if SENTENCES.match(text):
        return not _beside_licence(texts, index)
    return COPYRIGHT.fullmatch(text) is not None and not _is_point(texts, index) and not _beside_licence(texts, index)


def _is_point(texts: list[str], index: int) -> bool:
    if NO_OWNER.match(texts[index]):
        return True
    return THIRD.match(texts[index]) is not None and any(
        SECOND.search(text) for text in texts[max(0, index - 10) : index]
    )


def _beside_licence(texts: list[str], index: int) -> bool:
    return any(LICENCE.search(text) for text in texts[max(0, index - 6) : index + 10])


def _runs(indices: list[int], texts: list[str]) -> list[list[int]]:
    """Indices with nothing but empty lines between them."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and not any(texts[between].strip() for between in range(runs[-1][-1] + 1, index)):
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs
