"""What each role may do, and what a key of that role may do at most."""

from collections.abc import Iterable, Sequence

from appliance.domain.users import Principal, Role, Scope
from appliance.errors import Forbidden, InvalidInput

_VIEWER = frozenset({Scope.TASKS_READ.value, Scope.KEYS.value})
_EVERYTHING = frozenset({Scope.ALL.value})


def role_scopes(role: Role) -> frozenset[str]:
    """The scopes of a user of this role who is logged in."""
    return _VIEWER if role is Role.VIEWER else _EVERYTHING


def key_scopes(role: Role, scopes: Iterable[str]) -> frozenset[str]:
    """What a key can really do: its own scopes, within those of its user's role."""
    of_key, of_role = frozenset(scopes), role_scopes(role)
    if Scope.ALL in of_role:
        return of_key
    return of_role if Scope.ALL in of_key else of_key & of_role


def granted(principal: Principal, asked: Sequence[str]) -> tuple[str, ...]:
    """The scopes for a new key: those asked for, or the maker's own if none are.

    Raises InvalidInput for an unknown scope, Forbidden for one that the maker lacks.
    """
    for scope in asked:
        if scope not in set(Scope):
            known = ", ".join(sorted(Scope))
            raise InvalidInput.at("scopes", f"{scope[:40]!r} is unknown; choose from {known}")
        if not principal.may(Scope(scope)):
            raise Forbidden(
                f"a key can't be given the scope {scope!r}: you don't have it yourself",
                details={"scope": scope},
            )
    return tuple(sorted(set(asked) or principal.scopes))


def require_chat(principal: Principal) -> None:
    """Raises Forbidden unless the principal may have a model write: who may have tasks may chat."""
    if not principal.may(Scope.TASKS_WRITE):
        require(principal, Scope.CHAT)


def require(principal: Principal, scope: Scope) -> None:
    """Raises Forbidden, which names the scope, if the principal lacks it."""
    if not principal.may(scope):
        raise Forbidden(f"this needs the scope {scope.value!r}", details={"scope": scope.value})
