"""Programs that open their standard streams by name; each prints `abc`, its input, and `e`."""

import shutil

import pytest

from appliance.domain.execution import RunRequest, SandboxFile
from tests.support.sandbox import GENEROUS

_PYTHON = """
import os
text = open('/dev/stdin').read()
assert os.readlink('/dev/fd') and text == 'abc', text
open('/dev/stdout', 'w').write(text)
open('/dev/fd/2', 'w').write('e')
"""
_NODE = """
const fs = require('fs');
fs.writeFileSync('/dev/stdout', fs.readFileSync('/dev/stdin', 'utf8'));
fs.writeFileSync('/dev/stderr', 'e');
"""
_SHELL = "cat /dev/fd/0 > /dev/fd/1; printf e > /dev/stderr"
_C = r"""
#include <stdio.h>
int main(void) {
    char text[9] = "";
    FILE *in = fopen("/dev/stdin", "r"), *out = fopen("/dev/stdout", "w"), *err;
    if (!in || !out || !(err = fopen("/dev/stderr", "a"))) return 1;
    fgets(text, sizeof text, in);
    fputs(text, out);
    fputs("e", err);
    return 0;
}
"""
_BUILD_C = "cc -o /tmp/streams -x c streams.c && exec /tmp/streams"

PROGRAMS = {
    "python": ("python", "-c", _PYTHON),
    "node": ("node", "-e", _NODE),
    "sh": ("sh", "-c", _SHELL),
    "cc": ("sh", "-c", _BUILD_C),
}


def stream_request(name: str) -> RunRequest:
    """The run of one of PROGRAMS; the test is skipped where this machine lacks its tool."""
    if name not in ("python", "sh") and shutil.which(name, path="/usr/bin:/bin") is None:
        pytest.skip(f"needs {name}: it is not on this machine")
    files = (SandboxFile("streams.c", _C.encode()),) if name == "cc" else ()
    return RunRequest(PROGRAMS[name], files=files, stdin=b"abc", limits=GENEROUS)
