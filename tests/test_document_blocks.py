"""What the other tests of documents leave of the pages: YAML, mentioned commands, quick commands.

Every fenced block of a page is Python, which runs; commands, which the command line reads (some run here);
YAML, which its own reader reads; or plain text.
"""

import importlib
import importlib.util
import re

import pytest

from fdiv_jax import cli
from fdiv_jax.cli._options import options_of
from fdiv_jax.evaluation import find_protocol
from fdiv_jax.pipeline import Concept
from fdiv_jax.unlearning import Erasure, read_concept_file
from fdiv_jax.worlds.captions import concepts
from tests.pages import PAGES, ROOT, blocks, commands, mentioned

FASHION = {name: Concept.from_dict(name, entry) for name, entry in concepts().items()}
READERS = {
    "unlearning.md": read_concept_file,
    "evaluation.md": lambda path: find_protocol(path, FASHION, [Erasure("sneaker", "near")]),
}
YAML = [(page, block) for page in PAGES for block in blocks(page, "yaml")]
MODULES = ("fdiv_jax", "analysis", "benchmarks")
ANSWERS = ("explore", "divergences")
"""Commands whose answer takes no model and little time."""


def named(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_block_is_of_a_kind_that_is_tested(page):
    odd = [(block.line, block.language) for block in blocks(page)]
    odd = [(line, language) for line, language in odd if language not in ("python", "console", "yaml", "")]
    assert not odd
    programs = re.compile(r"^\s*(?:srun |\$ )?(?:fdiv-jax|pip|make|docker|python -m)\b.*--", re.MULTILINE)
    for block in blocks(page, ""):
        if block.language == "" and "->" not in block.text:
            assert not programs.search(block.text), f"line {block.line}: a command outside a console block"


@pytest.mark.parametrize(("page", "block"), YAML, ids=[f"{p.name}-{b.line}" for p, b in YAML])
def test_the_yaml_of_a_page_is_read_by_its_reader(page, block, tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text(block.text)
    assert READERS[page.name](file)


def test_yaml_with_a_mistake_is_refused(tmp_path):
    for (page, block), wrong in zip(YAML, ("concept", "kind of", "metric"), strict=False):
        file = tmp_path / "file.yaml"
        file.write_text(f"{block.text}\n{wrong}: 3\n")
        with pytest.raises(ValueError, match="no key"):
            READERS[page.name](file)


def faults(words):
    """What a mention names that there is not: a command, an option, a module, a target, an extra."""
    program, *rest = words
    if program == "fdiv-jax":
        name, *arguments = rest
        if name.startswith("-") or name in ("NAME", "COMMAND"):
            return []
        if name not in cli.COMMANDS:
            return [name]
        if "--" in arguments:
            place = arguments.index("--")
            inner, arguments = arguments[place + 1 :], arguments[:place]
            return faults([program, name, *arguments]) + faults([program, *inner])
        module = importlib.import_module(f"fdiv_jax.cli.{name}")
        options = options_of(module.Command, None)
        there = {"--help", "--help-all"} | {o.name for o in options} | {o.negative for o in options}
        there |= set(getattr(module, "SHORT", {}))
        asked = (word.partition("=")[0] for word in arguments if re.match(r"--?[a-zA-Z]", word))
        return [word for word in asked if word not in there]
    if program == "python":
        module = rest[1]
        own = module.split(".")[0] in MODULES
        return [module] if own and importlib.util.find_spec(module) is None else []
    if program == "make":
        known = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return [word for word in rest if "=" not in word and word not in known]
    if program == "bash":
        return [word for word in rest[:1] if not (ROOT / word).is_file()]
    return []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_mentioned_commands_and_options_exist(page):
    wrong = {line: found for line, words in mentioned(page) if (found := faults(words))}
    assert not wrong, wrong


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("fdiv-jax exploder kl", ["exploder"]),
        ("fdiv-jax explore --plots", ["--plots"]),
        ("fdiv-jax launch -n 2 -- unlearn MODEL --tarket X", ["--tarket"]),
        ("python -m benchmarks.no_such", ["benchmarks.no_such"]),
        ("make coffee ARGS=-x", ["coffee"]),
        ("bash benchmarks/no.sh", ["benchmarks/no.sh"]),
        ("fdiv-jax launch -n 2 -- unlearn MODEL --target X", []),
        ("make test ARGS=-x", []),
    ],
)
def test_a_mention_that_is_wrong_is_found(words, wrong):
    assert faults(words.split()) == wrong


def test_commands_are_mentioned():
    assert sum(len(list(mentioned(page))) for page in PAGES) > 40


def answers():
    """The commands of the pages that answer at once, each once."""
    found = {tuple(words): None for page in PAGES for _, words in commands(page)}
    return [words[1:] for words in found if words[0] == "fdiv-jax" and words[1] in ANSWERS]


@pytest.mark.parametrize("words", answers(), ids=" ".join)
def test_commands_that_answer_at_once_answer(words, capsys):
    assert cli.main(list(words)) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) > 10
    assert not told.err
