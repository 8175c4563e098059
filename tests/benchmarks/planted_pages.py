"""Real texts as web pages of several makes, with what stands around a text on every page of a site."""

import html
import random

HOME = '<a href="/">Home</a> <a href="/about">About us</a> <a href="/login">Sign in</a> <a href="/cart">Basket (0)</a>'
HEAD = '<meta charset="utf-8"><script>window.dataLayer = [];</script><style>body {{ margin: 0 }}</style><title>{title}</title>'

TITLE_WORDS = 8

MAKES = (
    # HTML 5, as blogs and journals have it
    "<!doctype html><html lang='en'><head>" + HEAD + "</head><body><header><a href='#main'>Skip to content</a>" + HOME
    + "</header><nav><ul><li>Issues</li><li>Imprint</li></ul></nav><main id='main'><article>{text}</article></main>"
    "<aside><h2>Related</h2><ul><li>More</li></ul></aside><footer>Imprint. We use cookies.</footer></body></html>",
    # divisions with roles
    "<html><head>" + HEAD + "</head><body><div role='banner'>" + HOME + "</div><div role='navigation'>Imprint</div>"
    "<div role='main'><div class='text'>{text}</div></div><div role='contentinfo'>Our newsletter</div></body></html>",
    # nothing but a body, a form and a footer
    "<HTML><HEAD>" + HEAD + "</HEAD><BODY><NAV>" + HOME + "</NAV><DIV><DIV>{text}</DIV></DIV>"
    "<FORM action='/n'><LABEL>newsletter</LABEL><INPUT name='mail'></FORM><FOOTER>Imprint</FOOTER></BODY></HTML>",
)  # fmt: skip


def page(text: str, draw: random.Random) -> bytes:
    """A page of one of the makes; its title is what the text begins with, as it is on most pages."""
    paragraphs = [html.escape(line.strip(), quote=draw.random() < 0.5) for line in text.splitlines() if line.strip()]
    body = "\n".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    return draw.choice(MAKES).format(title=" ".join(paragraphs[0].split()[:TITLE_WORDS]), text=body).encode()
