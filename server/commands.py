"""The subcommands as typer sees them: their options and their help, and nothing that costs time.

What a command needs is imported when it runs, so that ``kvstrata --help`` is quick: neither the
store nor an engine is loaded for it.
"""

from pathlib import Path
from typing import Annotated

import typer

Dir = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="The store's directory (default: what the setting dir says).",
        show_default=False,
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="A settings file.", show_default=False),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Root = Annotated[
    str,
    typer.Option(
        "--identity",
        metavar="ROOT",
        help="The beginning of the identity's root, as `kvstrata stats` shows it "
        "(default: the only one there is).",
        show_default=False,
    ),
]
_TOKENS = "FILE"
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True}

Prompt = Annotated[
    str,
    typer.Option(
        "--tokens",
        metavar=_TOKENS,
        help="Token numbers: a JSON list, or with white space between; - for standard input.",
    ),
]
DropPrompt = Annotated[
    str | None,
    typer.Option(
        "--tokens",
        metavar=_TOKENS,
        help="The last full block of this prompt, and all that continues it; blocks before it "
        "stay, for other prompts share them.",
        show_default=False,
    ),
]
DropKey = Annotated[
    str | None,
    typer.Option(
        "--key",
        metavar="HEX",
        help="The block with this key, and all that continues it.",
        show_default=False,
    ),
]
DropTag = Annotated[
    str | None,
    typer.Option(
        "--tag",
        metavar="TAG",
        help="All that has this tag, in every identity of the tenant.",
        show_default=False,
    ),
]
DropTenant = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        metavar="NAME",
        help="All that this tenant has; an empty name for what has no tenant.",
        show_default=False,
    ),
]

bundle_app = typer.Typer(
    name="bundle",
    help="Carry stored prompts to another machine, in one checked file.",
    epilog="Example: kvstrata bundle export manual.kvb --all",
    no_args_is_help=True,
)


def stats(*, directory: Dir = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show what a store has: tiers, blocks, identities, and the settings in force."""
    from . import cli_stats
    from .cli_ground import Where

    cli_stats.stats(Where(directory, config), as_json=as_json)


def explain(
    *,
    tokens: Prompt,
    identity: Root = "",
    directory: Dir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Say how far a prompt is stored, and why no further."""
    from . import cli_explain
    from .cli_ground import Where

    where = Where(directory, config)
    cli_explain.explain(where, source=tokens, prefix=identity, as_json=as_json)


def verify(*, directory: Dir = None, config: Config = None, as_json: AsJson = False) -> None:
    """Read everything that is stored, and forget what is damaged.

    The exit status is 1 where something was damaged or could not be read.
    """
    from . import cli_verify
    from .cli_ground import Where

    if not cli_verify.verify(Where(directory, config), as_json=as_json):
        raise typer.Exit(1)


def drop(  # noqa: PLR0913 - an option each
    *,
    tokens: DropPrompt = None,
    key: DropKey = None,
    tag: DropTag = None,
    tenant: DropTenant = None,
    identity: Root = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Zero the payload, too.")] = False,
    is_confirmed: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    directory: Dir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Drop blocks for good, and print the receipt.

    Say one of --tokens, --key, --tag and --tenant.

    The exit status is 1 where a medium was out of reach; it is told before it serves again.
    """
    from . import cli_drop
    from .cli_ground import Where

    is_complete = cli_drop.drop(
        Where(directory, config),
        cli_drop.Target(tokens, key, tag, tenant),
        prefix=identity,
        overwrite=overwrite,
        is_confirmed=is_confirmed,
        as_json=as_json,
    )
    if not is_complete:
        raise typer.Exit(1)


@bundle_app.command(
    "export", epilog="Example: kvstrata bundle export manual.kvb --tokens manual.json"
)
def bundle_export(  # noqa: PLR0913 - an option each
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The bundle, a new file.")],
    *,
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--tokens",
            metavar=_TOKENS,
            help="A prompt's token numbers; may be given several times.",
            show_default=False,
        ),
    ] = None,
    is_all: Annotated[
        bool, typer.Option("--all", help="Everything that the identity has.")
    ] = False,
    identity: Root = "",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    directory: Dir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Write what is stored of some prompts, or of an identity, into one file."""
    if bool(tokens) == is_all:
        raise typer.BadParameter("say what to export: --tokens, or --all")
    from . import cli_bundle
    from .cli_ground import Where

    cli_bundle.export_to(
        Where(directory, config),
        file,
        prefix=identity,
        sources=None if is_all else tokens,
        force=force,
        as_json=as_json,
    )


@bundle_app.command("import", epilog="Example: kvstrata bundle import manual.kvb --trust")
def bundle_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A bundle.")],
    *,
    is_trusted: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Believe the bundle: who made it decides what the model makes of its texts.",
        ),
    ] = False,
    create: Annotated[
        bool, typer.Option("--create", help="Make a store where there is none.")
    ] = False,
    directory: Dir = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Read a bundle into the store; keys are derived anew, and a damaged file stores nothing.

    The exit status is 1 where some of it found no room.
    """
    from . import cli_bundle
    from .cli_ground import Where

    is_whole = cli_bundle.import_from(
        Where(directory, config), file, is_trusted=is_trusted, create=create, as_json=as_json
    )
    if not is_whole:
        raise typer.Exit(1)


def demo(*, as_json: AsJson = False) -> None:
    """Show on a real model what the store saves, and that it changes no answer."""
    from .demo import demo as show

    show(as_json=as_json)


def bench(context: typer.Context) -> None:
    """Measure the store on this machine; kvstrata bench --help says what."""
    from .bench import bench_app

    bench_app(context.args, prog_name="kvstrata bench")


def add_to(app: typer.Typer) -> None:
    """Hook every subcommand in."""
    app.command(epilog="Example: kvstrata stats --dir /var/cache/kvstrata")(stats)
    app.command(epilog="Example: kvstrata explain --tokens prompt.json")(explain)
    app.command(epilog="Example: kvstrata verify --json")(verify)
    app.command(epilog="Example: kvstrata drop --tag contract-17 --overwrite")(drop)
    app.add_typer(bundle_app)
    app.command(epilog="Example: kvstrata demo --json")(demo)
    app.command(context_settings=_PASSED_ON, add_help_option=False)(bench)
