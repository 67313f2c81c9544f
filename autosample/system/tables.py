"""Tables: for the terminal (rich), for notebooks, and as Markdown."""

import html
import io
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def make_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: Collection[str],
    last: Sequence[str] | None = None,
    styles: Iterable[str] | None = None,
    title: str | None = None,
) -> "Table":
    """A rich table. Cells are plain text: brackets in them are not markup.

    Args:
        heads: Heads of the columns.
        rows: Rows of cells, one cell per column.
        left: Heads of the left-aligned columns; all others are right-aligned.
        last: Last row, below a line, such as a total.
        styles: One style per row.
        title: Title above the table.
    """
    from rich.table import Table
    from rich.text import Text

    rows = list(rows)
    table = Table(title=title)
    for head in heads:
        table.add_column(Text(head), justify="left" if head in left else "right")
    for row, style in zip(rows, styles or [""] * len(rows), strict=True):
        table.add_row(*map(Text, row), style=style)
    if last is not None:
        table.add_section()
        table.add_row(*map(Text, last), style="bold")
    return table


class Printed(ABC):
    """Something that prints as a table, in terminals and notebooks. `repr` stays short."""

    _width = 140

    @abstractmethod
    def __rich__(self) -> "Table":
        """The table."""

    def _note(self) -> str:
        """A line below the table; empty for none."""
        return ""

    def __str__(self) -> str:
        return "\n".join(filter(None, (as_text(self.__rich__(), self._width), self._note())))

    def _repr_html_(self) -> str:
        return f"{as_html(self.__rich__())}\n<p>{html.escape(self._note())}</p>"


def as_html(table: "Table") -> str:
    """A rich table as an HTML table."""
    columns = table.columns
    lines = [[column.header for column in columns], *zip(*(column.cells for column in columns), strict=True)]
    rows = []
    for i, line in enumerate(lines):
        tag = "td" if i else "th"
        cells = zip(line, columns, strict=True)
        texts = (f'<{tag} style="text-align:{c.justify}">{html.escape(str(cell))}</{tag}>' for cell, c in cells)
        rows.append(f"<tr>{''.join(texts)}</tr>")
    return f"<table>\n{chr(10).join(rows)}\n</table>"


def as_text(table: "RenderableType", width: int) -> str:
    """A rich table as text, for a terminal of `width` columns, without colours."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return cast(io.StringIO, console.file).getvalue().rstrip()


def as_markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int) -> str:
    """A Markdown table; the first `left` columns are aligned left, the others right."""
    rule = ["---" if i < left else "---:" for i in range(len(heads))]
    cells = [[cell.replace("|", r"\|") for cell in row] for row in (heads, *rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (cells[0], rule, *cells[1:]))
