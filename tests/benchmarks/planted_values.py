"""Made-up personal values of every kind of tier `patterns`, written as people write them, and sentences to say them in.

seed --> value of a kind, nobody's --> sentence

Nothing here is shared with jobs/corpus/canaries.py, which measures a run's own rules: other values, other shapes, other
sentences, check digits computed here. What jobs/corpus/pii_patterns.py says it does not find is not among them.
"""

import base64
import ipaddress
import random
import string
from collections.abc import Callable
from dataclasses import dataclass

SYLLABLES = (
    "ber",
    "dor",
    "fen",
    "gal",
    "hol",
    "kes",
    "lun",
    "mar",
    "nor",
    "pel",
    "quo",
    "rin",
    "sol",
    "tav",
    "vey",
    "zan",
)
TOP_LEVEL = (
    "de",
    "nl",
    "fr",
    "es",
    "it",
    "ac.uk",
    "nhs.uk",
    "ac.jp",
    "com.br",
    "edu",
    "org",
    "com",
    "net",
    "io",
    "museum",
    "gov",
)
IBAN_BODIES = {
    "DE": "d" * 18, "NL": "AAAA" + "d" * 10, "FR": "d" * 10 + "c" * 11 + "d" * 2, "ES": "d" * 20, "IT": "A" + "d" * 10 + "c" * 12,
    "PL": "d" * 24, "CH": "d" * 5 + "c" * 12, "AT": "d" * 16, "SE": "d" * 20, "PT": "d" * 21, "BE": "d" * 12, "NO": "d" * 11,
    "GB": "AAAA" + "d" * 14, "IE": "AAAA" + "d" * 14,
}  # fmt: skip
"""ISO 13616: what follows country and check digits. d: digit, A: letter, c: either."""
CARDS = {
    "Visa": ("4", 16), "Mastercard": ("53", 16), "Mastercard, 2-series": ("2510", 16), "American Express": ("37", 15),
    "Discover": ("6011", 16), "Diners Club": ("36", 14), "JCB": ("3530", 16),
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    """A value inside what is said about it. Example: Said("email", "m.dorvey@solfen.de", "Post an m.dorvey@solfen.de bitte.")"""

    kind: str
    value: str
    sentence: str


def say(kind: str, draw: random.Random) -> Said:
    """A new value of a kind in one of its sentences."""
    value, frames = VALUES[kind](draw)
    return Said(kind, value, draw.choice(frames).format(value))


ANYWHERE = (
    "For questions please turn to {} before the end of the month.", "Two of the authors ({}) answered.", "» {} «",
    "Rückfragen bitte an {} richten.", "Merci de noter {} pour la suite.", "name;value\nfirst;{}\nsecond;none", "- {}", "{}, or by post.",
    "It was written on the form, see {}; the rest was empty.", "<p>{}</p>", "The record says '{}' and a date, 3 May 2011.",
)  # fmt: skip
Drawn = tuple[str, tuple[str, ...]]
"""A value and the sentences it may stand in."""


def _name(draw: random.Random, parts: int = 2) -> str:
    return "".join(draw.choices(SYLLABLES, k=parts))


def _digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choices(string.digits, k=count))


