"""What all our HTML pages share: one self-contained file without scripts, in light and dark, that escapes what it is given.

values --a template that extends page.html.jinja--> HTML
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

MINUS = "\N{MINUS SIGN}"


def render(templates: Path, template: str, **values: object) -> str:
    """A page. Values are untrusted text, but for Markup (jobs/evaluate/charts.py).

    Args:
        templates: the directory of the template; what it extends is here.
    """
    environment = Environment(
        loader=FileSystemLoader([templates, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["number"] = number
    environment.filters["share"] = share
    return environment.get_template(template).render(**values)


def percent(fraction: float) -> str:
    """-0.0834 -> −8.3 %, with the sign always written."""
    sign = MINUS if fraction < 0 else "+"
    return f"{sign}{abs(fraction) * 100:.1f} %"


def share(fraction: float) -> str:
    """0.0834 -> 8.3 %"""
    return f"{fraction * 100:.1f} %"


def number(value: object) -> str:
    """Whole numbers with thousands apart, others with as many digits as a reader compares, all else as it stands."""
    match value:
        case bool() | str() | None:
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2e}"
        case _:
            return str(value)
