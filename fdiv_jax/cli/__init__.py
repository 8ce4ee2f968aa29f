"""The command line, `fdiv-jax COMMAND ...`: one file per command, loaded only when it is asked for.

A command is a module `fdiv_jax.cli.NAME` with a frozen dataclass `Command`: its fields are the arguments
(read by tyro, their docstrings are the help), and `run(self)` does the work. Beside it there may be a
function `default(arguments)`, which gives a `Command` that the options start from, a mapping `HELP` of
headings to the options that `--help` shows (`--help-all` shows all), and a mapping `SHORT` of short options.
What the user got wrong (a ValueError, TypeError, NotImplementedError or OSError) ends as one line on stderr
and exit code 2; FDIV_JAX_TRACEBACK=1 shows the traceback instead.
"""

import contextlib
import difflib
import importlib
import io
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fdiv_jax.interrupts import hear_interrupts

__all__ = ["COMMANDS", "main", "run_command"]

COMMANDS = {
    "advise": "predict a run from the frozen model: divergence, sigma, step, damage",
    "app": "a web page: explore a divergence, unlearn a concept and watch",
    "attack": "try to bring an unlearned concept back, with a ceiling and a floor",
    "divergences": "list the catalogue: generators, curvatures, conjugates",
    "evaluate": "how much of a concept is gone, what was lost: metrics with intervals",
    "explore": "everything that follows from one generator, e.g. explore 't*log(t)'",
    "export": "write a model, or what tuning changed, for diffusers, A1111 and ComfyUI",
    "launch": "run a command in several processes that make one run together",
    "plan": "what a run takes on chips that are not here: memory, time, cost",
    "reproduce": "theory against measurement: the paper's figures and claims",
    "sample": "draw images from a model at prompts",
    "sweep": "unlearn a concept with many divergences, anchors and seeds",
    "unlearn": "remove a concept from a model",
}

_HEAVY = ("advise", "app", "attack", "evaluate", "reproduce", "sample", "sweep", "unlearn")
"""Commands that run networks here."""
_LONGEST = 4000
"""Characters of a complaint, at most."""
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
    from fdiv_jax.cli._large_pages import ask_for_large_pages
    from fdiv_jax.files import keep_programs

    if argv is None and name in _HEAVY:
        ask_for_large_pages()
    keep_programs()
    return _guarded(lambda: _run(name, rest), ends=argv is None)


def run_command(
    command: type,
    arguments: Sequence[str],
    program: str,
    *,
    default: object = None,
    common: Mapping[str, Sequence[str]] | None = None,
    ends: bool = False,
) -> int:
    """Run a command's dataclass with arguments and return its exit code, as `main` does.

    Args:
        command: the dataclass, see above.
        arguments: without the program's name.
        program: what the help and the messages call it.
        default: an instance that the options start from.
        common: headings and options of the short help.
        ends: the process ends with this command, so that after one Ctrl-C it ignores others.
    """
    return _guarded(lambda: _parsed(command, arguments, program, default, common), program, ends=ends)


def _guarded(work: Callable[[], int], program: str = "fdiv-jax", *, ends: bool = False) -> int:
    """What the work returns, or the exit code of an error that is reported in one line.

    `ends`: the process ends with this work.
    """
    if ends:
        hear_interrupts()
    try:
        with _warnings_in_one_line(program):
            code = work()
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as interrupt:
        if ends:  # a second Ctrl-C would end the interpreter, as it closes down, with another exit code
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        return _fail(str(interrupt) or "interrupted", 130, program)
    except Exception as error:
        told = _out_of_memory(error)
        code = getattr(error, "exit_code", 2 if told or isinstance(error, _USER_ERRORS) else None)
        if code is None or os.environ.get("FDIV_JAX_TRACEBACK"):
            raise
        return _fail(told or str(error) or type(error).__name__, code, program)


def _out_of_memory(error: BaseException) -> str | None:
    """What to do about an error, where it is that memory ran out; None: it is another."""
    text = str(error)
    if isinstance(error, MemoryError) and "are free" in text:  # foreseen, with advice of its own
        return text
    ran_out = "RESOURCE_EXHAUSTED" in text or "Out of memory" in text
    if not isinstance(error, MemoryError) and not (ran_out and isinstance(error, RuntimeError)):
        return None
    asked = re.search(r"(?:allocate|allocating) ([\d.]+ ?\w*)", text)
    needed = f" ({asked[1].strip()} more were asked for)" if asked else ""
    return (
        f"out of memory{needed}: choose fewer or smaller images, a smaller --batch-size or a larger "
        "--accumulation, --remat blocks, fewer trained parameters (--lora.rank), or a model in bfloat16"
    )


def _run(name: str, arguments: list[str]) -> int:
    module = importlib.import_module(f"fdiv_jax.cli.{name}")
    short = getattr(module, "SHORT", {})
    own = arguments.index("--") if "--" in arguments else len(arguments)
    arguments = [*(short.get(word, word) for word in arguments[:own]), *arguments[own:]]
    asked = _help_asked(arguments)
    default = module.default(arguments) if hasattr(module, "default") and not asked else None
    return _parsed(module.Command, arguments, f"fdiv-jax {name}", default, getattr(module, "HELP", None))


def _help_asked(arguments: Sequence[str]) -> bool:
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return any(word in ("-h", "--help", "--help-all", "--help_all") for word in before)


def _parsed(
    command: type,
    arguments: Sequence[str],
    program: str,
    default: object,
    common: Mapping[str, Sequence[str]] | None,
) -> int:
    from fdiv_jax.cli._help import help_page
    from fdiv_jax.cli._options import checked, options_of, registry

    if _help_asked(arguments):
        everything = not {"--help-all", "--help_all"}.isdisjoint(arguments)
        print(help_page(program, command, default, common, everything=everything), end="")
        return 0
    try:
        words = checked(arguments, options_of(command, default))
    except ValueError as error:
        raise ValueError(f"{error}; {program} --help tells more") from None
    import tyro

    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            made: Any = tyro.cli(command, args=words, prog=program, default=default, registry=registry())
    except SystemExit:
        raise ValueError(_one_line(told.getvalue())) from None
    return made.run() or 0


def _one_line(complaint: str) -> str:
    """What the parser says of arguments, without its frames and its heading."""
    lines = [line.strip(" │╭╮╰╯─-") for line in complaint.splitlines()]
    text = " ".join(line for line in lines if line and not line.startswith("For full helptext"))
    return re.sub(r"^Parsing error |^Value error:? ", "", text.partition(" Argument helptext:")[0])


@contextlib.contextmanager
def _warnings_in_one_line(program: str) -> Iterator[None]:
    """Show warnings as messages, without their place in the code, as often as before."""
    from fdiv_jax.terminal import printable

    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: (
        f"{program}: warning: {printable(' '.join(str(message).split()))}\n"
    )
    try:
        yield
    finally:
        warnings.formatwarning = before


def _print_help() -> None:
    width = max(map(len, COMMANDS))
    print("usage: fdiv-jax COMMAND [ARGUMENTS]\n\nDiffusion unlearning with any f-divergence.\n\ncommands:")
    for name, line in COMMANDS.items():
        print(f"  {name:<{width}}  {line}")
    print("\nfdiv-jax COMMAND --help tells a command's arguments; fdiv-jax --version the version.")


def _fail(message: str, code: int = 2, program: str = "fdiv-jax") -> int:
    from fdiv_jax.terminal import printable

    line = " ".join(message[: 4 * _LONGEST].split())
    line = line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."
    print(f"{program}: {printable(line)}", file=sys.stderr)
    return code
