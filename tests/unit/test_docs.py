"""The documents agree with the program: commands are parsed, and measuring ones composed, without running anything; make targets,
configuration keys, files and links exist; no forbidden phrase, and the README within its budget.

A command is a line of an indented code block, or inline code, that begins with one of `PROGRAMS`. Text in fences is output.
"""

from __future__ import annotations

import argparse
import ast
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import cli
from bench.commands.program import KEYS
from bench.config.compose import OUTSIDE_MEASURE
from bench.job.job import PARTS
from bench.paths import CHECKOUT

FILES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "validation/*.md", "gallery/*.md", "tests/data/*.md")
    for path in CHECKOUT.glob(pattern)
)
NAMES = [str(path.relative_to(CHECKOUT)) for path in FILES]
PROGRAMS = ("make", "mallocost", "docker", "apptainer", "srun", "python", ".venv/bin/python")
CODE_FILE = re.compile(
    r"[\w-]+\.(py|c|j2|cff|toml)"
)  # bare names that mean a file of the project; others may be results
PLACEHOLDER = re.compile(r"\b(NAME|DIR|FOLDER|N|A|B|RECORD|COMMAND|STUDY|RESULTS)\b|\.\.\.|<")


def text_of(name: str) -> str:
    """The document without what stands in fences."""
    return re.sub(r"^```.*?^```$", "", (CHECKOUT / name).read_text(), flags=re.DOTALL | re.MULTILINE)


