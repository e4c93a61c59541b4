"""``kvstrata verify``: read everything that is stored and forget what is damaged."""

from dataclasses import asdict

from ..kvstore.inspection import inspect
from ..kvstore.scrub import Report
from ..kvstore.units import format_size
from .cli_ground import Where, advancing, say, say_json


def verify(where: Where, *, as_json: bool) -> bool:
    """Print the report; whether everything could be read and was whole."""
    with inspect(where.settings()) as store, advancing("Verifying") as advance:
        report = store.verify(advance)
    is_sound = not report.damaged and not report.unreadable
    if as_json:
        say_json({**asdict(report), "sound": is_sound})
    else:
        say(in_words(report))
    return is_sound


def in_words(report: Report) -> str:
    """A report for people."""
    whole = f"{report.frames} frames with {format_size(report.nbytes)} were read and are whole."
    damaged = f" {report.damaged} were damaged and are forgotten." if report.damaged else ""
    unread = f" {report.unreadable} are out of reach." if report.unreadable else ""
    return whole + damaged + unread
