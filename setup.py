"""What pyproject.toml cannot say: a wheel has the repository's `analysis` inside, as `fdiv_jax.analysis`, and
the description on a package index has links that work there.

No address of the repository is stated anywhere yet. Where FDIV_JAX_REPOSITORY names one (the address of the
files of a release, such as https://HOST/OWNER/fdiv-jax/blob/v0.1.0), relative links lead there and the index
gets it as a project address; without it they become plain text.
"""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

REPOSITORY = os.environ.get("FDIV_JAX_REPOSITORY", "").rstrip("/")
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^()\s]+)\)")


def described(text: str) -> str:
    """The README as a package index shows it, which has none of the repository's files."""

    def replaced(found: re.Match[str]) -> str:
        picture, told, target = found.groups()
        if not REPOSITORY:
            return "" if picture else told
        return f"{picture}[{told}]({REPOSITORY}/{target}{'?raw=true' if picture else ''})"

    return _LINK.sub(replaced, text)


analysis = find_packages(include=["analysis", "analysis.*"])
setup(
    packages=[*find_packages(include=["fdiv_jax", "fdiv_jax.*"]), *(f"fdiv_jax.{name}" for name in analysis)],
    package_dir={"fdiv_jax.analysis": "analysis"},
    long_description=described(Path(__file__).with_name("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
    **({"project_urls": {"Source": REPOSITORY.partition("/blob/")[0]}} if REPOSITORY else {}),
)
