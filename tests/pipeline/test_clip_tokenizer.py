"""The tokenizer class comes without advice about libraries that nothing here needs."""

import subprocess
import sys

import pytest

SCRIPT = """
import importlib.util, os, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
{how}
"""


def told(how):
    script = [sys.executable, "-c", SCRIPT.format(how=how)]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_no_advice_to_install_pytorch_and_the_environment_as_it_was():
    assert "PyTorch was not found" in told("from transformers import CLIPTokenizer")
    how = "from fdiv_jax.pipeline.clip_tokenizer import clip_tokenizer_class as c; print(c().__name__)"
    after = "print(os.environ.get('TRANSFORMERS_NO_ADVISORY_WARNINGS'))"
    assert told(f"{how}\n{after}").split() == ["CLIPTokenizer", "None"]
