"""What a name means inside one SELECT: which unit of the database a column is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from sqlglot import exp

from model.database import Database

SetOperation = exp.Union | exp.Intersect | exp.Except  # `exp.SetOperation` is younger than 25.0


class UnparsedError(ValueError):
    """The query has no form as steps; the message says why, without naming the query."""


@dataclass(frozen=True)
class Scope:
    """The sources of one SELECT by alias, in the order of FROM, and the aliases it gives."""

    database: Database
    sources: tuple[tuple[str, str | Scope], ...]
    """Alias -> the name of a table, or the scope of a nested query."""
    projections: Mapping[str, exp.Expression]
    """Alias -> the expression of the select list that it stands for."""
    outer: Scope | None = None

    @property
    def tables(self) -> frozenset[str]:
        """Tables that FROM names, those of nested queries in it among them."""
        return frozenset().union(
            *(
                source.tables if isinstance(source, Scope) else {source}
                for _, source in self.sources
            )
        )

    @property
    def star(self) -> str:
        """The unit that a bare `*` is: `table.*` over a single table, else `*`."""
        return f"{next(iter(self.tables))}.*" if len(self.tables) == 1 else "*"

    @property
    def unaliased(self) -> Scope:
        """This scope without the aliases it gives, which end where they would name themselves."""
        return replace(self, projections={})

    def whole(self, alias: str) -> str:
        """The unit that `alias.*` is."""
        for name, source in self.sources:
            if name == alias:
                return source.star if isinstance(source, Scope) else f"{source}.*"
        raise UnparsedError(f"`{alias}` is neither a table nor an alias of its FROM")

    def find(self, column: str, alias: str = "") -> str | tuple[exp.Expression, Scope] | None:
        """The unit a column is, or the aliased expression it stands for and where; None if unknown.

        Without `alias` the sources are asked in the order of FROM, then the aliases of the select
        list, then the query around this one.
        """
        for name, source in self.sources:
            found = self._inside(source, column) if alias in ("", name) else None
            if found is not None:
                return found
        if not alias and column in self.projections:
            return self.projections[column], self.unaliased
        return self.outer.find(column, alias) if self.outer else None

    def _inside(
        self, source: str | Scope, column: str
    ) -> str | tuple[exp.Expression, Scope] | None:
        if isinstance(source, Scope):  # what it calls its columns comes before what they are
            if column in source.projections:
                return source.projections[column], source.unaliased
            return replace(source, outer=None).find(column)
        unit = f"{source}.{column}"
        return unit if unit in self.database.units else None


def scope(select: exp.Select, database: Database, outer: Scope | None = None) -> Scope:
    """The scope of a SELECT; raises `UnparsedError` at a table that the database does not have."""
    sources = tuple(_source(node, database, outer) for node in from_items(select))
    named = (node for node in select.expressions if isinstance(node, exp.Alias))
    return Scope(database, sources, {node.alias.lower(): node.this for node in named}, outer)


def from_items(select: exp.Select) -> Iterator[exp.Expression]:
    """The tables and nested queries of FROM and its joins, in order."""
    start = select.args.get("from_") or select.args.get("from")  # `from` in sqlglot 25
    for node in (start, *(select.args.get("joins") or ())):
        if node is not None:
            yield from _flat(node.this)


def _flat(node: exp.Expression) -> Iterator[exp.Expression]:
    if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Table):
        node = node.this  # the parentheses of `FROM (a JOIN b)`
    yield node
    for join in node.args.get("joins") or ():
        yield from _flat(join.this)


def first_select(query: exp.Expression) -> exp.Select:
    """The leftmost SELECT of a query, a set operation or a parenthesis around either."""
    while not isinstance(query, exp.Select):
        if not isinstance(query, exp.Subquery | SetOperation):
            raise UnparsedError(f"`{type(query).__name__.upper()}` is no SELECT")
        query = query.this
    return query


def _source(
    node: exp.Expression, database: Database, outer: Scope | None
) -> tuple[str, str | Scope]:
    if isinstance(node, exp.Subquery):
        return node.alias.lower(), scope(first_select(node), database, outer)
    table = node.name.lower()
    if not isinstance(node, exp.Table) or f"{table}.*" not in database.units:
        raise UnparsedError(f"table `{node.name}` is not in database `{database.name}`")
    return (node.alias or table).lower(), table
