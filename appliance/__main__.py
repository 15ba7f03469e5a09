"""Entry point of `monkey-coder`, `python -m appliance` and the executable."""

import gc
import sys

from appliance.processes import CHILD_COMMAND, die_with_parent, is_frozen, run_child_main

_CHILD_ARGS = 3


def main() -> None:
    """Run a child process's module, or the command line."""
    if is_frozen():
        # The parent is the bootstrap process, which only unpacks and waits: exit with it.
        die_with_parent()
    if len(sys.argv) >= _CHILD_ARGS and sys.argv[1] == CHILD_COMMAND:
        sys.exit(_run_child(sys.argv[2], sys.argv[3:]))
    # Imports create no garbage; `run_async` turns the collector on again.
    gc.disable()
    from multiprocessing import freeze_support

    from appliance.cli import run

    freeze_support()
    run()


def _run_child(module: str, argv: list[str]) -> int:
    if "@" not in module:
        # Skip the plugin loader: some of these processes must stay small.
        return run_child_main(module, argv)
    from appliance.plugins import run_child

    return run_child(module, argv)


if __name__ == "__main__":
    main()
