"""The command ``kvstrata``: one function for each subcommand, grouped here and nowhere else.

What a user did wrong is one sentence on standard error and exit status 2, never a traceback.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from .. import __version__
from ..kvstore.errors import KVStrataError
from .commands import add_to

app = typer.Typer(
    name="kvstrata",
    help="Keep the KV caches of LLM inference engines, and give them back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print(f"kvstrata {__version__}")
        raise typer.Exit


@app.callback(epilog="Example: kvstrata --version")
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """Keep the KV caches of LLM inference engines, and give them back."""


add_to(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ``arguments`` None means this process's own."""
    try:
        app(arguments, prog_name="kvstrata")
    except KVStrataError as error:
        print(f"kvstrata: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt as interrupted:  # while a module was being imported
        raise SystemExit(130) from interrupted


if __name__ == "__main__":
    main()
