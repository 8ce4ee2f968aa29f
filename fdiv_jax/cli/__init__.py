"""The command line, `fdiv-jax COMMAND ...`: one file a command, loaded only when it is the one asked for.

A command is a module `fdiv_jax.cli.NAME` with a frozen dataclass `Command`: its fields are the arguments
(read by tyro, their docstrings are the help), and `run(self)` does the work. A function `default(arguments)`
beside it may give a `Command` that the options start from. What the user got wrong (a
ValueError, TypeError, NotImplementedError or OSError) ends as one line on stderr and exit code 2;
FDIV_JAX_TRACEBACK=1 shows the traceback instead.
"""

import contextlib
import difflib
import importlib
import io
import os
import re
import sys
from collections.abc import Sequence

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "divergences": "list the catalogue: generators, curvatures, conjugates",
    "explore": "everything that follows from one generator, e.g. explore 't*log(t)'",
    "export": "write a model, or what tuning changed, for diffusers, A1111 and ComfyUI",
    "sample": "draw images from a model at prompts",
    "sweep": "unlearn a concept with many divergences, anchors and seeds",
    "unlearn": "remove a concept from a model",
}

_USER_ERRORS = (ValueError, TypeError, NotImplementedError, OSError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0, 2 for a mistake of the user, 130 when interrupted, 143 when asked to end.

    `argv` defaults to the process's arguments, without the program's name.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _print_help()
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from fdiv_jax import __version__

        print(f"fdiv-jax {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"the commands are: {', '.join(COMMANDS)}"
        return _fail(f"no command {name!r}; {hint}")
    try:
        return _run(name, rest)
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _fail("interrupted", code=130)
    except Exception as error:
        code = getattr(error, "exit_code", 2 if isinstance(error, _USER_ERRORS) else None)
        if code is None or os.environ.get("FDIV_JAX_TRACEBACK"):
            raise
        return _fail(str(error) or type(error).__name__, code)


def _run(name: str, arguments: list[str]) -> int:
    import tyro

    module = importlib.import_module(f"fdiv_jax.cli.{name}")
    default = module.default(arguments) if hasattr(module, "default") else None
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            command = tyro.cli(
                module.Command, args=_dashed(arguments, name), prog=f"fdiv-jax {name}", default=default
            )
    except SystemExit as ended:
        if ended.code in (None, 0):
            raise
        raise ValueError(_one_line(told.getvalue(), name)) from None
    code = command.run()
    sys.stdout.flush()
    return code or 0


def _one_line(complaint: str, name: str) -> str:
    """What the parser says of arguments, without its frames and its headings."""
    words = [line.strip(" │╭╮╰╯─-") for line in complaint.splitlines()]
    text = " ".join(
        word for word in words if word and not word.startswith(("For full helptext", "Value err"))
    )
    return re.sub(r"^(Parsing error|Required options) ", "", text) + f"; fdiv-jax {name} --help tells more"


def _dashed(arguments: list[str], name: str) -> list[str]:
    """Words such as -log(t) look like options. Of `explore`, the expression goes behind a `--`, where it is
    read as it is; elsewhere such a word belongs to the option before it."""
    if "--" in arguments:
        return arguments
    dashed = [
        bool(re.match(r"-[^-]", word)) and word != "-h" and not re.match(r"-[\d.]+(e-?\d+)?$", word)
        for word in arguments
    ]
    if name == "explore":
        words = [word for word, odd in zip(arguments, dashed, strict=True) if odd]
        rest = [word for word, odd in zip(arguments, dashed, strict=True) if not odd]
        return rest + (["--", *words] if words else [])
    joined: list[str] = []
    for word, odd in zip(arguments, dashed, strict=True):
        if odd and joined and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _print_help() -> None:
    width = max(map(len, COMMANDS))
    print("usage: fdiv-jax COMMAND [ARGUMENTS]\n\nDiffusion unlearning with any f-divergence.\n\ncommands:")
    for name, line in COMMANDS.items():
        print(f"  {name:<{width}}  {line}")
    print("\nfdiv-jax COMMAND --help tells a command's arguments; fdiv-jax --version the version.")


def _fail(message: str, code: int = 2) -> int:
    from fdiv_jax.terminal import printable

    print(f"fdiv-jax: {printable(' '.join(message.split()))}", file=sys.stderr)
    return code
