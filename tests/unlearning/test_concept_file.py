"""Concept files: what they say, and every mistake with its line."""

import textwrap

import pytest

from fdiv_jax.pipeline import Concept
from fdiv_jax.unlearning.concept_file import ConceptFile, read_concept_file
from fdiv_jax.unlearning.concepts import Erasure, resolve_all
from fdiv_jax.unlearning.library import known_concepts


@pytest.fixture
def read(tmp_path):
    """Reads a text as a concept file."""

    def reader(text):
        path = tmp_path / "concepts.yaml"
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        return read_concept_file(path)

    return reader


EXAMPLE = """\
    # what is to go
    concepts:
      - target: van gogh
      - target: monet
        anchor: in the style of a photograph
        prompts:
          - a pond by monet
          - a bridge by Monet
      - target: my cat
        anchor: near
        kind: object
        phrase: my cat
        superclass: a cat
        near: a rabbit
        prompts: [My cat on a sofa, "a portrait of my cat"]
    retained: ["", a photo of a dog]
"""


def test_a_file(read):
    found = read(EXAMPLE)
    prompts = ("My cat on a sofa", "a portrait of my cat")
    assert found == ConceptFile(
        (
            Erasure("van gogh"),
            Erasure("monet", "in the style of a photograph", ("a pond by monet", "a bridge by Monet")),
            Erasure("my cat", "near"),
        ),
        (Concept("my cat", "object", "my cat", "a cat", "a rabbit", prompts),),
        ("", "a photo of a dog"),
    )


def test_a_file_resolves(read):
    found = read(EXAMPLE)
    pairs = resolve_all(known_concepts({}, found.concepts), found.erasures)
    library = known_concepts({})["van gogh"].prompts
    assert len(pairs) == len(library) + 4
    assert [pair.anchor for pair in pairs[-4:]] == [
        "a pond in the style of a photograph",
        "a bridge in the style of a photograph",
        "a rabbit on a sofa",
        "a portrait of a rabbit",
    ]


def test_the_shortest_file(read):
    assert read("concepts: [{target: dog}]") == ConceptFile((Erasure("dog"),))
    assert read(b"\xef\xbb\xbfconcepts: [{target: dog}]") == ConceptFile((Erasure("dog"),))
    assert read("concepts: [{target: dog}]\nretained: []").retained == ()


