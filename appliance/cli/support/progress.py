"""Progress of long steps: one updated line on a terminal, plain lines elsewhere."""

import sys
import time

import click

_EVERY_S = 0.1
_BAR = 24
_UNIT = 1000


class ProgressLine:
    """Called with (step, bytes done, total bytes or None); `end` completes the line."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._step = ""
        self._began = 0.0
        self._first = 0
        self._shown = 0.0

    def __call__(self, step: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if step != self._step:
            self.end()
            self._step, self._began, self._first = step, now, done
            if not self._terminal:
                click.echo(f"{step} …", err=True)
        elif now - self._shown < _EVERY_S and done != total:
            return
        self._shown = now
        if self._terminal:
            click.echo("\r\x1b[K" + self._line(done, total, now), nl=False, err=True)

    def end(self) -> None:
        """Finish the line of the last step."""
        if self._terminal and self._step:
            click.echo("", err=True)
        self._step = ""

    def _line(self, done: int, total: int | None, now: float) -> str:
        seconds = now - self._began
        rate = f"  {format_size((done - self._first) / seconds)}/s" if seconds > _EVERY_S else ""
        if not total:
            return f"{self._step}  {format_size(done)}{rate}"
        full = min(done * _BAR // total, _BAR)
        bar = "█" * full + "·" * (_BAR - full)
        return f"{self._step}  {bar} {done * 100 // total:3d} %  {format_size(total)}{rate}"


def format_size(count: float) -> str:
    """Format a byte count in decimal units."""
    for unit in ("B", "kB", "MB"):
        if count < _UNIT:
            return f"{count:.0f} {unit}"
        count /= _UNIT
    return f"{count:.1f} GB"
