"""What share of planted values a run's redactor finds, by kind; and how seldom it takes something else for one.

seed --> values that are nobody's --> sentences --the redactor of the run--> recall
         numbers that look like them ----------------------------------------> precision

The values are reserved for examples by whoever gives them out, so they may stand in logs. A recall of canaries is that of the
shapes below, written as people write them; texts hold other shapes too, so it bounds the recall on them from above.
"""

import random
from collections import Counter
from collections.abc import Callable

from configs.errors import UserError
from configs.schema.pii import Pii, PiiKind
from jobs.corpus.pii import redact

CANARIES_PER_KIND = 60
"""One that is missed costs 1.7 % of recall, so 0.95 allows three."""
LOOK_ALIKE_SENTENCES = 280
"""About 20 of each."""

GIVEN_NAMES = ("Ada", "Grace", "Emmy", "Alan", "Rosalind", "Max", "Lise", "Niels")
FAMILY_NAMES = ("Lovelace", "Hopper", "Noether", "Turing", "Franklin", "Planck", "Meitner", "Bohr")
FRAMES = (
    "{}", "The form was signed and {} was written at its end.", "Participants could reach us ({}) at any time.",
    "Contact: {}.", "It said: \"{}\", and nothing else.", "We noted {}; n = 12, p < 0.001.", "First line.\n{}\nLast line.",
    "| site 3 | {} | 2019-04-12 |",
)  # fmt: skip
"""Around a canary: prose, brackets, quotes, figures, lines, tables."""


def _names(random_: random.Random) -> tuple[str, str]:
    return random_.choice(GIVEN_NAMES), random_.choice(FAMILY_NAMES)


def _digits(random_: random.Random, count: int) -> str:
    return "".join(random_.choices("0123456789", k=count))


def _letters(random_: random.Random, count: int) -> str:
    """Of base64url, with a digit in any case."""
    return "7" + "".join(random_.choices("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789", k=count - 1))


def _email(random_: random.Random) -> str:
    """RFC 2606: example.com and .test are nobody's, and xn--zckzah is the Japanese .test."""
    given, family = _names(random_)
    local = random_.choice((f"{given}.{family}", f"{given[0]}_{family}".lower(), f"{family}+lab{_digits(random_, 2)}"))
    domains = (
        "example.com",
        "mail.example.org",
        "uni-x.test",
        "EXAMPLE.NET",
        "Uni-X.TEST",
        "Mail.Uni-X.Test",
        "uni-x.xn--zckzah",
    )
    return f"{local}@{random_.choice(domains)}"


def _ip(random_: random.Random) -> str:
    """RFC 5737 and RFC 3849: networks for documentation."""
    host = random_.randrange(1, 255)
    return random_.choice(
        (f"192.0.2.{host}", f"198.51.100.{host}", f"203.0.113.{host}", f"2001:db8::{host:x}:1", f"2001:db8:{host:x}:2:3:4:5:6")
    )  # fmt: skip


def _card(random_: random.Random) -> str:
    """The issuers' test numbers."""
    number = random_.choice(
        ("4111111111111111", "5555555555554444", "378282246310005", "6011111111111117", "2223003122003222")
    )
    gap = random_.choice(("", " ", "-"))
    if len(number) == 15:
        return gap.join((number[:4], number[4:10], number[10:]))
    return gap.join(number[place : place + 4] for place in range(0, 16, 4))


def _iban(random_: random.Random) -> str:
    """The examples of the IBAN registry."""
    number = random_.choice(
        ("GB82WEST12345698765432", "DE89370400440532013000", "FR1420041010050500013M02606", "NO9386011117947")
    )
    number = random_.choice((number, number.lower()))
    gap = random_.choice(("", " ", "\n"))
    return gap.join(number[place : place + 4] for place in range(0, len(number), 4))


def _phone(random_: random.Random) -> str:
    """555-01xx (NANP), 020 7946 0xxx and 01632 960xxx (Ofcom): kept free for fiction."""
    last = _digits(random_, 2)
    return random_.choice(
        (f"(212) 555-01{last}", f"212-555-01{last}", f"212.555.01{last}", f"+1 212 555 01{last}", f"1-800-555-01{last}",
         f"+44 20 7946 09{last}", f"+441632960{_digits(random_, 3)}", f"+44 (0)20 7946 00{last}",
         f"+44 (0)20 / 7946 00{last}", f"0044 20 7946 00{last}", f"0044 (0)20-7946-00{last}")
    )  # fmt: skip


def _national_phone(random_: random.Random) -> str:
    last = _digits(random_, 2)
    return random_.choice((f"020 7946 00{last}", f"01632 9600{last}", f"(020) 7946 00{last}", f"020 / 79 46 00 {last}"))


def _ssn(random_: random.Random) -> str:
    """987-65-4320 to -4329 were kept for advertisements; the other two are void since they were printed."""
    return random_.choice((f"987-65-432{_digits(random_, 1)}", "078-05-1120", "219-09-9999"))


