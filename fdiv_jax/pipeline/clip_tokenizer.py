"""The tokenizer class of CLIP, without the advice that comes with it."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["clip_tokenizer_class"]

_QUIET = "TRANSFORMERS_NO_ADVISORY_WARNINGS"


def clip_tokenizer_class() -> Any:
    """`transformers.CLIPTokenizer`; imported without the advice to install PyTorch, which is not needed."""
    before = os.environ.get(_QUIET)
    os.environ.setdefault(_QUIET, "1")
    try:
        from transformers import CLIPTokenizer
    finally:
        if before is None:
            del os.environ[_QUIET]
    return CLIPTokenizer
