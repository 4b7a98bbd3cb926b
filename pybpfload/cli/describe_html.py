"""The page of ``pybpfload inspect --html``: everything about objects, in one file."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from pybpfload.btf.dump import dump_lines
from pybpfload.cli.describe import describe
from pybpfload.cli.describe_text import summary, tables
from pybpfload.cli.disasm_text import render
from pybpfload.cli.page import Markup, anchor, details, escaped, image, link, page, pre, table
from pybpfload.cli.style import chosen
from pybpfload.cli.table import shorten
from pybpfload.errors import BpfError
from pybpfload.relocate.listing import Lister

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pybpfload.btf import Btf
    from pybpfload.object.spec import ObjectSpec, ProgramSpec
    from pybpfload.relocate.listing import Listing

__all__ = ["html"]

_MOST_INSNS = 100_000  # instructions that are listed, and
_MOST_DRAWN = 20_000  # that are drawn, of a page; of one function at most
_LARGEST = 1000  # for a drawing that can still be read
_MOST_TYPES = 2000
_WIDEST = 500  # characters of a line


def html(specs: Sequence[ObjectSpec]) -> str:
    """Make the page of some objects: self-contained, without scripts, light and dark.

    Of each object: facts, programs with their code, its lines of C and control flow, maps,
    variables, externs, what CO-RE asks of the kernel, and types. Code and types are folded.

    Raises:
        FormatError: The types of an object are damaged.
    """
    views = [_View(spec, number) for number, spec in enumerate(specs)]
    with chosen("never"):
        body = [part for view in views for part in view.parts()]
    title = ", ".join(view.described["object"] for view in views)
    return page(f"{shorten(title)} - pybpfload inspect", body)


class _View:
    """One object on the page.

    Args:
        spec: The object.
        number: Tells its ids from those of the other objects.
    """

    def __init__(self, spec: ObjectSpec, number: int) -> None:
        self.spec = spec
        self.described = describe(spec)
        self.prefix = f"o{number}"
        self.places = {id(f): f"{self.prefix}-f{n}" for n, f in enumerate(spec.functions)}
        # Static functions of several files may have one name: the way leads to the first.
        self.functions = {f.name: self.places[id(f)] for f in reversed(spec.functions)}
        self.maps = {name: f"{self.prefix}-m{n}" for n, name in enumerate(spec.maps)}
        self._lister = Lister(spec)
        self._listed = _MOST_INSNS
        self._drawn = _MOST_DRAWN

    def parts(self) -> Iterator[str]:
        """Its elements, in the order in which they are read."""
        sections = {title: body for title, body in self._sections() if body}
        ids = {title: f"{self.prefix}-{title.lower().replace(' ', '-')}" for title in sections}
        yield f'<h1 id="{self.prefix}">{escaped(self.described["object"])}</h1>'
        yield f"<nav>{' '.join(link(ids[title], title).html for title in sections)}</nav>"
        for title, body in sections.items():
            yield f'<h2 id="{ids[title]}">{escaped(title)}</h2>\n{body}'

    def _sections(self) -> Iterator[tuple[str, str]]:
        one = self.described
        needs = one["needs"]
        yield "Overview", table(("", ""), summary({**one, "needs": {**needs, "kernel": None}}))
        yield "Least kernel", self._least(needs)
        for title, columns, rows in tables(one):
            made = table(columns, ([*self._row(title, columns, row)] for row in rows))
            yield title, made
            if title == "Subprograms":
                yield "Code", "\n".join(map(self._code, self.spec.functions))
        yield "CO-RE relocations", self._core()
        yield "Types", self._types(self.spec.btf)
        yield "Notes", pre(one["notes"])

    def _least(self, needs: dict[str, Any]) -> str:
        if not needs["kernel"]:
            return ""
        rows = [(each["what"], ", ".join(each["whose"])) for each in needs["because"]]
        asks = table(("because of", "which is wanted by"), rows)
        return f"<p>Linux {escaped(needs['kernel'])}</p>\n{asks}"

    def _row(self, title: str, columns: Sequence[str], row: Sequence[Any]) -> Iterator[Any]:
        """Cells, with ways to what they name."""
        for column, cell in zip(columns, row, strict=True):
            if isinstance(cell, list):
                places = {"calls": self.functions, "maps": self.maps}.get(column, {})
                yield _all_linked(places, cell)
            elif column == "program" or (title, column) in _NAMES_OF_FUNCTIONS:
                yield _linked(self.functions, cell)
            elif (title, column) == ("Maps", "name"):
                yield anchor(self.maps[cell], cell) if cell in self.maps else cell
            else:
                yield cell

    def _code(self, function: ProgramSpec) -> str:
        """The code of a function, and its control flow as a drawing."""
        count = len(function.insns)
        self._listed -= count
        if self._listed < 0:
            body = "<p>Not listed: there is too much code; pybpfload disasm shows it.</p>"
        else:
            try:
                listing = self._lister.listing(function)
                lines = (shorten(line, _WIDEST) for line in render(listing, unicode=True))
                flow = details("control flow", self._drawing(listing))
                body = f"{pre(islice(lines, 1, None))}\n{flow}"
            except BpfError as error:
                body = f"<p>Not listed: {escaped(error)}</p>"
        what = "subprogram" if function.is_subprogram else function.section
        about = f"{escaped(what)}, {count} instruction{'s' * (count != 1)}"
        name = f'<code>{escaped(function.name)}</code> <span class="faint">{about}</span>'
        return details(Markup(name), body, name=self.places[id(function)])

    def _drawing(self, listing: Listing) -> str:
        count = len(listing.insns)
        if count > min(_LARGEST, self._drawn):
            return "<p>Not drawn: it is too large; pybpfload disasm --cfg draws it.</p>"
        self._drawn -= count
        try:
            return image(listing.diagram().svg(), f"control flow of {listing.function.name}")
        except BpfError as error:
            return f"<p>Not drawn: {escaped(error)}</p>"

    def _core(self) -> str:
        """What is asked of the kernel's types, and by which functions."""
        found: dict[tuple[str, str, str], tuple[int, list[str]]] = {}
        for function in [*self.described["programs"], *self.described["subprograms"]]:
            for each in function["core_accesses"]:
                asked = (each["type"] or "unknown", each["path"] or "", each["kind"])
                count, names = found.get(asked, (0, []))
                found[asked] = (count + each["count"], [*names, function["name"]])
        rows = (
            (*asked, count, _all_linked(self.functions, names))
            for asked, (count, names) in sorted(found.items())
        )
        return table(("type", "member", "kind", "count", "asked by"), rows)

    def _types(self, btf: Btf | None) -> str:
        if btf is None:
            return ""
        definitions = [
            line
            for definition in self.described["definitions"].values()
            for line in [*definition.splitlines(), ""]
        ]
        lines = dump_lines(btf, btf.own_ids()[:_MOST_TYPES])
        shown = pre(shorten(line.expandtabs(4), _WIDEST) for line in lines)
        rest = max(0, len(btf.own_ids()) - _MOST_TYPES)
        more = f"<p>and {rest} more, which pybpfload btf dump shows</p>" if rest else ""
        used = details("of keys, values, variables and records, in C", pre(definitions[:-1]))
        return f"{used}\n{details('all, by id', shown + more)}"


_NAMES_OF_FUNCTIONS = {("Programs", "name"), ("Subprograms", "name")}


def _linked(places: dict[str, str], name: str) -> Markup:
    """A name, and the way to it if it is on the page."""
    return link(places[name], name) if name in places else Markup(escaped(name))


def _all_linked(places: dict[str, str], names: Sequence[str]) -> Markup | None:
    return Markup(", ".join(_linked(places, name).html for name in names)) if names else None