def _credentials(random_: random.Random) -> str:
    return f"{_names(random_)[1].lower()}:{_letters(random_, 10)}@db.example.com"


def _mac(random_: random.Random) -> str:
    """RFC 7042: 00-00-5E-00-53-xx is for documentation."""
    gap = random_.choice((":", "-"))
    address = gap.join(("00", "00", "5e", "00", "53", f"{random_.randrange(256):02x}"))
    return random_.choice((address, address.upper()))


def _key(random_: random.Random) -> str:
    body = "\n".join(_letters(random_, 64) for _ in range(3))
    pem = f"-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----"
    jwt = f"eyJ{_letters(random_, 20)}.{_letters(random_, 40)}.{_letters(random_, 43)}"
    return random_.choice(
        (pem, jwt, "AKIAIOSFODNN7EXAMPLE", f"ghp_{_letters(random_, 36)}", f"AIza{_letters(random_, 35)}",
         f"npm_{_letters(random_, 36)}", f"pypi-AgEIcHlwaS5vcmc{_letters(random_, 60)}", f"dckr_pat_{_letters(random_, 27)}",
         f"SG.{_letters(random_, 22)}.{_letters(random_, 43)}",
         f"hooks.slack.com/services/T00000000/B00000000/{_letters(random_, 24)}")
    )  # fmt: skip


def _password(random_: random.Random) -> str:
    return _letters(random_, random_.randrange(8, 24))


def _token(random_: random.Random) -> str:
    return random_.choice((_letters(random_, 40), "".join(random_.choices("0123456789abcdef", k=40))))


def _from(*values: str) -> Callable[[random.Random], str]:
    return lambda random_: random_.choice(values)


Canary = tuple[Callable[[random.Random], str], tuple[str, ...]]
"""How a value is drawn and what stands right around it."""
CANARIES: dict[PiiKind, tuple[Canary, ...]] = {
    "email": ((_email, ("{}", "mailto:{}", "<{}>")),),
    "ip": ((_ip, ("{}", "the host {}")),),
    "card": ((_card, ("{}", "card {}")),),
    "iban": ((_iban, ("{}", "IBAN {}")),),
    "phone": ((_phone, ("{}", "Tel.: {}")), (_national_phone, ("Tel. {}", "phone number {}", "Fax: {}", "T: {}", "ph. {}"))),
    "ssn": ((_ssn, ("{}", "SSN {}")),),
    "credentials": ((_credentials, ("https://{}/records", "postgres://{}:5432")),),
    "secret": (
        (_key, ("{}",)),
        (_password, ("password={}", 'api_key: "{}"', '{{"client_secret": "{}"}}', "password is {}", "Passwort: {}")),
        (_token, ("API key: {}", "token: {}", "Authorization: Bearer {}")),
    ),
    "mac": ((_mac, ("{}", "MAC {}")),),
    "crypto": ((_from("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"), ("{}",)),),
    "uk_nhs": ((_from("943 476 5919", "9434765919"), ("{}",)),),
    "uk_nino": ((_from("AA 12 34 56 B", "AA123456B"), ("{}",)),),
    "es_nif": ((_from("12345678Z", "55555555K"), ("{}",)),),
    "es_nie": ((_from("X1234567L", "Z8078221M"), ("{}",)),),
    "it_fiscal_code": ((_from("RSSMRA85T10A562S",), ("{}",)),),
    "pl_pesel": ((_from("44051401359",), ("{}",)),),
    "in_aadhaar": ((_from("3123 4567 8909",), ("{}",)),),
    "de_tax_id": ((_from("86095742719", "47036892816"), ("{}",)),),
    "person": ((lambda random_: " ".join(_names(random_)), ("{}", "Dr. {}")),),
    "location": ((_from("London", "Berlin", "Paris", "Germany", "Canada"), ("in {}",)),),
    "organization": ((_from("Harvard University", "Google", "the World Health Organization"), ("{}",)),),
}  # fmt: skip

