"""Scopes of roles and keys, and the checks that require a scope or a role."""

from collections.abc import Iterable, Sequence

from appliance.domain.users import Principal, Role, Scope
from appliance.errors import Forbidden, InvalidInput

_VIEWER_SCOPES = frozenset({Scope.TASKS_READ.value, Scope.KEYS.value})
_ALL_SCOPES = frozenset({Scope.ALL.value})


def scopes_of_role(role: Role) -> frozenset[str]:
    """The scopes of a logged-in user with this role."""
    return _VIEWER_SCOPES if role is Role.VIEWER else _ALL_SCOPES


def scopes_of_key(role: Role, scopes: Iterable[str]) -> frozenset[str]:
    """The effective scopes of a key: its own, limited to those of its user's role."""
    of_key, of_role = frozenset(scopes), scopes_of_role(role)
    if Scope.ALL in of_role:
        return of_key
    return of_role if Scope.ALL in of_key else of_key & of_role


def grant_scopes(principal: Principal, requested: Sequence[str]) -> tuple[str, ...]:
    """The scopes of a new key: those requested, or all of the principal's if none are.

    Raises InvalidInput for an unknown scope, Forbidden for one that the principal lacks.
    """
    for scope in requested:
        if scope not in set(Scope):
            known = ", ".join(sorted(Scope))
            raise InvalidInput.at("scopes", f"{scope[:40]!r} is unknown; choose from {known}")
        if not _may_grant(principal, Scope(scope)):
            raise Forbidden(
                f"the scope {scope!r} can't be granted: you do not have it",
                details={"scope": scope},
            )
    return tuple(sorted(set(requested) or principal.scopes))


def require_chat(principal: Principal) -> None:
    """Raises Forbidden unless the principal has the scope `chat` or `tasks:write`."""
    require_scope(principal, Scope.CHAT)


def require_scope(principal: Principal, scope: Scope) -> None:
    """Raises Forbidden, with the scope in its details, if the principal lacks it."""
    if not principal.may(scope):
        raise Forbidden(f"this needs the scope {scope.value!r}", details={"scope": scope.value})


def require_role(principal: Principal, role: Role) -> None:
    """Raises Forbidden, with the role in its details, if the principal's user has another."""
    if principal.user.role is not role:
        raise Forbidden(f"this needs the role {role.value!r}", details={"role": role.value})


def is_administrator(principal: Principal) -> bool:
    """Whether the principal may act on what belongs to others: by its role and by its scopes."""
    return principal.user.role is Role.ADMIN and principal.may(Scope.ADMIN)


def _may_grant(principal: Principal, scope: Scope) -> bool:
    return is_administrator(principal) if scope is Scope.ADMIN else principal.may(scope)