def test_an_empty_superclass_leaves_the_phrase_out(read):
    found = read(
        """\
        concepts:
          - {target: pastel, kind: style, phrase: ", pastel style", superclass: "", near: ", ink style",
             prompts: ["a tree, pastel style"]}
        """
    )
    (pair,) = resolve_all(known_concepts({}, found.concepts), found.erasures)
    assert (pair.target, pair.anchor) == ("a tree, pastel style", "a tree")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"concepts\.yaml"):
        read_concept_file(tmp_path / "concepts.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"nothing, expected a mapping with `concepts`"),
        ("- target: dog", r"a list, expected a mapping"),
        ("dog", r"'dog', expected a mapping"),
        ("dog" * 999, r"'dogdog.*\.\.\., expected a mapping"),
        ("concept:\n  - target: dog", r"line 1: .* no key 'concept'; did you mean 'concepts'"),
        ("retained: [a dog]", r"line 1: concepts must be a list of at least one target"),
        ("retained: []\nconcepts: []", r"line 2: concepts must be a list of at least one"),
        ("concepts: {target: dog}", r"line 1: concepts must be a list"),
        ("concepts:\n  - dog", r"line 1: concept 1 is 'dog', expected a mapping with `target`"),
        ("concepts:\n  - target: dog\n  - anchor: near", r"line 3: no target"),
        (
            "concepts:\n  - target: dog\n    ancor: near",
            r"line 3: .* 'ancor'; did you mean 'anchor'\?; known: target",
        ),
        ("concepts:\n  - target: no", r"line 2: target must be text, got no \(quote it"),
        ("concepts:\n  - target: 1984", r"line 2: target must be text, got 1984 \(quote it"),
        ("concepts:\n  - target:", r"line 2: target must be text, got nothing"),
        ('concepts:\n  - target: ""', r"line 2: target must not be empty"),
        ("concepts:\n  - target: dog\n    anchor: [a, b]", r"line 3: anchor must be text, got a list"),
        (
            "concepts:\n  - target: dog\n    prompts: a dog",
            r"line 3: prompts must be a list of prompts, got 'a dog'",
        ),
        ("concepts:\n  - target: dog\n    prompts: []", r"line 3: prompts must be a list of at least one"),
        (
            "concepts:\n  - target: dog\n    prompts: [a dog, 7]",
            r"line 3: prompt 2 of prompts must be text, got 7",
        ),
        ("concepts:\n  - target: dog\n    prompts: [' ']", r"line 3: prompt 1 of prompts must not be empty"),
        (
            "concepts:\n  - target: dog\n    prompts: [a dog, a dog]",
            r"line 3: prompts has the prompt 'a dog' twice",
        ),
        ("concepts: [{target: dog}]\nretained: a bus", r"line 2: retained must be a list of prompts"),
        (
            "concepts: [{target: dog}]\nretained: [a bus, a bus]",
            r"line 2: retained has the prompt 'a bus' twice",
        ),
        ("concepts:\n  - target: dog\n  - target: Dog", r"line 3: target 'Dog' again, as in line 2"),
        ("concepts:\n  - target: dog\n    target: cat", r"line 3: 'target' again, as in line 2"),
        ("concepts: [{target: dog}]\nconcepts: [{target: cat}]", r"line 2: 'concepts' again, as in line 1"),
        (
            "concepts:\n  - target: cat\n    phrase: my cat\n    prompts: [my cat]",
            r"line 3: phrase of 'cat' without kind, superclass, near; a definition is kind, phrase",
        ),
        (
            "concepts:\n  - {target: cat, kind: object, phrase: my cat, superclass: a cat, near: a dog}",
            r"line 2: kind of 'cat' without prompts",
        ),
        (
            "concepts:\n  - {target: cat, kind: object, phrase: my cat, superclass: a cat, near: a dog,\n"
            "     prompts: [my category]}",
            r"line 3: 'my cat' does not occur in the prompt 'my category'",
        ),
        ("concepts:\n  - target: [dog", r"line 2: .*expected"),
        ("concepts:\n\t- target: dog", r"line 2: found character '\\t'"),
        ("1: x", r"line 1: a key must be a word, got 1"),
        ("[a]: x", r"line 1: a key must be a word"),
        ("concepts: &all [{target: dog}]\nretained: *all", r"line 2: aliases \(\*name\) are not read"),
        ("concepts: [{target: dog}]\n---\nretained: []", r"line 2: but found another document"),
        ("concepts: !!python/object/apply:os.getcwd []", r"line 1: could not determine a constructor"),
        ("concepts: [{target: 2020-13-45}]", r"concepts\.yaml: month must be in 1\.\.12"),
        ("concepts: [{target: !!bool maybe}]", r"concepts\.yaml: a value that is not what its tag says"),
        ("concepts: [{target: !!timestamp dog}]", r"concepts\.yaml: a value that is not what its tag says"),
        ('concepts: [{target: !!int ""}]', r"concepts\.yaml: a value that is not what its tag says"),
        (b"concepts: [{target: d\xffg}]", r"concepts\.yaml, line 1: not UTF-8"),
        (b"concepts: [{target: d\x07g}]", r"concepts\.yaml: .*special characters are not allowed"),
        ("[" * 200_000, r"concepts\.yaml, line 1: nested more than 64 deep"),
        ("- " * 200_000, r"concepts\.yaml, line 1: nested more than 64 deep"),
        ("concepts:\n  - target: 1:30", r"line 2: target must be text, got 1:30 \(quote it"),
        ("concepts:\n  - target: 2001-01-01", r"line 2: target must be text, got 2001-01-01 \(quote it"),
        ("concepts:\n  - target: " + "1:" * 400_000 + "1", r"line 2: .*no text; quote it"),
        ("concepts:\n  - target: " + "x" * 900_000, r"line 2: target has 900000 characters"),
        (
            "concepts:\n  - {target: a, prompts: [" + "x" * 900_000 + "]}",
            r"line 2: prompt 1 of prompts has 9",
        ),
        ("concepts:\n  - target: a\n    ? " + "x" * 900_000 + "\n    : b", r"line 3: .* no key 'x"),
        ("#" * (1 << 20) + "#", r"more than 1048576 bytes, expected at most that"),
    ],
)
def test_refused(read, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read(text)
    assert "concepts.yaml" in str(error.value)
    assert len(str(error.value)) < 1000
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
