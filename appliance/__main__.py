"""Entry point of `monkey-coder`, `python -m appliance` and the executable."""

import sys
from multiprocessing import freeze_support

from appliance.processes import CHILD_COMMAND, die_with_parent, frozen

_CHILD_ARGS = 3


def main() -> None:
    """Run a child process's module, or the command line."""
    freeze_support()
    if frozen():
        # The executable's first process only unpacks and waits: killing it must end this one.
        die_with_parent()
    if len(sys.argv) >= _CHILD_ARGS and sys.argv[1] == CHILD_COMMAND:
        from appliance.plugins import run_child

        sys.exit(run_child(sys.argv[2], sys.argv[3:]))
    from appliance.cli import run

    run()


if __name__ == "__main__":
    main()
