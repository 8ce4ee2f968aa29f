"""What pyproject.toml cannot say: a wheel has the repository's `analysis` inside, as `fdiv_jax.analysis`."""

from setuptools import find_packages, setup

analysis = find_packages(include=["analysis", "analysis.*"])
setup(
    packages=[*find_packages(include=["fdiv_jax", "fdiv_jax.*"]), *(f"fdiv_jax.{name}" for name in analysis)],
    package_dir={"fdiv_jax.analysis": "analysis"},
)