def inline_code(name: str) -> list[str]:
    paragraphs = re.sub(r"^ {4}.*$", "", text_of(name), flags=re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", paragraphs)]


def commands_in(name: str) -> Iterator[list[str]]:
    blocks = re.findall(r"^ {4}(\S.*)$", text_of(name), flags=re.MULTILINE)
    for line in [*blocks, *inline_code(name)]:
        if line.split()[0] in PROGRAMS and (line.startswith("./") or " " in line) and not PLACEHOLDER.search(line):
            words = shlex.split(line, comments=True)
            yield words[: next((i for i, word in enumerate(words) if word in (">", "|")), len(words))]


ENGINES_OWN = (
    ["verify", "--key", "bench.sif.pem", "bench.sif"],
    ["inspect", "bench.sif"],
    ["image", "inspect", "bench"],
)
COMMANDS = {" ".join(words): words for name in NAMES for words in commands_in(name)}


def meaning(words: list[str]) -> tuple[str, list[str]]:
    """Who reads a command line, and the words that are left for it: ("bench", what stands after the image or the script), ...

    Raises AssertionError for a line that this test does not know how to check.
    """
    program, rest = words[0], words[1:]
    if program == "make":
        return "make", rest
    if program == "mallocost":
        return "bench", rest
    if program == "docker" and rest[0] == "run":
        return "bench", rest[rest.index("bench") + 1 :]
    if program in ("docker", "apptainer") and rest[0] in ("verify", "inspect", "image"):
        return "engine", rest
    if program == "apptainer" and rest[0] == "run":
        app = [rest[rest.index("--app") + 1]] if "--app" in rest else []
        return "bench", app + rest[rest.index("bench.sif") + 1 :]
    if program == "srun":
        return meaning(rest[next(i for i, word in enumerate(rest) if word in ("apptainer", "mallocost")) :])
    if rest[0] == "-m":
        return rest[1], rest[2:]
    assert rest[0].endswith(".py"), f"this test does not know how to check {shlex.join(words)}"
    return "file", rest


def few_points(words: list[str]) -> list[str]:
    """The same overrides with one value for each key that is swept, all arms kept that are named: each takes a tenth of a second."""
    last = [re.sub(r"^(\+?(?!allocator=)[\w.]+=).*,", r"\1", word) for word in words]
    swept = ["repeat=0", "nodes=1", "+allocator=glibc"] if any("experiment=" in word for word in words) else []
    return last + [
        word
        for word in swept
        if not any(other.lstrip("+").startswith(word.lstrip("+").partition("=")[0] + "=") for other in words)
    ]


PARSING = ("parse_args", "parse_known_args", "parse_intermixed_args")


class Parsed(BaseException):
    """Thrown by argparse as soon as it has read the words, so that nothing runs. No `except Exception` catches it."""


@pytest.fixture
def parse_only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Calls something that parses words and would run: passes if they parse."""
    parsers_at_work = 0

    def ending(original: Callable[..., Any]) -> Callable[..., Any]:
        def parse(self: argparse.ArgumentParser, *words: Any, **more: Any) -> Any:
            nonlocal parsers_at_work
            parsers_at_work += 1
            try:
                found = original(self, *words, **more)
            finally:
                parsers_at_work -= 1
            if not parsers_at_work:  # the outermost call: parse_args calls parse_known_args, and so do subcommands
                raise Parsed
            return found

        return parse

    methods = {name: ending(getattr(argparse.ArgumentParser, name)) for name in PARSING}

    def check(run: Callable[[], Any]) -> None:
        with monkeypatch.context() as patched, pytest.raises(Parsed):
            for name, method in methods.items():
                patched.setattr(argparse.ArgumentParser, name, method)
            run()

    return check


def engine(words: list[str]) -> None:
    assert words in ENGINES_OWN, "the system tests run these words of the engines themselves, and no others"


@pytest.fixture
def check(
    command: Callable[..., tuple[int, list[Any]]], parse_only: Callable[[Callable[[], Any]], None]
) -> Callable[[list[str]], None]:
    """Fails if a command line is not one that its program understands."""

    def bench(words: list[str]) -> None:
        if not words or "=" in words[0] or words[0].startswith(("-", "+", "~")):
            assert words == ["--version"] or command(*few_points(words))[0] == 0
            return
        if words[0] == "slurm":
            split = words.index("--") if "--" in words else len(words)
            assert command(*few_points(words[split + 1 :]))[0] == 0
        parse_only(lambda: cli.main(words))

    def make(words: list[str]) -> None:
        targets = set(re.findall(r"^([a-z0-9]+):", (CHECKOUT / "Makefile").read_text(), flags=re.MULTILINE))
        assert {word for word in words if "=" not in word} <= targets

    def validation(words: list[str]) -> None:
        part = runpy.run_path(str(CHECKOUT / "validation" / "__main__.py"))
        if words and words != ["quick"]:
            assert words[0] in part["PARTS"]
            parse_only(lambda: part["main"](words))

    def file(words: list[str]) -> None:
        assert (CHECKOUT / words[0]).is_file()

    def pytest_words(words: list[str]) -> None:
        assert all((CHECKOUT / word).exists() for word in words if not word.startswith("-"))

    programs = {
        "bench": bench,
        "make": make,
        "validation": validation,
        "file": file,
        "pytest": pytest_words,
        "engine": engine,
    }

    def check_line(line: list[str]) -> None:
        program, words = meaning(line)
        programs[program](words)

    return check_line


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_command_is_understood_by_the_program(
    words: list[str], check: Callable[[list[str]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.config.compose.versions", lambda python: "of an interpreter that is not here")
    check(words)


def test_the_commands_of_the_documents_are_found() -> None:
    """The finder itself: it would check nothing if it found nothing."""
    assert len(COMMANDS) > 60
    assert {"make bench", "mallocost doctor", "apptainer run bench.sif +experiment=tcmalloc"} <= set(COMMANDS)


def test_readme_is_within_its_budget() -> None:
    text = (CHECKOUT / "README.md").read_text()
    assert len(text) <= 7000 and text.count("\n") <= 120
    prose = [line for line in text_of("README.md").splitlines() if not line.startswith(("|", "[", "<!--"))]
    assert [line for line in prose if len(line) > 130] == []
    assert (
        "make bench" in text[:1000] and "faster than" in text[:1400]
    )  # the command and its answer, on the first screen


def test_no_measured_ratio_stands_in_two_documents() -> None:
    """A figure that is repeated is forgotten when it is measured again."""
    places: dict[str, set[str]] = {}
    for name in NAMES:
        for figure in re.findall(r"\b\d\.\d{2,3}x|\d\.\d+ to \d\.\d+", (CHECKOUT / name).read_text()):
            places.setdefault(figure, set()).add(name)
    assert len(places) > 5
    assert {figure: names for figure, names in places.items() if len(names) > 1} == {}


def test_each_term_is_defined_once() -> None:
    terms = re.findall(r"^#### (.*)$", text_of("docs/reference/glossary.md"), flags=re.MULTILINE)
    assert len(terms) > 25 and terms == sorted(set(terms), key=str.lower)


def test_each_page_of_the_docs_is_listed() -> None:
    listed = set(re.findall(r"\]\(([^)#\s]+)", text_of("docs/index.md")))
    pages = {str(path.relative_to(CHECKOUT / "docs")) for path in CHECKOUT.glob("docs/**/*.md")}
    assert pages - listed == {"index.md"}


# Translations, ornaments and private terms; CONTRIBUTING.md has the rule, docs/reference/glossary.md the terms to use.
FORBIDDEN = re.compile(
    r"\b(as it comes|anew|by turns|in turns?|is none|none of it|told from|dealt|drawn by lot|in any case|to and fro|given? away|hang together|"
    r"holds? the truth|held (against|to)|the way out|wrong words|set aside|sealed?|made-up|surely|fault tax|reckons?|in the mean|"
    r"behind (the|a|it|each|every)|beside (the|a|it|them)|stands? for the rest|licence|neighbou?rs that|colour|labelled|synchronise)\b"
)


# Private terms and idioms that a sentence for a person does not have; `arm`, `cannot tell` and the like are words of data and code.
PRIVATE = re.compile(
    r"\b(arms?(?! reference| nodes)|refused?|refuses|tells?|told|knows?|hears?|heard|there already|is of|are of|nobody|somebody|gain|quotient|"
    r"way out|pictures?)\b|\d %|}} %"
)
DATA = ("cannot tell", "same arm", "another arm", "title reference arms num_records")  # values and names of fields


def forbidden(text: str) -> list[str]:
    return [found[0] for found in FORBIDDEN.finditer(" ".join(text.split()))]


def sentences_in(path: Path) -> Iterator[str]:
    """The texts of a module that have a blank, but for its docstrings; what an f-string fills in is {}."""
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and isinstance(node.body[0], ast.Expr):
            skipped.add(node.body[0].value)
        if isinstance(node, ast.JoinedStr):
            skipped.update(part for part in ast.walk(node) if isinstance(part, ast.Constant))
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped:
            yield node.value


PRINTING = sorted(CHECKOUT.glob("bench/**/*.py"))


@pytest.mark.parametrize("path", PRINTING, ids=lambda path: str(path.relative_to(CHECKOUT / "bench")))
def test_what_is_printed_has_no_forbidden_phrase_and_no_private_term(path: Path) -> None:
    found = []
    for text in sentences_in(path):
        if " " in text.strip() and text not in DATA and "import " not in text:
            found += [(word, text[:80]) for word in [*forbidden(text), *(one[0] for one in PRIVATE.finditer(text))]]
    assert found == []


def test_the_purpose_of_each_allocator_has_no_forbidden_phrase() -> None:
    shows = [yaml.safe_load(path.read_text())["shows"] for path in CHECKOUT.glob("conf/allocator/*.yaml")]
    assert len(shows) > 20 and [one for one in shows if forbidden(one) or PRIVATE.search(one)] == []


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("tests/")])
def test_a_document_has_no_forbidden_phrase(name: str) -> None:
    generated = r"<!-- fields of .*?<!-- end -->"  # from descriptions in the code
    assert forbidden(re.sub(generated, "", text_of(name), flags=re.DOTALL)) == []


@pytest.mark.parametrize("command", ["", *cli.COMMANDS])
def test_help_has_no_forbidden_phrase_and_one_name(command: str) -> None:
    parser = cli._parsers(command or None)[command]
    text = parser.format_help()
    assert forbidden(text) == [] and PRIVATE.findall(text) == []
    assert "python -m bench" not in text and "entrypoint" not in text


@pytest.mark.parametrize("phrase", ["The library as it comes", "each is told from the rest", "one behind\nthe other"])
def test_a_forbidden_phrase_is_found(phrase: str) -> None:
    assert forbidden(phrase)


@pytest.mark.parametrize(
    "words",
    [
        "make benhc",
        "mallocost reprot x",
        "mallocost report --refernce=x y",
        "mallocost train.dropuot=0",
    ],
)
def test_a_wrong_command_is_noticed(words: str, check: Callable[[list[str]], None]) -> None:
    with pytest.raises((AssertionError, SystemExit, pytest.fail.Exception)):
        check(words.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_key_named_in_a_document_exists(name: str) -> None:
    job_keys = runpy.run_path(str(CHECKOUT / "scripts" / "record_schema.py"))["job_keys"]
    known = set(job_keys()) | {f"measure.{key}" for key in OUTSIDE_MEASURE}
    known |= {f"program.{key}" for key in KEYS}
    known |= {"sweep.shuffle_arms", "sweep.reference", "sweep.max_minutes", "sweep.html", "sweep.interleave"}
    group = "|".join([*PARTS, "sweep"])
    named = set(re.findall(rf"(?<![\w./-])((?:{group})\.[a-z_]+)(?![\w(.])", " ".join(inline_code(name))))
    named = {key for key in named if not key.endswith((".py", ".md", ".yaml", ".json", ".csv"))}
    assert named - known == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_link_of_a_document_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", text_of(name))
    relative = [link for link in links if not link.startswith(("http:", "https:", "mailto:"))]
    assert [link for link in relative if not (CHECKOUT / name).parent.joinpath(link).exists()] == []


@pytest.fixture(scope="module")
def top() -> set[str]:
    """What lies at the top of the project."""
    return {path.name for path in CHECKOUT.iterdir()} - {"results", ".git", ".venv", ".tools"}


@pytest.fixture(scope="module")
def bare(top: set[str]) -> set[str]:
    """The names of all files below it; looked for once, and not in the environments, which have tens of thousands."""
    folders = [CHECKOUT / name for name in top if not name.startswith(".venv") and (CHECKOUT / name).is_dir()]
    return {path.name for folder in folders for path in folder.rglob("*.*")}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_named_in_a_document_exists(name: str, top: set[str], bare: set[str]) -> None:
    missing = []
    for code in inline_code(name):
        for word in code.split():
            path = word.rstrip(".,:;/")
            if PLACEHOLDER.search(path) or not re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*", path):
                continue
            if "/" in path and path.split("/")[0] in top and not list(CHECKOUT.glob(path)):
                missing.append(word)
            if CODE_FILE.fullmatch(path) and path not in bare | top:
                missing.append(word)
    assert missing == []


@pytest.mark.parametrize("folder", ["bench", "conf", "validation", "scripts", "tests"])
def test_files_named_in_the_sources_exist(folder: str) -> None:
    sources = [path for path in CHECKOUT.joinpath(folder).glob("**/*") if path.suffix in (".py", ".yaml", ".j2", ".sh")]
    named = {(path, found) for path in sources for found in re.findall(r"\bbench/[a-z_/]+\.py\b", path.read_text())}
    assert [f"{path.relative_to(CHECKOUT)}: {found}" for path, found in named if not (CHECKOUT / found).exists()] == []


def test_each_test_that_security_names_exists() -> None:
    named = re.findall(r"`((?:unit|integration|system)/[\w/]+\.py)(?:::(\w+))?`", text_of("SECURITY.md"))
    assert len(named) > 40
    missing = []
    for file, test in named:
        path = CHECKOUT / "tests" / file
        if not path.exists() or f"def {test or 'test_'}" not in path.read_text():
            missing.append(f"{file}::{test}")
    assert missing == []


def test_each_bullet_of_security_that_promises_names_a_test() -> None:
    text = text_of("SECURITY.md").partition("## Report a fault")[0]
    no_promise = ("- The configuration decides", "- **Not protected**")
    bullets = [bullet for bullet in re.split(r"\n(?=- |\n)", text) if bullet.startswith("- ")]
    assert [bullet[:60] for bullet in bullets if "test_" not in bullet and not bullet.startswith(no_promise)] == []