def _signs(draw: random.Random, count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    """With a digit in the middle, as long random strings have one."""
    half = count // 2
    return "".join(
        [*draw.choices(alphabet, k=half), draw.choice("23456789"), *draw.choices(alphabet, k=count - half - 1)]
    )


def _grouped(text: str, sizes: tuple[int, ...], gap: str) -> str:
    parts = []
    for size in sizes:
        parts.append(text[:size])
        text = text[size:]
    return gap.join(part for part in [*parts, text] if part)


def _email(draw: random.Random) -> Drawn:
    given, family = _name(draw, 1), _name(draw)
    local = draw.choice(
        (f"{given}.{family}", f"{given[0]}-{family}", f"{family}{_digits(draw, 2)}", f"o'{family}", f"{given}_{family}", "info",
         f"{given}.{family}+trial", given.upper())
    )  # fmt: skip
    host = draw.choice(
        (_name(draw), f"{_name(draw, 1)}-{_name(draw)}", f"mail.{_name(draw)}", f"chir.uni-{_name(draw)}")
    )
    value = f"{local}@{host}.{draw.choice(TOP_LEVEL)}"
    return value, (
        *ANYWHERE,
        "E-mail: {}",
        "Correspondence to <{}>.",
        "mailto:{}?subject=trial",
        "(e-mail: {}; no fax)",
    )


def _ip(draw: random.Random) -> Drawn:
    if draw.random() < 0.3:
        groups = [f"{draw.randrange(1, 65536):x}" for _ in range(4)]
        value = draw.choice(("2a02:810d:{}:{}:{}:{}:1:2", "2001:4860:{}:{}::{}:{}", "2600:1f18:{}:{}:{}:{}::7")).format(
            *groups
        )
        return value, (*ANYWHERE, "last login from {} at noon", "AAAA record: {}", "http://[{}]/status")
    while True:
        value = str(ipaddress.IPv4Address(draw.randrange(8 << 24, 223 << 24)))
        if ipaddress.ip_address(value).is_global:
            return value, (
                *ANYWHERE,
                "last login from {} at noon",
                "http://{}:8080/status",
                "{} - - [12/Mar/2014] GET /",
                "ssh root@{}",
            )


def _card(draw: random.Random) -> Drawn:
    prefix, length = CARDS[draw.choice(list(CARDS))]
    body = prefix + _digits(draw, length - len(prefix) - 1)
    value = body + _luhn_digit(body)
    sizes = (4, 4, 4, 4) if length == 16 else (4, 6)
    value = _grouped(value, sizes, draw.choice(("", " ", "-")))
    return value, (*ANYWHERE, "Paid by card {}, valid thru 11/27.", "PAN={}", "Karte {} belastet")


def _luhn_digit(body: str) -> str:
    """ISO/IEC 7812-1, annex B: from the right, every second digit counts double, the first of them included."""
    total = 0
    for place, digit in enumerate(reversed(body)):
        number = int(digit) * (2 if place % 2 == 0 else 1)
        total += number // 10 + number % 10
    return str(-total % 10)


def _iban(draw: random.Random) -> Drawn:
    country = draw.choice(list(IBAN_BODIES))
    alphabets = {"d": string.digits, "A": string.ascii_uppercase, "c": string.digits + string.ascii_uppercase}
    body = "".join(draw.choice(alphabets[sign]) for sign in IBAN_BODIES[country])
    number = "".join(str(string.digits.find(s) if s in string.digits else ord(s) - 55) for s in f"{body}{country}00")
    value = f"{country}{98 - int(number) % 97:02d}{body}"
    value = _grouped(value, (4,) * 9, draw.choice(("", " ")))
    return value, (
        *ANYWHERE,
        "Konto: {} (Sparkasse)",
        "IBAN: {}, BIC on request",
        "please transfer 40 EUR to {} by Friday",
    )


def _phone(draw: random.Random) -> Drawn:
    area, exchange, line = (
        f"{draw.choice('3456789')}{draw.choice('02345678')}{draw.choice('3456789')}",
        str(draw.randrange(220, 990)),
        _digits(draw, 4),
    )
    if exchange[1:] == "11":
        exchange = "372"
    if draw.random() < 0.6:
        international = (
            f"+49 30 {_digits(draw, 7)}", f"+49 (0)89 {_digits(draw, 6)}", f"+33 1 {_grouped(_digits(draw, 8), (2, 2, 2, 2), ' ')}",
            f"+91 9{_digits(draw, 4)} {_digits(draw, 5)}", f"+81-3-{_digits(draw, 4)}-{_digits(draw, 4)}",
            f"+55 11 9{_digits(draw, 4)}-{_digits(draw, 4)}", f"+1 ({area}) {exchange}-{line}", f"+1-{area}-{exchange}-{line}",
            f"+4420{_digits(draw, 8)}", f"+31.20.{_digits(draw, 3)}.{_digits(draw, 4)}",
        )  # fmt: skip
        american = (f"({area}) {exchange}-{line}", f"{area}-{exchange}-{line}", f"{area}.{exchange}.{line}")
        return draw.choice((*international, *american)), (*ANYWHERE, "Fax {}", "reachable under {} on weekdays")
    national = (
        f"030 {_digits(draw, 7)}", f"089/{_digits(draw, 8)}", f"01 {_grouped(_digits(draw, 8), (2, 2, 2, 2), ' ')}",
        f"0161 {_digits(draw, 3)} {_digits(draw, 4)}", f"0221-{_digits(draw, 3)} {_digits(draw, 4)}", f"({draw.choice(('0', '02'))}{_digits(draw, 2)}) {_digits(draw, 6)}",
    )  # fmt: skip
    words = (
        "Tel: {}",
        "Telefon {} (vormittags)",
        "tél. {}",
        "phone {}, room 12",
        "Call {} for an appointment.",
        "Fax: {}",
        "mobile no. {}",
    )
    return draw.choice(national), words


def _ssn(draw: random.Random) -> Drawn:
    area = draw.choice([number for number in range(1, 900) if number != 666])
    parts = f"{area:03d}", f"{draw.randrange(1, 100):02d}", f"{draw.randrange(1, 10000):04d}"
    if draw.random() < 0.7:
        return "-".join(parts), (*ANYWHERE, "SSN {}", "social security: {} (on file)")
    return draw.choice((" ", "")).join(parts), (
        "SSN: {} on file.",
        "social security number {}",
        "ssn {}, dob on request",
    )


def _credentials(draw: random.Random) -> Drawn:
    host = f"{_name(draw)}.{draw.choice(('internal.net', 'example-db.com', 'svc.local'))}"
    password = _signs(draw, draw.randrange(8, 20))
    user = draw.choice((_name(draw), "svc_report", "admin", ""))
    schemes = (
        ("redis",)
        if not user
        else ("postgresql", "mongodb+srv", "https", "ftp", "amqp", "mysql+pymysql", "jdbc:postgresql")
    )
    return f"{user}:{password}@{host}", tuple(
        f"{scheme}://{{}}{draw.choice(('/main', ':5432/db', ''))}" for scheme in schemes
    )


def _secret(draw: random.Random) -> Drawn:
    value = draw.choice((_token, _token, _pem, _jwt))(draw) if draw.random() < 0.6 else _password(draw)
    if value.startswith("="):
        lines = (
            "DB_PASSWORD={}", "password: {}", "passwd = '{}'", '{{"apiKey": "{}", "id": 3}}', "export API_TOKEN={}",
            "client_secret: \"{}\"", "AWS_SECRET_ACCESS_KEY={}", "access_token={}&user=3", "PWD: {}",
        )  # fmt: skip
        return value[1:], lines
    return value, ("{}", "token {} expires soon", "key:\n{}\nend of key", "`{}`", "Authorization: Bearer {}")


def _password(draw: random.Random) -> str:
    """Marked by "=": it is known by the word before it alone."""
    return "=" + _signs(draw, draw.randrange(8, 41), string.ascii_letters + string.digits + "!#%-_+/")


def _token(draw: random.Random) -> str:
    shapes = (
        "AKIA" + _signs(draw, 16, string.ascii_uppercase + "234567"), "ASIA" + _signs(draw, 16, string.ascii_uppercase + "234567"),
        f"gh{draw.choice('pousr')}_{_signs(draw, 36)}", f"github_pat_{_signs(draw, 22)}_{_signs(draw, 59)}", f"glpat-{_signs(draw, 20)}",
        f"xoxb-{_digits(draw, 11)}-{_digits(draw, 12)}-{_signs(draw, 24)}", f"AIza{_signs(draw, 35)}", f"sk_live_{_signs(draw, 24)}",
        f"rk_live_{_signs(draw, 24)}", f"hf_{_signs(draw, 34)}", f"sk-proj-{_signs(draw, 48)}",
    )  # fmt: skip
    return draw.choice(shapes)


def _pem(draw: random.Random) -> str:
    kind = draw.choice(("EC ", "OPENSSH ", "ENCRYPTED ", "DSA ", ""))
    body = base64.b64encode(draw.randbytes(draw.randrange(90, 400))).decode()
    return "\n".join([f"-----BEGIN {kind}PRIVATE KEY-----", *_lines(body, 64), f"-----END {kind}PRIVATE KEY-----"])


def _lines(text: str, width: int) -> list[str]:
    return [text[place : place + width] for place in range(0, len(text), width)]


def _jwt(draw: random.Random) -> str:
    parts = (b'{"alg":"RS256","typ":"JWT"}', b'{"sub":"' + _name(draw).encode() + b'","n":1}', draw.randbytes(64))
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def _mac(draw: random.Random) -> Drawn:
    while True:
        value = draw.choice((":", "-")).join(f"{byte:02x}" for byte in draw.randbytes(6))
        if any(sign.isalpha() for sign in value):
            return draw.choice((value, value.upper())), (
                *ANYWHERE,
                "ether {} txqueuelen 1000",
                "MAC: {}",
                "device {} joined",
            )


VALUES: dict[str, Callable[[random.Random], Drawn]] = {
    "email": _email, "ip": _ip, "card": _card, "iban": _iban, "phone": _phone, "ssn": _ssn, "credentials": _credentials,
    "secret": _secret, "mac": _mac,
}  # fmt: skip
