"""The examples in the docstrings of the theory run."""

import doctest
import importlib
import pkgutil

import pytest

import fdiv_jax.theory

MODULES = [f"fdiv_jax.theory.{module.name}" for module in pkgutil.iter_modules(fdiv_jax.theory.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_doctests(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
