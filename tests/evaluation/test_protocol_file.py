"""Protocol files: what they say is what is drawn, and every mistake is named with its line."""

import pytest

from fdiv_jax.evaluation import find_protocol
from fdiv_jax.pipeline import Concept
from fdiv_jax.unlearning import Erasure
from fdiv_jax.worlds.captions import concepts

FASHION = {name: Concept.from_dict(name, entry) for name, entry in concepts().items()}
WHOLE = """
name: two cats
sampler: ddim
steps: 30
eta: 1.0
guidance: 7.5
size: [256, 512]
metrics: [ua, cra, clip_score, clip_accuracy]
classifier: clip
clip: openai/clip-vit-base-patch32
seeds:
  target: [1, 2]
  retained: [7, 8]
target:
  concept: grumpy cat
  kind: object
  prompts:
    - a grumpy cat on a sofa
    - text: a grumpy cat in sketch style
      shows: {style: sketch}
  against: A photo depicts cat
retained:
  - concept: dog
    kind: object
    prompts: [a dog on a sofa]
"""


def write(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_a_whole_protocol(tmp_path):
    found = find_protocol(write(tmp_path, WHOLE), {}, [])
    assert (found.name, found.steps, found.eta, found.guidance, found.size) == (
        "two cats",
        30,
        1.0,
        7.5,
        (256, 512),
    )
    target, dog = found.sets
    assert target.prompts == ("a grumpy cat on a sofa", "a grumpy cat in sketch style")
    assert target.shows == ((("object", "grumpy cat"),), (("object", "grumpy cat"), ("style", "sketch")))
    assert (dog.role, dog.caption) == ("retained", "A photo depicts dog")
    assert (found.target_seeds, found.retained_seeds) == ((1, 2), (7, 8))


def test_like_a_named_protocol_with_changes(tmp_path):
    text = "like: fashion\nsteps: 5\nseeds: [3, 4]\nmetrics: [ua, ira]\n"
    erasures = [Erasure("sneaker", "near")]
    found = find_protocol(write(tmp_path, text), FASHION, erasures)
    named = find_protocol("fashion", FASHION, erasures)
    assert (found.name, found.steps, found.metrics) == ("mine", 5, ("ua", "ira"))
    assert found.sets == named.sets
    assert found.target_seeds == found.anchor_seeds == found.retained_seeds == (3, 4)
    same = find_protocol(write(tmp_path, "like: fashion"), FASHION, erasures)
    assert same.sha256 == named.sha256


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("steps: 30", "stps: 30", "line 4: a protocol has no key 'stps'; did you mean 'steps'"),
        (
            "  against:",
            "  agianst:",
            "line 21: a target concept has no key .*; did you mean 'against'",
        ),
        ("      shows:", "      show:", "a prompt has no key 'show'; did you mean 'shows'"),
        ("  target: [1, 2]", "  targets: [1, 2]", "seeds has no key 'targets'; did you mean 'target'"),
        ("steps: 30", "steps: many", "line 4: steps must be a whole number, got 'many'"),
        ("steps: 30", "steps: 30.5", "line 4: steps must be a whole number, got '30.5'"),
        ("eta: 1.0", "eta: 1.5", "eta"),
        ("eta: 1.0", "eta: .nan", "eta must be a number, got '.nan'"),
        ("eta: 1.0", "eta: nan", "eta must be a number, got 'nan'"),
        ("[1, 2]", "[1, x]", "target must be a whole number, got 'x'"),
        ("[1, 2]", "1", "target must be a list, got 1"),
        ("sampler: ddim", "sampler: dpm++", "sampler dpm\\+\\+: .*eta must be 0"),
        ("sampler: ddim", "sampler: [ddim]", "line 3: sampler must be text, got a list"),
        ("- a grumpy cat on a sofa", "- 7", "prompt 1 must be text, got 7 \\(quote it"),
        ("metrics: [ua, cra,", "metrics: [us, cra,", "metrics must be one of .*got 'us'"),
        ("  concept: grumpy cat\n", "", "no concept of target 1"),
        ("target:\n  concept", "other:\n  concept", "a protocol has no key 'other'"),
        ("name: two cats", "name: two cats\nname: x", "'name' again"),
        ("classifier: clip", "like: fasion", "did you mean 'fashion'"),
    ],
)
def test_mistakes_name_file_line_and_what_was_meant(tmp_path, before, after, message):
    assert before in WHOLE
    path = write(tmp_path, WHOLE.replace(before, after))
    with pytest.raises(ValueError, match=message) as error:
        find_protocol(path, {}, [])
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[]", "just words", "a: &x [*x]", "metrics: [ua]\n"])
def test_no_protocol_at_all(tmp_path, text):
    with pytest.raises(ValueError, match=r"mine\.yaml"):
        find_protocol(write(tmp_path, text), {}, [])


def test_a_missing_file_and_an_unknown_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        find_protocol(tmp_path / "none.yaml", {}, [])
    with pytest.raises(ValueError, match=r"expected one of fashion, .* or a \.yaml file"):
        find_protocol("nothing", {}, [])
