"""Modules of the product as bytecode, for programs inside a sandbox; needs no sources."""

import functools
import importlib.util
import marshal
from collections.abc import Callable, Iterable
from types import CodeType

from appliance.errors import SandboxUnavailable

_UNCHECKED_HASH = (1).to_bytes(4, "little") + bytes(8)


@functools.cache
def module_code(module: str) -> CodeType:
    """Raises SandboxUnavailable if the installation lacks the module."""
    spec = importlib.util.find_spec(module)
    read: Callable[[str], CodeType | None] | None = getattr(spec and spec.loader, "get_code", None)
    code = read(module) if read else None
    if code is None:
        raise SandboxUnavailable(f"the module {module} is missing: reinstall the product")
    return code


@functools.cache
def module_pyc(module: str) -> bytes:
    """The content of a .pyc file that is not checked against its source (PEP 552).

    It is for a Python of the server's own version. Raises SandboxUnavailable.
    """
    return importlib.util.MAGIC_NUMBER + _UNCHECKED_HASH + marshal.dumps(module_code(module))


def pyc_files(modules: Iterable[str]) -> dict[str, bytes]:
    """Each module as a file named after its last part, such as init.pyc."""
    return {f"{module.rpartition('.')[2]}.pyc": module_pyc(module) for module in modules}
