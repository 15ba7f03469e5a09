"""Modules of this package as they travel into a sandbox: compiled, source or no source."""

import functools
import importlib.util
import marshal
from collections.abc import Callable
from types import CodeType

from appliance.errors import SandboxUnavailable

_UNCHECKED = (1).to_bytes(4, "little") + bytes(8)


@functools.cache
def code(name: str) -> CodeType:
    """Raises SandboxUnavailable if the product is not whole."""
    module = f"{__package__}.{name}"
    spec = importlib.util.find_spec(module)
    read: Callable[[str], CodeType | None] | None = getattr(spec and spec.loader, "get_code", None)
    found = read(module) if read else None
    if found is None:
        raise SandboxUnavailable(f"the module {module} is not whole: install the product anew")
    return found


@functools.cache
def pyc(name: str) -> bytes:
    """As a .pyc file that is not checked against its source (PEP 552)."""
    return importlib.util.MAGIC_NUMBER + _UNCHECKED + marshal.dumps(code(name))
