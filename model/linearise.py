"""SQL as a sequence of steps, each a keyword or a unit of the database.

FROM is removed with the conditions of its joins (a nested query in it stays, in parentheses),
aliases are resolved, literals are `value` and columns are `table.column`.

    linearise("SELECT count(*) FROM pet AS T1 WHERE T1.age >= 2", pets)
    # ("select", "count", "(", "pet.*", ")", "where", "pet.age", ">", "=", "value")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from model.database import Database
from model.scope import Scope, SetOperation, first_select, from_items, scope
from model.scope import UnparsedError as UnparsedError

# fmt: off
KEYWORDS: tuple[str, ...] = (
    "_UNK", "_EOS",
    "select", "value", "(", ")", "where", "=", ",", "count", "group_by", "order_by", "limit_value",
    ">", "<", "!=", "desc", "asc", "distinct", "and", "or", "not", "in", "like", "between", "is",
    "having", "avg", "max", "min", "sum", "except", "intersect", "union", "-", "+", "/",
)
# fmt: on
"""Everything a step can be besides a unit; `>=` is the two steps `>` `=`, as EditSQL writes it.

All but `/` and `is` occur in SParC as EditSQL prepared it. A product's `*` is the unit `*`.
"""

Steps = Iterator[str]

_INFIX: dict[type[exp.Expression], tuple[str, ...]] = {
    exp.EQ: ("=",),
    exp.NEQ: ("!=",),
    exp.GT: (">",),
    exp.GTE: (">", "="),
    exp.LT: ("<",),
    exp.LTE: ("<", "="),
    exp.Is: ("is",),
    exp.Like: ("like",),
    exp.And: ("and",),
    exp.Or: ("or",),
    exp.Add: ("+",),
    exp.Sub: ("-",),
    exp.Mul: ("*",),
    exp.Div: ("/",),
}
_AGGREGATES: dict[type[exp.Expression], str] = {
    exp.Count: "count",
    exp.Avg: "avg",
    exp.Max: "max",
    exp.Min: "min",
    exp.Sum: "sum",
}
_SET_OPERATIONS: dict[type[exp.Expression], str] = {
    exp.Union: "union",
    exp.Intersect: "intersect",
    exp.Except: "except",
}
_FROM = {"from_", "from", "joins"}
_CLAUSES = {"expressions", "distinct", "where", "group", "having", "order", "limit"} | _FROM


def linearise(query: str, database: Database) -> tuple[str, ...]:
    """The steps of a query over `database`, without `_EOS`.

    Raises `UnparsedError` where the query is not one SELECT, names what the database does not
    have, or says what no step can say (OFFSET, UNION ALL, CASE, functions but the aggregates).
    """
    statements = [one for one in _parse(query) if isinstance(one, exp.Expression)]
    if len(statements) != 1:
        raise UnparsedError(f"it holds {len(statements)} statements, expected one SELECT")
    return tuple(_query(statements[0], database, None))


def _parse(query: str) -> Sequence[object]:
    try:
        for token in sqlglot.tokenize(query, read="sqlite"):
            # sqlglot 25 takes `a ! = b` for NOT a = b; SQLite refuses it
            if token.token_type == sqlglot.TokenType.NOT and token.text == "!":
                raise UnparsedError(f"it does not parse: `!` alone at character {token.start}")
        return sqlglot.parse(query, read="sqlite")
    except SqlglotError as error:
        raise UnparsedError(f"it does not parse: {str(error).splitlines()[0]}") from error


def show(steps: Iterable[str]) -> str:
    """The steps as one line of text, joined by spaces."""
    return " ".join(steps)


def split(line: str, database: Database) -> tuple[str, ...]:
    """The steps that a line shows; a word that begins neither keyword nor unit is `_UNK`."""
    known = {*KEYWORDS, *database.units}
    longest = max(len(unit.split(" ")) for unit in database.units)  # a column may hold spaces
    words, steps = line.split(), []
    while words:
        sizes = range(min(longest, len(words)), 0, -1)
        size = next((size for size in sizes if " ".join(words[:size]) in known), 0)
        steps.append(" ".join(words[:size]) if size else "_UNK")
        words = words[size or 1 :]
    return tuple(steps)


def _query(node: exp.Expression, database: Database, outer: Scope | None) -> Steps:
    if isinstance(node, exp.Subquery):
        yield from ("(", *_query(node.this, database, outer), ")")
    elif isinstance(node, SetOperation):
        yield from _set_operation(node, database, outer)
    else:
        select = first_select(node)
        yield from _select(select, scope(select, database, outer))


def _set_operation(node: SetOperation, database: Database, outer: Scope | None) -> Steps:
    _demand_only(node, {"this", "expression", "distinct", "order", "limit"})
    if not node.args.get("distinct"):
        raise UnparsedError("`ALL` of a set operation has no step")
    left = node.this
    if isinstance(left, exp.Subquery) and isinstance(left.this, SetOperation):
        left = left.this  # sqlglot's parentheses: a chain runs from the left in SQLite anyway
    yield from _query(left, database, outer)
    yield _SET_OPERATIONS[type(node)]
    yield from _query(node.expression, database, outer)
    yield from _ending(node, scope(first_select(node), database, outer))


def _select(node: exp.Select, names: Scope) -> Steps:
    _demand_only(node, _CLAUSES)
    yield "select"
    if node.args.get("distinct"):
        yield "distinct"
    yield from _list(node.expressions, names)
    for item in from_items(node):
        if isinstance(item, exp.Subquery):
            yield from _query(item, names.database, names.outer)
    if where := node.args.get("where"):
        yield from ("where", *_expression(where.this, names))
    if group := node.args.get("group"):
        _demand_only(group, {"expressions"})
        yield from ("group_by", *_list(group.expressions, names))
    if having := node.args.get("having"):
        yield from ("having", *_expression(having.this, names))
    yield from _ending(node, names)


def _ending(node: exp.Expression, names: Scope) -> Steps:
    if order := node.args.get("order"):
        yield from ("order_by", *_list(order.expressions, names))
    if limit := node.args.get("limit"):
        _demand_only(limit, {"expression"})
        yield "limit_value"


def _list(nodes: Iterable[exp.Expression], names: Scope) -> Steps:
    for place, node in enumerate(nodes):
        if place:
            yield ","
        yield from _expression(node, names)


def _expression(node: exp.Expression, names: Scope) -> Steps:
    match node:
        case exp.Column():
            yield from _column(node, names)
        case exp.Star():
            yield names.star
        case exp.Literal() | exp.Null() | exp.Boolean() | exp.Neg(this=exp.Literal()):
            yield "value"
        case exp.Alias():
            yield from _expression(node.this, names)
        case exp.Paren():
            yield from ("(", *_expression(node.this, names), ")")
        case exp.Subquery():
            yield from _query(node, names.database, names)
        case exp.Distinct():
            yield from ("distinct", *_list(node.expressions, names))
        case exp.Ordered():
            yield from _ordered(node, names)
        case exp.Not():
            yield from _negated(node.this, names)
        case _:
            # sqlglot 30 has LIKE negate itself; before, and elsewhere, it stands inside a Not
            yield from _operation(node, names, ("not",) if node.args.get("negate") else ())


def _negated(node: exp.Expression, names: Scope) -> Steps:
    match node:
        case exp.In() | exp.Like() | exp.Between():
            yield from _operation(node, names, ("not",))
        case exp.Is():
            yield from (*_expression(node.this, names), "is", "not")
            yield from _expression(node.expression, names)
        case _:
            yield from ("not", *_expression(node, names))


def _operation(node: exp.Expression, names: Scope, negation: tuple[str, ...]) -> Steps:
    kind = type(node)
    if kind in _AGGREGATES and not node.expressions:
        yield from (_AGGREGATES[kind], "(", *_expression(node.this, names), ")")
    elif kind in _INFIX:
        yield from (*_expression(node.this, names), *negation, *_INFIX[kind])
        yield from _expression(node.expression, names)
    elif isinstance(node, exp.Between):
        yield from (*_expression(node.this, names), *negation, "between")
        yield from (*_expression(node.args["low"], names), "and")
        yield from _expression(node.args["high"], names)
    elif isinstance(node, exp.In):
        yield from (*_expression(node.this, names), *negation, "in", *_choices(node, names))
    else:
        raise UnparsedError(f"`{node.sql(dialect='sqlite')}` has no step")


def _column(node: exp.Column, names: Scope) -> Steps:
    column, alias = node.name.lower(), node.table.lower()
    if isinstance(node.this, exp.Star):
        yield names.whole(alias)
        return
    found = names.find(column, alias)
    if isinstance(found, str):
        yield found
    elif found is not None:
        yield from _expression(*found)
    elif node.this.args.get("quoted") and not alias:
        yield "value"  # SQLite reads "Paris" as a string where no column is called so
    else:
        raise UnparsedError(f"column `{node.sql(dialect='sqlite')}` is in no table of its query")


def _ordered(node: exp.Ordered, names: Scope) -> Steps:
    yield from _expression(node.this, names)
    if (descending := node.args.get("desc")) is not None:
        yield "desc" if descending else "asc"


def _choices(node: exp.In, names: Scope) -> Steps:
    _demand_only(node, {"this", "expressions", "query"})
    if query := node.args.get("query"):
        yield from _query(query, names.database, names)
    else:
        yield from ("(", *_list(node.expressions, names), ")")


def _demand_only(node: exp.Expression, known: set[str]) -> None:
    for name, value in node.args.items():
        if value and name not in known:
            raise UnparsedError(f"`{name.strip('_').upper()}` has no step")
