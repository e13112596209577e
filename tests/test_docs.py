"""The documentation holds: its links lead somewhere, its commands and options exist, its messages
are the code's."""

import ast
import dataclasses
import functools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS: dict[str, Any] = {
    "train_v2_production": config.ConfigV2,
    "generations.v1.train_v1": config.ConfigV1,
    "generations.v1_final.train_v1_final": config.ConfigV1Final,
    "generations.v7.train_v7_main": config.ConfigV7,
    "generations.v9.btc_1h_v9_training": config.ConfigV9,
}
"""Commands whose options are the fields of a class of settings."""
ELSEWHERE = {"inference_v2": "pipeline.commands"}
"""Commands whose options are those of another module; the others have theirs in their own file."""

COMMAND = re.compile(r"\bpython (?:-m )?(?P<name>[\w./]+)(?P<rest>[^`#)\n]*)")


def anchor_of(heading: str) -> str:
    """GitHub's name for a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors_of(page: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {anchor_of(heading) for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)}


def broken_links(page: Path) -> list[str]:
    """Relative links of a page that lead to no file, or to no heading of it."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.is_file() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    return broken


def commands_of(page: Path) -> list[tuple[str, str]]:
    """(module, what follows) of every python command on a page, inside text and blocks."""
    text = re.sub(r"\s*\\\n\s*", " ", page.read_text(encoding="utf-8"))
    text = re.sub(
        r"(`python [^`\n]*)\n\s*([^`\n]*`)", r"\1 \2", text
    )  # a command that a line of prose breaks
    return [
        (match["name"].removesuffix(".py").replace("/", "."), match["rest"])
        for match in COMMAND.finditer(text)
    ]


def module_file(name: str) -> Path:
    return ROOT / f"{name.replace('.', '/')}.py"


def module_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def options_of(name: str) -> frozenset[str]:
    """The options of one of our commands, those of its subcommands together."""
    module = module_file(ELSEWHERE.get(name, name))
    if name in CONFIGS:
        names = {field.name for field in dataclasses.fields(CONFIGS[name])}
    else:
        classes = [node for node in ast.walk(module_tree(module)) if isinstance(node, ast.ClassDef)]
        names = {
            line.target.id
            for node in classes
            for line in node.body
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
        }
    source = module.read_text(encoding="utf-8")
    if not names and "subcommand_cli_from_dict" in source:  # its subcommands are functions
        functions = [n for n in module_tree(module).body if type(n) is ast.FunctionDef]
        commands = [n for n in functions if "Args:" in (ast.get_docstring(n) or "")]
        names = {argument.arg for node in commands for argument in node.args.args}
    names = {name.replace("_", "-") for name in names}
    written = re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", source)
    return frozenset(
        {"--help", *written, *(f"--{name}" for name in names), *(f"--no-{name}" for name in names)}
    )


def unknown_options(page: Path) -> list[str]:
    """Options on a page that the command before them does not have."""
    used = [
        (name, option)
        for name, rest in commands_of(page)
        for option in re.findall(r"(?<!\S)--[a-z][\w-]*", rest)
    ]
    return [f"{name} {option}" for name, option in used if option not in options_of(name)]


def test_a_link_without_a_file_or_a_heading_is_found(tmp_path):
    (tmp_path / "there.md").write_text("# What is *there*, and why\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](gone.md) [c](there.md#what-is-there-and-why) [d](there.md#no-heading) "
        "[e](http://x)"
    )
    assert broken_links(page) == ["gone.md", "there.md#no-heading"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file_and_heading(page):
    assert broken_links(page) == []


def test_the_house_has_a_line_for_every_file_of_the_product():
    tree = (ROOT / "docs" / "house.md").read_text(encoding="utf-8").split("```")[1]
    rooms = ("models", "pipeline", "generations", "integrations")
    folders = [ROOT, *(ROOT / name for name in rooms)]
    files = [
        path for folder in folders for path in folder.glob("**/*.py" if folder != ROOT else "*.py")
    ]
    wanted = Counter(path.name for path in files if path.name != "__init__.py")
    named = Counter(re.findall(r"(?<![\w/<>])(\w+\.py)\b", tree.split("\ntests/")[0]))
    assert named == wanted


def test_the_answers_to_a_newcomer_s_questions_are_where_the_house_says():
    page = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    answers = page[page.index("## Questions of a newcomer") :].splitlines()[4:]
    assert len(answers) >= 10
    for line in answers:
        path, *names = re.findall(r"`([^`]+)`", line.split("|")[2])
        source = (ROOT / path).read_text(encoding="utf-8")
        assert [name for name in names if name.split(".")[-1] not in source] == [], line


def test_every_page_is_reachable_from_the_readme():
    seen, open_pages = set(), [ROOT / "README.md"]
    while open_pages:
        page = open_pages.pop()
        seen.add(page)
        links = re.findall(r"\]\(([^)\s#:]+\.md)", page.read_text(encoding="utf-8"))
        open_pages += [
            target for link in links if (target := (page.parent / link).resolve()) not in seen
        ]
    assert seen == set(PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_names_a_module_of_ours(page):
    unknown = [name for name, _ in commands_of(page) if not module_file(name).is_file()]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_is_one_of_its_command(page):
    assert unknown_options(page) == []


def test_an_option_that_its_command_lacks_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "`python app.py --share`, `python app.py --epochs 3`, `!python -m generations.v1.train_v1 "
        "--candles 9 \\\n"
        "  --trees 3`, and (python train_v2_production.py --no-resume) or --share"
    )
    assert unknown_options(page) == ["app --epochs", "generations.v1.train_v1 --trees"]


@functools.cache
def spoken_texts() -> tuple[str, ...]:
    """Every text of the code, what an f-string fills in as "…"."""
    texts = []
    folders = ("models", "pipeline", "generations", "notebooks")
    for path in [
        *ROOT.glob("*.py"),
        *(path for folder in folders for path in (ROOT / folder).rglob("*.py")),
    ]:
        for node in ast.walk(module_tree(path)):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    part.value if isinstance(part, ast.Constant) else "…" for part in node.values
                )
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%[.\d]*[a-z]", "…", node.value))
    return tuple(texts)


def is_spoken(message: str) -> bool:
    """Whether one text of the code holds the message's pieces between "…", in their order."""
    pieces = [piece for piece in re.split(r"…+", message) if re.search(r"\w", piece)]
    pattern = re.compile(".*".join(map(re.escape, pieces)), flags=re.DOTALL)
    return any(pattern.search(text) for text in spoken_texts())


def test_the_messages_in_troubleshooting_are_those_of_the_code():
    lines = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").splitlines()
    messages = [line.removeprefix("> ") for line in lines if line.startswith("> ")]
    assert len(messages) > 30
    assert [message for message in messages if not is_spoken(message)] == []


def test_a_message_that_the_code_does_not_speak_is_found():
    assert is_spoken(
        "…: these scalers belong to another model than … (sha256 of the network differs)"
    )
    assert not is_spoken(
        "…: these scalers belong to another network than … (sha256 of the network differs)"
    )
