"""The films on the page of a run, which `qgf evaluate --videos` has left in its folder."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from qgf_jax.report import page
from qgf_jax.runs.run import Run

_NAME = re.compile(r"task(\d+)_(.+)_episode(\d+)")


class Films(NamedTuple):
    """The films of a run, which are beside its page, in `videos`."""

    paths: Sequence[Path]

    @classmethod
    def of(cls, run: Run) -> "Films":
        """Those in a run folder."""
        found = (run.workdir / "report" / "videos").glob("*.gif")
        return cls(sorted(path for path in found if path.is_file()))

    def copy(self, folder: Path) -> None:
        """Puts them into `videos` of a report elsewhere. Raises `OSError`."""
        for path in self.paths:
            copy = folder / "videos" / path.name
            if path.parent.resolve() != copy.parent.resolve():
                copy.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, copy)

    def html(self) -> str:
        """Films of the same start beside each other, by method and weight."""
        starts: dict[tuple[int, int], list[tuple[Any, str, str]]] = {}
        for path in self.paths:
            if found := _NAME.fullmatch(path.stem):
                order, words = _method(found[2])
                starts.setdefault((int(found[1]), int(found[3])), []).append(
                    (order, words, path.name)
                )
        parts = []
        for (task, episode), some in sorted(starts.items()):
            title = f"task {task}, episode {episode}"
            figures = "".join(_film(name, words, title) for _, words, name in sorted(some))
            body = f'<div class="films">{figures}</div>'
            parts.append(page.details(f"{title}: {len(some)} films", body, is_open=not parts))
        return "".join(parts)


def _method(name: str) -> tuple[tuple[bool, str, float], str]:
    """Where a film comes among those of its start, and what it is called."""
    method, _, weight = name.partition("_weight")
    words = f"{method}, weight {weight}" if weight else method
    try:
        return (bool(weight), method, float(weight or 0)), words
    except ValueError:
        return (True, method, 0.0), words


def _film(name: str, words: str, title: str) -> str:
    address, about = page.text(f"videos/{quote(name)}"), page.text(f"{words}, {title}")
    return (
        f'<figure><img loading="lazy" src="{address}" alt="{about}">'
        f"<figcaption>{page.text(words)}</figcaption></figure>"
    )
