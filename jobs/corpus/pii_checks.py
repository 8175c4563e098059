"""Is a candidate what it looks like? Check digits, ranges that are given out, and the words around it.

Every check takes the candidate, the text right before it and the text right after it. Scientific texts are full of numbers of
the same shapes: what a check refuses is named in its docstring.
"""

import ipaddress
import re

from configs.schema.pii import PiiKind
from jobs.corpus.pii_top_level import TOP_LEVEL

COMMON_TOP_LEVEL = frozenset({"com", "org", "net", "edu", "gov"})
IP_DOCUMENTATION = [
    ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32")
]
"""RFC 5737 and RFC 3849: nobody's, but an address of the shape that is looked for; the canaries are made of them."""
VERSION_BEFORE = re.compile(
    r"(?i:\b(?:v|ver|versions?|release|build|ec|e\.c\.|sections?|sec|chapter|table|fig|figure|firmware|driver|jdk|jre|java|sdk|nt"
    r"|ratio)[ .:#]*|[a-z]/|§ ?)$", re.ASCII
)  # fmt: skip
HOST_BEFORE = re.compile(
    r"(?i:\b(?:ip|ipv4|address|addresses|addr|hosts?|servers?|dns|ping|ssh|proxy|gateway|client|router|login|forwarded)\b"
    r"|://"
    r"|\b(?:password|accepted|failed|invalid|(?:dis)?connect(?:ed|ion)?|requests?|user|root|session)\b.{0,30} from $)", re.ASCII
)  # fmt: skip
LOG_AFTER = re.compile(r" port [0-9]| - \S{1,32} \[[0-9]{2}/")
"""How sshd and web servers (Common Log Format) go on after the address of a client."""
IBAN_LENGTHS = {
    15: "NO", 16: "BE", 18: "DK FI FO GL NL FK SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH CR HR LI LV",
    22: "BG BH DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA",
    30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip
"""SWIFT's IBAN registry (ISO 13616), release 99: characters by country."""
CARD_ISSUERS = re.compile(
    r"4[0-9]{15}|5[1-5][0-9]{14}|2(?:22[1-9]|2[3-9][0-9]|[3-6][0-9]{2}|7[01][0-9]|720)[0-9]{12}|3[47][0-9]{13}"
    r"|3(?:0[0-5]|[68][0-9])[0-9]{11}|35(?:2[89]|[3-8][0-9])[0-9]{12}|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12}|62[0-9]{14}(?:[0-9]{3})?"
    r"|(?:50|5[6-8]|6[37])[0-9]{14}"
)
"""ISO/IEC 7812 ranges: Visa, Mastercard (two), Amex, Diners, JCB, Discover, UnionPay, Maestro. Visa's old 13 digits are
left out: results of long multiplications look like them."""
COUNTRY_CODES = re.compile(
    "1|7|2(?:0|7|1[12368]|[2346][0-9]|5[0-8]|9[0178])|3(?:[0-469]|[578][0-9])|4(?:[013-9]|2[0-9])|5(?:[1-8]|0[0-9]|9[0-9])"
    "|6(?:[0-6]|[789][0-9])|8(?:[1246]|[058][0-9])|9(?:[0-58]|6[0-8]|7[0-79]|9[2-68])"
)
"""ITU-T E.164 assigned zones; some of the three-digit ones only to the ten."""
VERB_BEFORE = re.compile("(?i:call|dial|mobile?|handy) +$")
"""Other than "call us at" and "Mobile:", which a number must follow."""
YEARS = re.compile(r"(?:19|20)[0-9]{2}[^0-9(]+(?:19|20)[0-9]{2}")
NUMBER_GROUPS = re.compile("[0-9]+")
TEMPLATE = re.compile(r"[${<%*…\[]|\.\.\.|(?i:xxx|your[_-])|[A-Z]+(?:_[A-Z]+)+\Z|(?i:true|false|none|null)\Z")
"""Where a value is to be filled in, as tutorials write it."""
DESCRIPTION = re.compile(r"-[a-z]{3,}[.]?\Z")
TURNS = re.compile(r"[0-9](?=[A-Za-z])|[A-Za-z](?=[0-9])|[a-z](?=[A-Z])")
LEAST_TURNS = 4
"""Between digits, small and capital letters: 16 characters of hexadecimal have about seven, names one or two."""
PATH = re.compile(r"[A-Za-z]:/|(?:~|\.{1,2})?/[A-Za-z]?[a-z._-]*(?:/|\Z)")
AWS_WORDS = re.compile(r"(?i)aws|access|key|secret|amazon")


def always(value: str, before: str, after: str) -> bool:
    return True


def is_mail_domain(value: str, before: str, after: str) -> bool:
    """Refuses "Fe3O4@SiO2.In" (a sentence follows), `a@b.sum(` (a matrix product) and names of files (`logo@2x.png`)."""
    domain = value.rpartition("@")[2]
    rest, _, top = domain.rpartition(".")
    if top.lower() in COMMON_TOP_LEVEL or top.lower().startswith("xn--"):
        return True
    if top.lower() not in TOP_LEVEL or (after.startswith("(") and len(top) > 2):
        return False
    is_formula = any(map(str.isdigit, rest))
    return top.islower() or domain.isupper() or "." in rest or (top.isupper() and not is_formula)


def is_public_ipv4(value: str, before: str, after: str) -> bool:
    """Refuses versions ("v2.1.0.3", "Chrome/96.0.1.2"), enzymes (EC 3.4.21.4), rings (8.2.1.02) and private addresses."""
    try:
        address = ipaddress.IPv4Address(value)
    except ValueError:
        return False
    if VERSION_BEFORE.search(before) or not _is_given_out(address):
        return False
    is_enzyme_class = value[1] == "." and value[0] in "1234567"
    return not is_enzyme_class or HOST_BEFORE.search(before) is not None or LOG_AFTER.match(after) is not None


def is_ipv6(value: str, before: str, after: str) -> bool:
    """Refuses network prefixes (2a00:1450::), which are providers."""
    try:
        address = ipaddress.IPv6Address(value)
    except ValueError:
        return False
    return _is_given_out(address) and len([group for group in value.split(":") if group]) > 2


def _is_given_out(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return (address.is_global and not address.is_multicast) or any(address in network for network in IP_DOCUMENTATION)


def is_card(value: str, before: str, after: str) -> bool:
    """Issuer's range, check digit, one kind of gap."""
    digits, gaps = _digits(value), {character for character in value if not character.isdigit()}
    return len(gaps) < 2 and CARD_ISSUERS.fullmatch(digits) is not None and luhn(digits) and len(set(digits)) > 1


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
    return sum(number - 9 * (number > 9) for number in doubled) % 10 == 0


def iban_expression(gap: str) -> str:
    """What has the length of its country's IBANs, with or without gaps."""
    return "|".join(
        f"(?:{'|'.join(countries.split())})[0-9]{{2}}(?:{gap}?[0-9A-Z]){{{length - 4}}}"
        for length, countries in IBAN_LENGTHS.items()
    )


def is_iban(value: str, before: str, after: str) -> bool:
    """ISO 7064 mod 97-10."""
    plain = _alphanumeric(value)
    return int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1


def is_international_phone(value: str, before: str, after: str) -> bool:
    """Refuses signed decimals ("+1.0 (0.31 - 2.1)") and positions on a chromosome (chr10:+115386962)."""
    digits = _digits(value)
    if not COUNTRY_CODES.match(digits) or not _has_phone_groups(value) or value.count("/") > 1:
        return False
    return is_north_american_digits(digits[1:]) if digits[0] == "1" else True


def is_phone_after_00(value: str, before: str, after: str) -> bool:
    """0044 20 ..., as + is dialled: refuses codes of no country."""
    country = NUMBER_GROUPS.findall(value)[0][2:]
    return COUNTRY_CODES.fullmatch(country) is not None and is_international_phone(f"+{value[2:]}", before, after)


def is_north_american_phone(value: str, before: str, after: str) -> bool:
    separators = re.findall(r"[0-9](\D)[0-9]", value)
    return is_north_american_digits(_digits(value)[-10:]) and len(set(separators[-2:])) == 1


def is_north_american_digits(digits: str) -> bool:
    """NPA-NXX-XXXX: no 0 or 1 first, and no service code (N11) as area."""
    return len(digits) == 10 and digits[0] > "1" and digits[3] > "1" and digits[1:3] != "11"


def is_national_phone(value: str, before: str, after: str) -> bool:
    """After a word as "Tel.": refuses years, ranges of them and percentages ("mobile phone, 1150 (73.25%)"), and after one that
    is a verb as well what may be a count ("we call 1234567 reads")."""
    balanced = value.count("(") == value.count(")") < 2
    is_count = (
        VERB_BEFORE.search(before) and value[0] not in "0+(" and not is_north_american_digits(_digits(value)[-10:])
    )
    return balanced and not is_count and len(_digits(value)) > 6 and not YEARS.match(value) and _has_phone_groups(value)


def _has_phone_groups(value: str) -> bool:
    """At most two single digits, as in +33 1 23 ..., and a point only where every gap is one, before two digits or more."""
    groups = NUMBER_GROUPS.findall(value)
    if "." in value and (len(groups) < 3 or min(map(len, groups[1:])) < 2):
        return False
    return sum(len(group) == 1 for group in groups) <= 2


def is_ssn(value: str, before: str, after: str) -> bool:
    """Numbers that the SSA gives out, and the ITINs of the IRS in the same shape."""
    digits = _digits(value)
    area, group, serial = int(digits[:3]), int(digits[3:5]), int(digits[5:])
    is_itin = area >= 900 and (50 <= group <= 65 or 70 <= group <= 88 or 90 <= group <= 92 or group >= 94)
    return (area not in (0, 666) and area < 900 and group > 0 and serial > 0) or is_itin


def is_filled_in(value: str, before: str, after: str) -> bool:
    """Refuses "$PASSWORD", "{token}", "<key>", "****", "your_key", "API_KEY", a placeholder, and paths ("/home/ada")."""
    return TEMPLATE.match(value) is None and PATH.match(value) is None


def is_filled_in_password(value: str, before: str, after: str) -> bool:
    return is_filled_in(value.partition(":")[2], before, after)


def is_unquoted_secret(value: str, before: str, after: str) -> bool:
    """Refuses code and prose ("password = read_it", "secret: yes"): a password without quotes has a digit."""
    return is_filled_in(value, before, after) and any(character.isdigit() for character in value)


def is_said_password(value: str, before: str, after: str) -> bool:
    """After "is": refuses "8-character" and "12-fold", which describe one."""
    is_mixed = any(map(str.isalpha, value)) and DESCRIPTION.search(value) is None
    return is_mixed and is_unquoted_secret(value, before, after)


def is_random(value: str, before: str, after: str) -> bool:
    """After a word of prose as well ("token", "bearer"): refuses names ("token: BERT-base-2019")."""
    return is_filled_in(value, before, after) and len(TURNS.findall(value)) >= LEAST_TURNS


def is_key(value: str, before: str, after: str) -> bool:
    """Refuses peptides: AKIA and 16 more letters are one as well as a key of AWS, so those need a word as "key" before them."""
    is_key_of_aws = value[:4] in ("AKIA", "ASIA")
    if not is_key_of_aws:
        return True
    return len(value) == 20 and (any(map(str.isdigit, value)) or AWS_WORDS.search(before) is not None)


def is_mac(value: str, before: str, after: str) -> bool:
    """Refuses series ("10:20:30:40:50:60"), which have no letter, and the address of everybody."""
    letters = {character for character in value.lower() if character.isalpha()}
    return bool(letters) and value.lower().strip("f:-") != ""


def normalised(kind: PiiKind, value: str) -> str:
    """The same for every way to write a value; what is hashed and what `keep` is compared with."""
    match kind:
        case "email":
            return value.casefold()
        case "ip":
            return ipaddress.ip_address(value).compressed if _is_ip(value) else value
        case "card" | "ssn" | "uk_nhs" | "pl_pesel" | "in_aadhaar" | "de_tax_id":
            return _digits(value)
        case "phone":
            digits = _digits(value)
            return f"+{digits}" if value.startswith("+") else f"+{digits[2:]}" if digits.startswith("00") else digits
        case "iban" | "mac" | "uk_nino" | "es_nif" | "es_nie" | "it_fiscal_code":
            return _alphanumeric(value).upper()
        case "person" | "location" | "organization":
            return " ".join(value.split()).casefold()
        case "credentials" | "secret" | "crypto":
            return value


def _is_ip(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _digits(value: str) -> str:
    return "".join(filter(str.isdigit, value))


def _alphanumeric(value: str) -> str:
    return "".join(filter(str.isalnum, value))
