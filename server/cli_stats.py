"""``kvstrata stats``: what is in a store directory."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from ..kvstore.identity import Identity
from ..kvstore.inspection import inspect
from ..kvstore.settings import Settings
from ..kvstore.stats import TierStats
from ..kvstore.units import format_size
from .cli_ground import Where, say, say_json
from .cli_words import SHORT, digest, layout_words, tenant


def stats(where: Where, *, as_json: bool) -> None:
    """Print tiers, identities and settings."""
    settings = where.settings()
    with inspect(settings) as store:
        # what serves loads and saves is another process's memory; this one's says nothing
        tiers = [tier for tier in store.stats().tiers if tier.name != "host"]
        identities = store.identities()
    if as_json:
        say_json(_as_object(settings, tiers, identities))
        return
    say(f"The store in {settings.dir}", _tier_table(tiers))
    say(_identity_table(identities) if identities else "Nothing was ever stored in it.")
    say(_settings_table(settings))


def _as_object(
    settings: Settings, tiers: Sequence[TierStats], identities: Sequence[Identity]
) -> dict[str, object]:
    return {
        "dir": str(settings.dir),
        "stripes": [str(directory) for directory in settings.slab_dirs],
        "blocks": sum(tier.blocks for tier in tiers),
        "payload_bytes": sum(tier.payload_bytes for tier in tiers),
        "tiers": [
            {
                "name": tier.name,
                "capacity_bytes": tier.capacity_bytes,
                "used_bytes": tier.used_bytes,
                "payload_bytes": tier.payload_bytes,
                "blocks": tier.blocks,
                "degraded": tier.degraded,
            }
            for tier in tiers
        ],
        "identities": [_identity_object(identity) for identity in identities],
        "settings": [setting._asdict() for setting in settings.describe()],
    }


def _identity_object(identity: Identity) -> dict[str, object]:
    return {
        "root": identity.root.hex(),
        "tenant": identity.tenant,
        "weights": identity.weights,
        "config": identity.config,
        "adapter": identity.adapter,
        "producer": identity.producer,
        "epoch": identity.epoch,
        "block_tokens": identity.layout.block_tokens,
        "layout": layout_words(identity.layout),
    }


def _tier_table(tiers: Sequence[TierStats]) -> Table:
    table = Table("tier", box=box.SIMPLE_HEAD, title="Tiers", title_justify="left")
    for name in ("blocks", "payload", "pages in use", "of"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for tier in tiers:
        sizes = tier.payload_bytes, tier.used_bytes, tier.capacity_bytes
        table.add_row(
            tier.name, str(tier.blocks), *map(format_size, sizes), tier.degraded or "working"
        )
    return table


def _identity_table(identities: Sequence[Identity]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="Identities", title_justify="left")
    table.add_column("root", no_wrap=True)
    for name in ("tenant", "config", "producer", "layout"):
        table.add_column(name, overflow="fold")
    for each in identities:
        table.add_row(
            each.root.hex()[:SHORT],
            tenant(each.tenant),
            digest(each.config),
            digest(each.producer or "any"),
            layout_words(each.layout),
        )
    return table


def _settings_table(settings: Settings) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="Settings in force here", title_justify="left")
    for name in ("setting", "value", "from"):
        table.add_column(name, overflow="fold")
    for setting in settings.describe():
        table.add_row(*setting)
    return table