LOOK_ALIKES: tuple[str, ...] = (
    "The difference was {d}.{dd} ± 0.{dd} (95% CI 1.{dd}-2.{dd}; p = 0.0{dd}).",
    "See https://doi.org/10.1016/j.cell.2020.{dd}.{ddd} and doi:10.2174/15680266206662008{dddd}{dddd}.",
    "PMID: 3{ddd}{dddd}; PMCID: PMC{ddd}{dddd}; NCT0{ddd}{dddd}; ACTRN12619{dddd}{dddd}1; CRD42020{ddd}{ddd}.",
    "Accession GSE{ddd}{ddd}, SRR{dddd}{ddd}, rs{dddd}{ddd} and NM_00{dddd}{d}.3 were used.",
    "Recruitment ran from 2012-{d}{d}-01 to 2015-2016, 23:00-07:00 h, visits on {d}/{d}/2019 and 12.03.2018.",
    "Acetylcholinesterase (EC 3.1.1.7) and carbonic anhydrase (EC 4.2.1.{d}) were inhibited; lineage B.1.1.{ddd}.1.",
    "Analyses used R version 3.6.1, SPSS v25.0.0.{d} and Chrome/96.0.{d}.110.",
    "Au@SiO2 and Fe3O4@SiO2.The shells were {dd} nm thick; CD4+ {dddd}{ddd} cells.",
    "Patients were interviewed by telephone 3, 6, 12 and 36 months later; mobile phone, 115{d} (73.2{d}%).",
    "The peak at chr10:115{ddd}{ddd}-115{ddd}{ddd}+ lies near HLA-DRB1*15:01:01:0{d}; ISBN 978-3-16-14{dddd}-0.",
    "CAS 7732-18-5, pacing C1-X6-C2-X17-18-C3, ratios 10:20:30:40:50:60 and +1.{d} (0.3{d} - 2.{d}) months.",
    'In code: std::vector<int> v; password = read_password(); token = os.environ["TOKEN"]; 2 ** 10 = 1024.',
    "Values were 1{ddd} 2{ddd} 3{ddd} 4{ddd} 5{ddd}; grant 5R01-CA-{ddd}{ddd}-0{d}; ORCID 0000-0002-{dddd}-{dddd}.",
    "We call 1{d} {ddd} {ddd} variants in images as logo@{d}x.png with JDK 17.0.{d}.8; token: BERT-base-uncased-2019, pH: 7.{d}.",
    "Genes K2, D2, H460, TP53 and peptide AKIALLSKWERTYNMPQRST (20-mer) of T. acidophilum and E. coli LplA.",
)
"""Each "d" in braces is a random digit."""


def measured_recall(settings: Pii, salt: bytes, seed: int) -> dict[PiiKind, float]:
    """Share of planted values that became their kind's placeholder, of every wanted kind; the same for the same seed.

    `keep` is left out: a domain that is kept may be that of a canary.
    """
    settings = settings.model_copy(update={"keep": []})
    return {kind: found / CANARIES_PER_KIND for kind, found in _found(settings, salt, seed).items()}


def measured_precision(settings: Pii, salt: bytes, seed: int) -> dict[PiiKind, float]:
    """Of what was found in the canaries of a kind and in the look-alikes, the share that was planted; 1 where nothing was."""
    settings = settings.model_copy(update={"keep": []})
    random_ = random.Random(f"look-alikes {seed}")
    sentences = [_filled(random_.choice(LOOK_ALIKES), random_) for _ in range(LOOK_ALIKE_SENTENCES)]
    wrong = Counter(finding.kind for result in redact(sentences, settings, salt) for finding in result.findings)
    found = _found(settings, salt, seed)
    return {kind: right / (right + wrong[kind]) if right + wrong[kind] else 1.0 for kind, right in found.items()}


def require_recall(settings: Pii, salt: bytes, seed: int) -> dict[PiiKind, float]:
    """The measured recall. Raises UserError where a kind is below what the config asks for."""
    recall = measured_recall(settings, salt, seed)
    least = {kind: settings.minimum_canary_recall_of.get(kind, settings.minimum_canary_recall) for kind in recall}
    low = [f"{kind} {recall[kind]:.2f} (at least {least[kind]})" for kind in recall if recall[kind] < least[kind]]
    if low:
        raise UserError(
            f"pii: of the planted values too few were found: {', '.join(low)}; seed {seed}. Leave the kind out of `kinds`, "
            "name a better `ner_pipeline`, or say in `minimum_canary_recall_of` what share you accept."
        )
    return recall


def planted(kind: PiiKind, seed: int) -> list[tuple[str, str]]:
    """Sentences with a canary of the kind, each with the value in it."""
    random_ = random.Random(f"{kind} {seed}")
    sentences: list[tuple[str, str]] = []
    for number in range(CANARIES_PER_KIND):
        draw, surroundings = CANARIES[kind][number % len(CANARIES[kind])]
        value = draw(random_)
        sentences.append((random_.choice(FRAMES).format(random_.choice(surroundings).format(value)), value))
    return sentences


def _found(settings: Pii, salt: bytes, seed: int) -> dict[PiiKind, int]:
    """By kind, in how many of its sentences nothing is left of the value and a finding is of the kind."""
    canaries: list[tuple[PiiKind, str, str]] = [
        (kind, *canary) for kind in settings.wanted_kinds for canary in planted(kind, seed)
    ]
    results = redact([sentence for _, sentence, _ in canaries], settings, salt)
    found: dict[PiiKind, int] = dict.fromkeys(settings.wanted_kinds, 0)
    for (kind, _, value), result in zip(canaries, results, strict=True):
        found[kind] += value not in result.text and any(finding.kind == kind for finding in result.findings)
    return found


def _filled(sentence: str, random_: random.Random) -> str:
    for count in (4, 3, 2, 1):
        while (blank := f"{{{'d' * count}}}") in sentence:
            sentence = sentence.replace(blank, _digits(random_, count), 1)
    return sentence
